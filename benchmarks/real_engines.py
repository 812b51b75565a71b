"""Curation with published weights: how good the labels are, and what they cost beside the script one would write.

    crawl ──seeded minutes of each domain──> WORK/crawl, WORK/truth.jsonl ─┬─ shared, alone, two  our curation ─┐
    WEIGHTS: Whisper base, Moonshine tiny ─────────────────────────────────┴─ script              whisperX's ─┴> tables

    python -m benchmarks.real_engines WEIGHTS                quality: kept labels, retention, engines, per domain
    python -m benchmarks.real_engines WEIGHTS --speed        cost: four variants, each in a fresh process of one thread
    python -m benchmarks.real_engines WEIGHTS --speed --work DIR --variants script    one slice; DIR keeps the results

WEIGHTS holds `whisper-base` (a CTranslate2 folder) and `moonshine-tiny-en` (encoder_model.ort,
decoder_model_merged.ort, tokenizer.json); ../shared/models/real_weights.py, where it is, makes it. The recordings are
those of ../shared/data.

    shared   one process, every stage in turn, clips of a recording share windows      alone   the same, each clip alone
    two      Ray, two workers a stage, shared windows
    script   per file: whisperX's load_model and transcribe at their defaults (its own VAD and chunks of 30 s, batches
             of 16), Moonshine per segment, jiwer; decoding by PyAV, as whisperx.load_audio wants an ffmpeg program

Work counts from the moment the models are loaded; start-up is what came before. CPU time is that of all processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.targets import show_targets
from operators.clip import SAMPLE_RATE, Hypothesis

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
VARIANTS = ("shared", "alone", "script", "two")
DOMAINS = ("audiobook", "classroom", "live")
"""Of the crawl, with English truth, which Moonshine hears."""
QUALITY_DOMAINS = (*DOMAINS, "digits")
WINDOW_SECONDS = 30.0


class Moonshine:
    """Moonshine (Useful Sensors, arXiv:2410.15608) through onnxruntime: greedy, one clip at a time."""

    START, END, LAYERS, HEADS, WIDTH = 1, 2, 6, 8, 36
    TOKENS_PER_SECOND = 6.5
    """the authors' own bound on the length of a transcript."""

    def __init__(self, model: str, *, threads: int = 1) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.name = f"moonshine/{Path(model).name}"
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(f"{model}/{part}.ort", options, providers=["CPUExecutionProvider"])
            for part in ("encoder_model", "decoder_model_merged")
        )
        self._tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        return [
            Hypothesis(engine=self.name, text=self.hear(clip.astype(np.float32) / 32768), language=language)
            for clip, language in zip(clips, languages, strict=True)
        ]

    def hear(self, audio: np.ndarray) -> str:
        """The transcript of float32 [samples] in [-1, 1), 16 kHz."""
        # of the samples in both: the decoder, too, thins it out to the encoder's steps
        mask = np.ones((1, len(audio)), np.int64)
        hidden = self._encoder.run(None, {"input_values": audio[None], "attention_mask": mask})[0]
        past = {
            f"past_key_values.{layer}.{side}.{kind}": np.zeros((1, self.HEADS, 0, self.WIDTH), np.float32)
            for layer in range(self.LAYERS)
            for side in ("decoder", "encoder")
            for kind in ("key", "value")
        }
        tokens = [self.START]
        for step in range(max(1, int(len(audio) / SAMPLE_RATE * self.TOKENS_PER_SECOND))):
            logits, *present = self._decoder.run(
                None,
                past
                | {
                    "input_ids": np.array([tokens[-1:]], np.int64),
                    "encoder_hidden_states": hidden,
                    "encoder_attention_mask": mask,
                    "use_cache_branch": np.array([step > 0]),
                },
            )
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == self.END:
                break
            for name, value in zip(past, present, strict=True):
                if step == 0 or ".decoder." in name:  # the encoder's keys and values come once
                    past[name] = value
        return str(self._tokenizer.decode(tokens[1:], skip_special_tokens=True)).strip()

    def close(self) -> None:
        del self._encoder, self._decoder


# --- what is heard ----------------------------------------------------------------------------------------------------


