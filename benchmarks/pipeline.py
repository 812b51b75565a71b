"""The whole pipeline against a bare loop over the same engines, and against what one writes today with whisperX and
FunASR.

    crawl ──shortest recordings──> plan of small units ─┬─> bare     ─┐
    random Whisper, random Paraformer, whisperX's VAD ──┼─> ray-1, -2 ├─ fresh processes, A B C A B C ... ──> medians,
    ratios
                                                        └─> user-1,-2 ┘

    python -m benchmarks.pipeline                      about 20 minutes on two cores
    python -m benchmarks.pipeline --minutes 4 --repeats 1
    python -m benchmarks.pipeline --whisper DIR --copilot DIR        with weights of your own

What each variant does is in benchmarks/pipeline_variants.py. Every engine has one thread (user-T has T), so the bare
loop uses one core; "bare x2" is two bare loops, half of the units each, and shows what two cores of this machine give
at all. No clip is rejected before the last stage and every clip is kept, so that all stages have all the work there can
be. Seconds are wall clock: run it where little else runs, or with `nice -n -10`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engines import SIZES, whisper
from operators.audio.decode import decode, encode_flac
from operators.clip import SAMPLE_RATE
from operators.storage.fetch import Fetch, open_store
from pipeline import recipe
from pipeline.config import load
from pipeline.plan import save_plan
from pipeline.sources.files import read_sources
from pipeline.sources.probe import Length, probe_files
from pipeline.sources.units import make_plan

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
VARIANTS = {
    "bare": "bare loop",
    "bare-x2": "two bare loops",
    "ray-1": "pipeline, 1 worker a stage",
    "ray-2": "pipeline, 2 workers a stage",
    "user-1": "per file, 1 thread",
    "user-2": "per file, 2 threads",
}
LONG_GAP = 3.0
"""Seconds without a look at the clock after which the machine was not ours: measure again."""
ENGINE_STEPS = ("VAD", "ASR", "copilot")
LONG_CLIPS = ["cut.max_gap_seconds=2.0", "cut.target_seconds=30.0"]
KEEP_ALL = [
    "hallucination={min_avg_logprob: -1000000.0, max_repeats: 1000000, min_stock_share: 2.0, rates: {default: "
    "{min_han_per_second: 0, max_han_per_second: 1000000.0, min_words_per_second: 0, max_words_per_second: "
    "1000000.0}}}",
    "rover.max_wer=1000000.0",
    "rover.max_per=1000000.0",
]


@dataclass(slots=True)
class Run:
    """One process or more of a variant: seconds until all were ready, seconds of work, and what was done."""

    startup: float
    work: float
    clips: int
    heard: str | None
    cpu: float
    """seconds of processor time that the work took, Ray's own processes included."""
    others: float
    """cores that other programs of the machine took meanwhile, whatever their priority."""
    busy: dict[str, float] = field(default_factory=dict)
    """seconds by the clock: with more workers than cores, waiting for a core included."""
    cpu_by_process: dict[str, float] = field(default_factory=dict)
    longest_gap: float = 0.0
    """seconds between two looks at the clock that should be one apart."""
    trace: dict[str, Any] = field(default_factory=dict)
    """of a pipeline: `ready` and `end`, and each unit at each stage."""


def find_crawl(folder: Path) -> Path:
    """A crawl to read: the real recordings beside the project where they are, else the demo's."""
    if (SHARED / "data" / "unpack.sh").exists():
        subprocess.run([str(SHARED / "data" / "unpack.sh"), str(folder)], check=True, stdout=subprocess.DEVNULL)
        return folder / "crawl"
    return ROOT / "examples" / "demo_crawl" / "crawl"


