"""The ways to curate that benchmarks/pipeline.py compares, each run in a fresh process of its own.

    python -m benchmarks.pipeline_variants VARIANT WORK [--part I/N]      one JSON line: when it was ready, when it
    ended

    bare       one loop over the units: decode, VAD, cut, WhisperX, copilot, Rover; nothing is encoded or written
    ray-N      `run_ray`, the pipeline itself with N workers per stage: isolated decoder, shards, ledgers
    user-T     what one writes today, with T threads: per file whisperX's load_model and transcribe at its defaults,
    then
               FunASR's generate per segment, then jiwer; decoding by PyAV, as whisperx.load_audio wants an ffmpeg
               program

Every process loads its engines, runs them once on WORK/warm.flac, marks itself ready and waits for the others. So work
counts from the moment the last is ready, with nothing done before, and start-up is what came before that.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from operators.clip import SAMPLE_RATE, Clip, Hypothesis, Piece, Recording, Span, Unit, clip_id
from operators.storage.fetch import Fetch, open_store
from pipeline import engines, ledger, recipe
from pipeline.config import Settings, load
from pipeline.plan import declared_samples, load_plan
from stages.base import Resources, Stage

WARM_SECONDS = 12
WARM_TEXTS = {"zh": "早上好 good morning", "en": "good morning", "yue": "早晨"}
"""Each language's tables are loaded when first needed."""


def settings_of(work: Path, workers: int = 1) -> Settings:
    """The settings that every variant shares, with `workers` per stage."""
    overrides = json.loads((work / "settings.json").read_text())
    for stage in ("segment", "transcribe", "copilot", "rover", "write_shard"):
        overrides += [f"execution.{stage}.max_workers={workers}", f"execution.{stage}.min_workers={workers}"]
    return load(None, [*overrides, f"output={work / 'run'}"])


def wait_until_ready(folder: Path, workers: int) -> None:
    while sum(1 for _ in folder.iterdir()) < workers:
        time.sleep(0.01)


class CpuOfWork(threading.Thread):
    """CPU time from the moment when all workers were ready: of this process and all below it, and of the whole machine.

    Sampled each second, because Ray's workers are gone when the last outcome has come. A sample that comes seconds late
    says that the machine stood still, or had no time for us.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__(daemon=True)
        self._longest_gap = 0.0
        self.taken: list[tuple[float, float, float]] = []
        """by sample: the time, and seconds of processor time so far, ours and the whole machine's"""
        self._folder, self._workers = folder, workers
        self._seconds: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._before: dict[int, float] = {}
        self._own = self._machine = 0.0
        self.start()

    def run(self) -> None:
        wait_until_ready(self._folder, self._workers)
        self._own, self._machine = self._sample(), machine_cpu_seconds()
        self._before = dict(self._seconds)
        while True:
            before = time.monotonic()
            time.sleep(1.0)
            self.taken.append((time.time(), self._sample(), machine_cpu_seconds()))
            self._longest_gap = max(self._longest_gap, time.monotonic() - before)

    def read(self) -> dict[str, Any]:
        found = {
            "end": time.time(),
            "cpu": self._sample() - self._own,
            "machine_cpu": machine_cpu_seconds() - self._machine,
            "longest_gap": self._longest_gap,
        }
        by_process: defaultdict[str, float] = defaultdict(float)
        for pid, seconds in self._seconds.items():
            by_process[self._names[pid]] += seconds - self._before.get(pid, 0.0)
        return found | {"cpu_by_process": dict(by_process)}

    def _sample(self) -> float:
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system
                # Ray's workers name themselves after what they run, once they run it.
                self._names[process.pid] = _name(process.cmdline()) or process.name()
        return sum(self._seconds.values())


def _name(command: list[str]) -> str:
    """What a process is, as people say it: Ray's title of a worker, or the program and module that it runs."""
    words = " ".join(command)
    if words.startswith("ray::"):
        return command[0]
    for known in ("operators.audio.isolated", "raylet", "gcs_server", "dashboard", "log_monitor", "runtime_env"):
        if known in words:
            return known
    return "driver" if "benchmarks" in words else ""


def machine_cpu_seconds() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def digest(heard: list[tuple[str, list[str]]]) -> str:
    """A name for what was heard in each clip, in any order."""
    return hashlib.sha256(json.dumps(sorted(heard)).encode()).hexdigest()[:16]