def prepare(work: Path, domains: Sequence[str], minutes: float) -> None:
    """Whole recordings with truth, in a seeded order, until each domain has its minutes."""
    if (work / "truth.jsonl").exists():
        return
    unpack = SHARED / "data" / "unpack.sh"
    if not unpack.exists():
        sys.exit(f"this benchmark reads the recordings of {unpack.parent}, which is not there")
    from operators.audio.decode import decode

    with tempfile.TemporaryDirectory(prefix="touchasp-bench-") as folder:
        subprocess.run([str(unpack), folder], check=True, stdout=subprocess.DEVNULL)
        crawl = Path(folder) / "crawl"
        records = [json.loads(line) for line in (crawl / "truth.jsonl").read_text("utf-8").splitlines()]
        lines = []
        for domain in domains:
            own = [r for r in records if r["domain"] == domain and any(s.get("text") for s in r["segments"])]
            random.Random(f"real {domain}").shuffle(own)
            seconds = 0.0
            for record in own:
                if seconds >= minutes * 60:
                    break
                target = work / "crawl" / record["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(crawl / record["path"], target)
                seconds += len(decode(str(target)).pcm) / SAMPLE_RATE
                lines.append(json.dumps(record, ensure_ascii=False))
    (work / "truth.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def settings_of(work: Path, weights: Path, variant: str) -> list[str]:
    """Overrides of a run's settings."""
    workers = 2 if variant == "two" else 1
    return [
        f"sources=[{{path: '{work / 'crawl'}'}}]",
        f"output={work / variant}",
        f"asr.model={weights / 'whisper-base'}",
        "asr.compute_type=int8",
        f"asr.share_windows={str(variant != 'alone').lower()}",
        "copilot.engine=benchmarks.real_engines:Moonshine",
        f"copilot.models={{en: '{weights / 'moonshine-tiny-en'}'}}",
        f"execution.runner={'ray' if variant == 'two' else 'local'}",
        *(
            f"execution.{stage}.{side}_workers={workers}"
            for stage in ("transcribe", "copilot")
            for side in ("min", "max")
        ),
    ]


# --- what it costs ----------------------------------------------------------------------------------------------------


class Meter(threading.Thread):
    """CPU seconds, user and system, and peak resident bytes of this process and all below it, sampled."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seconds: dict[int, tuple[float, float]] = {}
        self._peak = 0
        self._begun = (0.0, 0.0)
        self._opened = self._ready = time.time()
        self.start()

    def run(self) -> None:
        while True:
            self._sample()
            time.sleep(0.5)

    def ready(self) -> None:
        """Start-up is over: from here on work counts."""
        self._begun, self._ready = self._sample(), time.time()

    def read(self) -> dict[str, float]:
        user, system = (now - before for now, before in zip(self._sample(), self._begun, strict=True))
        return {
            "startup": self._ready - self._opened,
            "wall": time.time() - self._ready,
            "cpu": user + system,
            "system": system,
            "peak_bytes": self._peak,
        }

    def _sample(self) -> tuple[float, float]:
        this = psutil.Process()
        resident = 0
        for process in (this, *this.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process.pid] = (times.user, times.system)
                resident += process.memory_info().rss
        self._peak = max(self._peak, resident)
        users, systems = zip(*self._seconds.values(), strict=True)
        return sum(users), sum(systems)


def ours(work: Path, weights: Path, variant: str, meter: Meter) -> dict[str, Any]:
    """Our curation, from the planned units to shards and ledgers."""
    from operators.storage.fetch import open_store
    from pipeline import ledger
    from pipeline.config import load
    from pipeline.curate import Curation
    from pipeline.executor.worker import Ready

    settings = load(None, settings_of(work, weights, variant))
    shutil.rmtree(settings.output, ignore_errors=True)
    times: dict[str, float] = {}

    class Metered:
        """A Metered executor reads the meter at every event of the one that it wraps."""

        def __init__(self, executor: Any) -> None:
            self._executor = executor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._executor, name)

        def run(self, *given: Any) -> Any:
            for event in self._executor.run(*given):
                if isinstance(event, Ready):
                    meter.ready()
                times.update(meter.read())
                yield event

    from rich.console import Console

    curation = Curation(settings=settings, console=Console(file=io.StringIO()))
    curation.executor = Metered(curation.executor)
    if curation.run():
        raise RuntimeError("units were left undone")
    rows = [row for table in ledger.ledgers(open_store(settings.output)) for row in table.to_pylist()]
    heard = [(row, row["hypotheses"][0]) for row in rows if row["hypotheses"]]
    retaken = sum(bool(first["retaken"]) for _, first in heard)
    # a clip that Transcribe heard once more, in its recording's language, has no window of its own to its name
    shared = {(row["unit_id"], first["window"]) for row, first in heard if first["window"] is not None}
    windows = len(shared) if variant != "alone" else len(heard)
    kept: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for row in rows:
        whole[row["domain"]] += row["end"] - row["start"]
        kept[row["domain"]] += (row["end"] - row["start"]) * (row["outcome"] == "kept")
    return times | {
        "audio": sum(whole.values()) / SAMPLE_RATE,
        "clips": len(heard),
        "windows": windows,
        "retaken": retaken,
        "heard_seconds": sum(row["end"] - row["start"] for row, _ in heard) / SAMPLE_RATE,
        "retention": {domain: 100 * kept[domain] / whole[domain] for domain in whole},
        "labels": label_errors(work, settings.output),
    }


def label_errors(work: Path, output: str) -> dict[str, list[float | None]]:
    """By domain: error rate of kept labels, of Whisper and of Moonshine on all they heard, percent of spoken tokens."""
    from pipeline.run_directory import existing_run
    from pipeline.score.command import score, score_settings

    settings, store = existing_run(output, [])
    found = score(settings, store, str(work / "truth.jsonl"), score_settings("0,5,10", 0.3, 0.8, written=False))
    return {
        scope.name: [scope.systems[0].kept.mer.value, *(system.all.mer.value for system in scope.systems[1:])]
        for scope in found.domains
    }


def script(work: Path, weights: Path, meter: Meter) -> dict[str, Any]:
    """What one writes today."""
    import jiwer
    import whisperx

    from operators.audio.decode import decode

    model = whisperx.load_model(str(weights / "whisper-base"), "cpu", compute_type="int8", threads=1)
    copilot = Moonshine(str(weights / "moonshine-tiny-en"))
    meter.ready()
    chunks = kept = 0
    seconds = 0.0
    steps: defaultdict[str, float] = defaultdict(float)
    for path in sorted((work / "crawl").rglob("*.*")):
        audio = decode(str(path)).pcm.astype(np.float32) / 32768
        seconds += len(audio) / SAMPLE_RATE
        started = time.process_time()
        result = model.transcribe(audio, batch_size=16)
        steps["whisperX"] += time.process_time() - started
        chunks += len(result["segments"])
        for segment in result["segments"]:
            part = audio[int(segment["start"] * SAMPLE_RATE) : int(segment["end"] * SAMPLE_RATE)]
            started = time.process_time()
            second = copilot.hear(part)
            steps["copilot"] += time.process_time() - started
            kept += bool(segment["text"].strip()) and jiwer.wer(segment["text"].strip(), second) <= 0.1
    return meter.read() | {"audio": seconds, "clips": chunks, "windows": chunks, "kept_chunks": kept, "steps": steps}


def child(variant: str, work: Path, weights: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from pipeline.executor.dependencies import keep_freed_memory, quiet_dependencies, use_threads

    if variant != "script":
        keep_freed_memory()  # as the command line does, before there is a thread
    meter = Meter()
    quiet_dependencies()
    use_threads(1)
    import torch

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):  # whisperX prints
        result = script(work, weights, meter) if variant == "script" else ours(work, weights, variant, meter)
    print(json.dumps(result | {"variant": variant}))


def measure(variant: str, work: Path, weights: Path) -> None:
    """Run a variant in a fresh process and add what it found to WORK/results.jsonl."""
    command = [sys.executable, "-m", "benchmarks.real_engines", str(weights), "--work", str(work), "--child", variant]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{variant} failed:\n{done.stderr[-3000:]}")
    with (work / "results.jsonl").open("a") as results:
        results.write(done.stdout.splitlines()[-1] + "\n")


# --- tables -----------------------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def quality_table(result: dict[str, Any]) -> None:
    print(
        "\n| domain | kept % of input | kept labels wrong % | Whisper wrong % | Moonshine wrong % |"
        "\n|---|--:|--:|--:|--:|"
    )
    for domain, retention in sorted(result["retention"].items()):
        errors = result["labels"].get(domain, [None, None, None])
        print(f"| {domain} | {retention:.1f} | " + " | ".join(percent(error) for error in errors) + " |")


def speed_tables(results: dict[str, dict[str, Any]]) -> None:
    print(
        "\n| variant | audio s | start-up s | work s | CPU s | of it system | windows | heard again | in use "
        "| peak MB |"
    )
    print("|---|" + "--:|" * 9)
    for variant in (name for name in VARIANTS if name in results):
        r = results[variant]
        use = f"{100 * r['heard_seconds'] / WINDOW_SECONDS / r['windows']:.1f} %" if "heard_seconds" in r else "-"
        print(
            f"| {variant} | {r['audio']:.0f} | {r['startup']:.1f} | {r['wall']:.1f} | {r['cpu']:.1f} | "
            f"{100 * r['system'] / r['cpu']:.1f} % | {r['windows']} | {r.get('retaken', '-')} | {use} | "
            f"{r['peak_bytes'] / 1e6:.0f} |"
        )
    targets = [
        ("one worker, CPU, of the script's", 0.8, "shared", "script", "cpu"),
        ("one worker, wall, of the script's", 0.7, "shared", "script", "wall"),
        ("two workers, wall, of the script's", 0.45, "two", "script", "wall"),
    ]
    rows = [
        (what, most, results[a][of] / results[b][of]) for what, most, a, b, of in targets if {a, b} <= results.keys()
    ]
    if "shared" in results:
        rows.append(("system time, percent of CPU", 15.0, 100 * results["shared"]["system"] / results["shared"]["cpu"]))
    show_targets(rows)
    if {"shared", "alone"} <= results.keys():
        print(
            "\n| domain | kept labels wrong %, shared | alone | kept % of input, shared | alone |"
            "\n|---|--:|--:|--:|--:|"
        )
        one, other = results["shared"], results["alone"]
        for domain in sorted(one["retention"]):
            wrong = [r["labels"].get(domain, [None])[0] for r in (one, other)]
            kept = [r["retention"][domain] for r in (one, other)]
            print(f"| {domain} | {percent(wrong[0])} | {percent(wrong[1])} | {kept[0]:.1f} | {kept[1]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="folder with whisper-base and moonshine-tiny-en")
    parser.add_argument("--speed", action="store_true", help="the four variants, instead of the quality of one run")
    parser.add_argument("--minutes", type=float, help="of each domain (default: 3 with --speed, else 5)")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="with --speed, comma-separated (default all)")
    parser.add_argument("--work", type=Path, help="a folder that keeps recordings and results from call to call")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    weights = options.weights.resolve()
    if not (weights / "whisper-base" / "model.bin").is_file() or not (weights / "moonshine-tiny-en").is_dir():
        sys.exit(
            f"{weights} holds no whisper-base and moonshine-tiny-en: make it with ../shared/models/real_weights.py"
        )
    if options.child:
        child(options.child, options.work, weights)
        return
    with contextlib.ExitStack() as held:
        work = options.work or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="touchasp-real-")))
        work.mkdir(parents=True, exist_ok=True)
        work = work.resolve()
        minutes = options.minutes or (3.0 if options.speed else 5.0)
        prepare(work, DOMAINS if options.speed else QUALITY_DOMAINS, minutes)
        for variant in options.variants.split(",") if options.speed else ("shared",):
            measure(variant, work, weights)
        lines = (work / "results.jsonl").read_text().splitlines()
        results = {result["variant"]: result for result in map(json.loads, lines)}
        if options.speed:
            speed_tables(results)
        else:
            quality_table(results["shared"])


if __name__ == "__main__":
    main()