def prepare(work: Path, crawl: Path, minutes: float, settings: list[str]) -> tuple[float, int, int]:
    """Plan the shortest recordings of the crawl, `minutes` of them, in `work`; answers seconds, recordings and units.

    A unit is as long as the longest recording, so that no recording is cut and there are enough units to fill the
    pipeline.
    """
    tree = load(None, [*settings, f"sources=[{{path: '{crawl}'}}]", f"output={work / 'run'}"])
    files = [file for file in read_sources(tree.sources, tree.s3) if file.problem is None and file.domain != "broken"]
    lengths = probe_files(files, fetch=Fetch(tree.s3), workers=2, limits=recipe.limits(tree.audio))
    known = sorted(
        (length.declared, file.uri, file) for file, length in zip(files, lengths, strict=True) if length.declared
    )
    chosen, total = [], 0
    for length, _, file in known:
        if total < minutes * 60 * SAMPLE_RATE and length > 20 * SAMPLE_RATE:
            chosen.append((file, length))
            total += length
    tree.plan.unit_minutes = max(length for _, length in chosen) / SAMPLE_RATE / 60 + 0.1
    tree.plan.edge_radius_seconds = 2.0
    units = make_plan([file for file, _ in chosen], [Length(declared=length) for _, length in chosen], tree.plan)
    save_plan(units, open_store(str(work / "plan")))
    (work / "settings.json").write_text(json.dumps(settings))
    (work / "warm.flac").write_bytes(encode_flac(decode(chosen[0][0].uri).pcm[: 20 * SAMPLE_RATE]))
    return total / SAMPLE_RATE, len(chosen), len(units)


def measure(variant: str, work: Path) -> Run:
    """Run a variant in fresh processes."""
    ready = work / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    name, parts = ("bare", 2) if variant == "bare-x2" else (variant, 1)
    started = time.time()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.pipeline_variants", name, str(work), "--part", f"{part}/{parts}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in range(parts)
    ]
    results = []
    for process in processes:
        output, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{variant} failed:\n{errors[-3000:]}")
        results.append(json.loads(output.splitlines()[-1]))
    begun = max(result["ready"] for result in results)
    work_seconds = max(result["end"] for result in results) - begun
    cpu = sum(result["cpu"] for result in results)
    return Run(
        startup=begun - started,
        work=work_seconds,
        clips=sum(result["clips"] for result in results),
        heard=results[0].get("heard") if parts == 1 else None,
        cpu=cpu,
        others=max(0.0, max(result["machine_cpu"] for result in results) - cpu) / work_seconds,
        busy=results[0]["busy"] if parts == 1 else {},
        cpu_by_process=results[0]["cpu_by_process"] if parts == 1 else {},
        longest_gap=max(result["longest_gap"] for result in results),
        trace=results[0].get("trace", {}) | {"ready": begun, "end": begun + work_seconds},
    )


def ratio(
    runs: dict[str, list[Run]], ours: str, theirs: str, pick: Callable[[list[float]], float], startup: bool = False
) -> float:
    """How many times as fast `ours` was as `theirs`, by their medians (`pick` median) or by their best runs (min)."""
    mine, other = (pick([run.work + run.startup * startup for run in runs[name]]) for name in (ours, theirs))
    return other / mine


def report(runs: dict[str, list[Run]], seconds: float) -> None:
    """Tables of speeds, of the floor and of targets."""
    columns = "clips | start-up s | work s (least-most) | x real time | speed to bare | with start-up | CPU s"
    print(f"\n| variant | {columns} | others, cores |")
    print("|---|" + "--:|" * 8)
    for variant, some in runs.items():
        work = [run.work for run in some]
        middle = median(work)
        compared = "- | -"
        if "bare" in runs:
            plain, whole = (ratio(runs, variant, "bare", median, startup=startup) for startup in (False, True))
            compared = f"{plain:.2f} | {whole:.2f}"
        print(
            f"| {VARIANTS[variant]} | {some[0].clips} | {median(run.startup for run in some):.0f} | "
            f"{middle:.1f} ({min(work):.1f}-{max(work):.1f}) | {seconds / middle:.1f} | {compared} | "
            f"{median(run.cpu for run in some):.1f} | {median(run.others for run in some):.2f} |"
        )
    for variant, some in runs.items():
        if some[0].busy:
            steps = {step: median(run.busy.get(step, 0) for run in some) for step in some[0].busy}
            print(
                f"\nbusy seconds, {VARIANTS[variant]}: "
                + ", ".join(f"{step} {value:.1f}" for step, value in steps.items())
            )
        if some[0].cpu_by_process:
            shares = sorted(some[0].cpu_by_process.items(), key=lambda share: -share[1])
            print(f"CPU seconds, {VARIANTS[variant]}: " + ", ".join(f"{name} {value:.1f}" for name, value in shares))

    if "bare" in runs:
        show_floor(runs)
    targets = [("ray-1", "bare", 0.95), ("ray-2", "bare", 1.8)]
    targets += [(ours, theirs, 1.3) for ours in ("ray-1", "ray-2") for theirs in ("user-1", "user-2")]
    print("\n| target | at least | measured | verdict |\n|---|--:|--:|---|")
    for ours, theirs, least in targets:
        if ours in runs and theirs in runs:
            found = ratio(runs, ours, theirs, median)
            name = f"{VARIANTS[ours]} / {VARIANTS[theirs]}"
            verdict = "met" if found >= least else "missed"
            print(f"| {name} | {least} | {found:.2f} (best runs: {ratio(runs, ours, theirs, min):.2f}) | {verdict} |")