class Clock:
    """Seconds by name of step."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - started


# --- the bare loop ----------------------------------------------------------------------------------------------------


def bare(work: Path, ready: Callable[[], None], part: tuple[int, int]) -> dict[str, Any]:
    from operators.agreement import AgreementJudge
    from operators.audio.decode import decode
    from operators.speech.segments import cut

    settings = settings_of(work)
    vad, asr = engines.vad(settings.vad)(), engines.recogniser(settings.asr, threads=1)()
    copilot, rover = (
        engines.copilots(settings.copilot, threads=1)(),
        AgreementJudge(settings.rover),
    )
    cutting = settings.cut
    clock, heard = Clock(), list[tuple[str, list[str]]]()

    def curate(recordings: list[tuple[str, str]]) -> None:
        clips: list[np.ndarray] = []
        names: list[str] = []
        cut_from: list[str] = []
        for recording_id, path in recordings:
            with clock("decode"):
                pcm = decode(path).pcm
            with clock("VAD"):
                speech = vad.speech(pcm)
            with clock("cut"):
                spans = [span for span, _ in cut(speech, pcm, cutting).clips]
            clips += [pcm[span.start : span.end] for span in spans]
            names += [clip_id(recording_id, span) for span in spans]
            cut_from += [recording_id] * len(spans)
        if not clips:
            return
        with clock("ASR"):
            first = asr.transcribe(clips, [None] * len(clips), cut_from)
        languages = [hypothesis.language for hypothesis in first]
        with clock("copilot"):
            others = copilot.transcribe(clips, languages)
        with clock("Rover"):
            for name, pcm, one, other in zip(names, clips, first, others, strict=True):
                assert other is not None
                agreement = rover.measure(one, other, one.language, len(pcm) / SAMPLE_RATE)
                rover.judge(agreement, (one, *other), one.language)
                heard.append((name, [one.text, *(hypothesis.text for hypothesis in other)]))

    curate([("warm", str(work / "warm.flac"))])
    for language, text in WARM_TEXTS.items():
        rover.measure(
            Hypothesis(engine="", text=text), [Hypothesis(engine="", text=f"{text} 天 zorbly")], language, seconds=1.0
        )
    clock.seconds.clear()
    heard.clear()
    units = list(load_plan(open_store(str(work / "plan"))))[part[0] :: part[1]]
    ready()
    for unit in units:
        assert all(piece.start == 0 and piece.end is None for piece in unit.pieces), (
            "recordings are shorter than units here"
        )
        curate([(piece.recording.recording_id, piece.recording.uri) for piece in unit.pieces])
    return {"busy": dict(clock.seconds), "clips": len(heard), "heard": digest(heard)}


# --- the pipeline -----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Warmed:
    """A stage that has run once when it opens, marks itself ready, and begins when all workers of all stages are."""

    stage: Stage
    folder: Path
    workers: int
    warm: Path
    traces: Path
    """folder for a line of each unit: when it began and ended here, and the processor time of that."""

    @property
    def resources(self) -> Resources:
        return self.stage.resources

    @property
    def name(self) -> str:
        return self.stage.name

    def open(self) -> None:
        self.stage.open()
        if self.name != "WriteShard":
            self.stage.process(self._warm_unit())
        (self.folder / f"{self.name}-{os.getpid()}").touch()

    def process(self, unit: Unit) -> Unit:
        if unit.pieces:
            wait_until_ready(self.folder, self.workers)
        started, cpu = time.time(), self._cpu_seconds()
        done = self.stage.process(unit)
        ended, used = time.time(), self._cpu_seconds() - cpu
        if unit.pieces:
            found = {"unit": unit.unit_id, "stage": self.name, "start": started, "end": ended, "cpu": used}
            found["audio_bytes"] = done.audio.nbytes
            with (self.traces / f"{self.name}-{os.getpid()}.jsonl").open("a") as file:
                file.write(json.dumps(found) + "\n")
        return done

    def _cpu_seconds(self) -> float:
        """Processor time of this worker so far, its decoder's included."""
        seconds = time.process_time()
        if self.name == "Segment":
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    times = child.cpu_times()
                    seconds += times.user + times.system
        return seconds

    def heard_seconds(self, unit: Unit) -> float:
        return self.stage.heard_seconds(unit)

    def close(self) -> None:
        self.stage.close()

    def _warm_unit(self) -> Unit:
        from operators.audio.decode import decode

        pcm = decode(str(self.warm)).pcm[: WARM_SECONDS * SAMPLE_RATE]
        recording = Recording(recording_id="warm", uri=str(self.warm), domain="warm")
        pieces = (Piece(recording=recording),)
        if self.name == "Segment":
            return Unit(unit_id="warm-000000", domain="warm", pieces=pieces)
        span = Span(0, len(pcm))
        clip = Clip(clip_id=clip_id("warm", span), recording_id="warm", span=span)
        clips = []
        for language, text in WARM_TEXTS.items() if self.name != "Transcribe" else [("", "")]:
            texts = {"Transcribe": (), "Copilot": (text,), "Rover": (text, f"{text} 天 zorbly")}[self.name]
            hypotheses = tuple(Hypothesis(engine="warm", text=text, language=language) for text in texts)
            clips.append(replace(clip, hypotheses=hypotheses))
        return Unit(
            unit_id="warm-000000", domain="warm", pieces=pieces, clips=tuple(clips), audio=np.tile(pcm, len(clips))
        )


def pipeline(work: Path, ready_folder: Path, workers: int) -> dict[str, Any]:
    from pipeline.executor.executor import executor_for
    from pipeline.executor.worker import Outcome

    settings = settings_of(work, workers)
    shutil.rmtree(settings.output, ignore_errors=True)
    store = open_store(settings.output)
    fetch = Fetch(settings.s3, settings.execution.scratch)
    units = list(load_plan(open_store(str(work / "plan"))))
    built = recipe.build(settings, store, fetch)
    traces = work / "traces"
    shutil.rmtree(traces, ignore_errors=True)
    traces.mkdir()
    everyone, warm = workers * len(built), work / "warm.flac"
    stages: list[Any] = [
        Warmed(stage=stage, folder=ready_folder, workers=everyone, warm=warm, traces=traces) for stage in built
    ]
    busy: defaultdict[str, float] = defaultdict(float)
    answered: dict[str, float] = {}
    cpu = CpuOfWork(ready_folder, everyone)
    executor = executor_for(settings.execution, stages)
    executor.connect()
    for event in executor.run(units):
        if isinstance(event, Outcome):
            if event.error:
                raise RuntimeError(event.error)
            for name, seconds in event.busy_seconds.items():
                busy[name] += seconds
            answered[event.unit_id] = time.time()
    times = cpu.read()
    executor.close()
    heard = [
        (row["clip_id"], [hypothesis["text"] for hypothesis in row["hypotheses"]])
        for table in ledger.ledgers(store)
        for row in table.to_pylist()
        if row["hypotheses"]
    ]
    trace = [json.loads(line) for path in sorted(traces.iterdir()) for line in path.read_text().splitlines()]
    seconds = {unit.unit_id: sum(declared_samples(piece) for piece in unit.pieces) / SAMPLE_RATE for unit in units}
    found = {"stages": [stage.name for stage in built], "seconds": seconds, "answered": answered, "work": trace}
    found["taken"] = cpu.taken
    return times | {"busy": dict(busy), "clips": len(heard), "heard": digest(heard), "trace": found}


# --- what one writes today --------------------------------------------------------------------------------------------


def user(work: Path, ready: Callable[[], None], threads: int) -> dict[str, Any]:
    import jiwer
    import whisperx
    from funasr import AutoModel

    from operators.audio.decode import decode

    settings = settings_of(work)
    model = whisperx.load_model(settings.asr.model, "cpu", compute_type=settings.asr.compute_type, threads=threads)
    paraformer = AutoModel(
        model=settings.copilot.models["zh"],
        device="cpu",
        ncpu=threads,
        disable_update=True,
        disable_pbar=True,
        log_level="ERROR",
    )
    clock = Clock()
    clips = 0

    def curate(path: str) -> list[float]:
        with clock("decode"):
            audio = decode(path).pcm.astype(np.float32) / 32768
        rates = []
        with clock("whisperX: VAD and ASR"):
            result = model.transcribe(audio, batch_size=settings.asr.batch_size)
        for segment in result["segments"]:
            part = audio[int(segment["start"] * SAMPLE_RATE) : int(segment["end"] * SAMPLE_RATE)]
            with clock("copilot"):
                second = paraformer.generate(input=part)[0]["text"]
            with clock("jiwer"):
                measure = jiwer.cer if result["language"] == "zh" else jiwer.wer
                rates.append(measure(segment["text"].strip() or "-", second))
        return rates

    curate(str(work / "warm.flac"))
    clock.seconds.clear()
    units = list(load_plan(open_store(str(work / "plan"))))
    ready()
    for unit in units:
        for piece in unit.pieces:
            clips += len(curate(piece.recording.uri))
    return {"busy": dict(clock.seconds), "clips": clips}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one variant of benchmarks/pipeline.py in this process.")
    parser.add_argument("variant", help="bare, ray-N or user-T")
    parser.add_argument("work", type=Path)
    parser.add_argument("--part", default="0/1", help="of the units, for several bare loops at once")
    options = parser.parse_args()
    kind, _, number = options.variant.partition("-")
    part, parts = map(int, options.part.split("/"))
    threads = int(number or 1) if kind == "user" else 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from pipeline.executor.dependencies import keep_freed_memory, quiet_dependencies

    if kind != "user":
        keep_freed_memory()  # as every worker does, before there is a thread
    quiet_dependencies()
    import torch

    torch.set_num_threads(threads)
    folder: Path = options.work / "ready"

    def ready() -> None:
        (folder / f"{options.variant}-{os.getpid()}").touch()
        wait_until_ready(folder, parts)

    with contextlib.redirect_stdout(io.StringIO()):  # whisperX and FunASR print
        if kind == "ray":
            result = pipeline(options.work, folder, workers=int(number))
        else:
            cpu = CpuOfWork(folder, parts)
            done = user(options.work, ready, threads) if kind == "user" else bare(options.work, ready, (part, parts))
            result = cpu.read() | done
    result["ready"] = max(entry.stat().st_mtime for entry in folder.iterdir())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