def show_floor(runs: dict[str, list[Run]]) -> None:
    """Print each variant's seconds over those that the engines alone take."""
    engines = median(sum(run.busy[step] for step in ENGINE_STEPS) for run in runs["bare"])
    print(
        f"\nFloor: the engines alone took {engines:.1f} s in the bare loop, so {engines / 2:.1f} s on two cores "
        "at best.\n"
    )
    print("| variant | work over engine seconds of one core | over the floor of two cores |\n|---|--:|--:|")
    for variant in ("bare", "bare-x2", "ray-1", "ray-2"):
        if variant in runs:
            middle = median(run.work for run in runs[variant])
            print(f"| {VARIANTS[variant]} | {middle / engines:.2f} | {2 * middle / engines:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12.0, help="of audio (default 12)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help=f"comma-separated (default {','.join(VARIANTS)})"
    )
    parser.add_argument("--size", default="mini", choices=SIZES, help="of the random Whisper (default mini)")
    parser.add_argument("--whisper", type=Path, help="a CTranslate2 folder instead of the random one")
    parser.add_argument("--copilot", type=Path, help="a FunASR folder instead of the random one")
    parser.add_argument(
        "--long-clips", action="store_true", help="cut clips as long as whisperX does: fewer, with longer pauses"
    )
    parser.add_argument(
        "--trace", type=Path, help="file for when each unit was at each stage: see benchmarks.simulation"
    )
    parser.add_argument("--crawl", type=Path, help="a folder of recordings; default: ../shared/data, else the demo's")
    options = parser.parse_args()
    from tests.support.engines import random_paraformer

    variants = options.variants.split(",")
    asr, copilot = options.whisper or whisper(options.size), options.copilot or random_paraformer()
    settings = [
        f"asr.model={asr}",
        "asr.compute_type=int8",
        f"copilot.models={{zh: '{copilot}', en: '{copilot}', yue: '{copilot}'}}",
        *KEEP_ALL,
        *(LONG_CLIPS if options.long_clips else []),
    ]
    runs: dict[str, list[Run]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="touchasp-bench-") as folder:
        work = Path(folder)
        seconds, recordings, units = prepare(work, options.crawl or find_crawl(work), options.minutes, settings)
        print(f"{seconds:.0f} s of audio, {recordings} recordings in {units} units; {asr.name} (int8), {copilot.name}")
        print(f"load average before: {os.getloadavg()[0]:.1f}", flush=True)
        for repeat in range(options.repeats):
            for variant in variants:
                run = measure(variant, work)
                runs[variant].append(run)
                seconds_of = f"start-up {run.startup:.1f} s, work {run.work:.1f} s, CPU {run.cpu:.1f} s"
                late = f", a gap of {run.longest_gap:.0f} s" if run.longest_gap > LONG_GAP else ""
                print(f"  {repeat + 1}. {variant}: {seconds_of}, others {run.others:.1f} cores{late}", flush=True)
        print(f"load average after: {os.getloadavg()[0]:.1f}")
    heard = {run.heard for some in runs.values() for run in some if run.heard}
    assert len(heard) <= 1, f"the bare loop and the pipeline did not hear the same: {heard}"
    if options.trace:
        made = {"audio_seconds": seconds, "cores": os.cpu_count(), "units": units, "recordings": recordings}
        each = {name: [record(run) for run in some] for name, some in runs.items()}
        options.trace.write_text(json.dumps(made | {"runs": each}))
    report(runs, seconds)


def record(run: Run) -> dict[str, Any]:
    """Return what a trace keeps of a run."""
    return {"startup": run.startup, "work": run.work, "cpu": run.cpu, "others": run.others} | {
        "longest_gap": run.longest_gap, "cpu_by_process": run.cpu_by_process, "trace": run.trace,
    }  # fmt: skip


if __name__ == "__main__":
    main()
