"""Every benchmark in turn, then one table of what was wanted and what was measured.

    vad ─> rover ─> batching ─> pipeline ─> memory ─> moe ─> onnx_speed ─> export_accuracy ─> restore
      └──each prints Markdown tables──> picked cells ──> summary

    make bench                                 all in full: about an hour on two cores
    python benchmarks/run_all.py --quick       a few minutes, coarser
    python benchmarks/run_all.py --only rover,memory

A missed target is a result, not an error: the exit code is 0 unless a benchmark failed to run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CRAWL = ROOT.parent / "shared" / "data" / "unpack.sh"

Table = list[list[str]]
"""Rows of cells, the header first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    target: str
    wanted: str
    measured: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    name: str
    what: str
    full: tuple[str, ...]
    quick: tuple[str, ...]
    results: Callable[[list[Table]], list[Result]]
    needs_crawl: bool = False


def tables(text: str) -> list[Table]:
    """The Markdown tables of a text, in order."""
    found: list[Table] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|") and line.rstrip().endswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not inside:
                found.append([])
            if not all(set(cell) <= set("-:") for cell in cells):
                found[-1].append(cells)
            inside = True
        else:
            inside = False
    return found


def cell(all_tables: list[Table], row: str, column: str) -> str | None:
    """What stands in the first column of that name and the row that begins so, in the first table that has both."""
    for header, *rows in all_tables:
        for cells in rows:
            if cells[0] == row and column in header:
                return cells[header.index(column)]
    return None


def judged(target: str, measured: str | None, least: float | None = None, most: float | None = None) -> list[Result]:
    """One result, or none when it was not measured. Numbers may carry a percent sign."""
    if measured is None:
        return []
    value = float(measured.rstrip("%"))
    if least is not None:
        wanted, met = f">= {least:g}", value >= least
    elif most is not None:
        wanted, met = f"<= {most:g}%", value <= most
    else:
        return [Result(target=target, wanted="none set", measured=measured, verdict="")]
    return [Result(target=target, wanted=wanted, measured=measured, verdict="met" if met else "missed")]


def vad_results(found: list[Table]) -> list[Result]:
    results = []
    for engine in ("pyannote-0.5", "pyannote-2.5", "silero", "fsmn"):
        results += judged(f"VAD {engine}: x real time on one core", cell(found, engine, "x real time, 1 core"))
        recall = cell(found, engine, "clips: recall")
        results += judged(f"VAD {engine}: recall of true speech in clips", recall and f"{recall}%")
    return results


def rover_results(found: list[Table]) -> list[Result]:
    return judged("Rover against jiwer + pypinyin per pair, both normalised", cell(found, "all", "ratio"), least=5)


def batching_results(found: list[Table]) -> list[Result]:
    row = "all of the crawl" if cell(found, "all of the crawl", "ours") else "drawn: uniform 2-30 s"
    waste = cell(found, row, "ours")
    return judged(f"padding of the copilot's batches, {row}", waste and waste.split(",")[0], most=8)


def own_results(found: list[Table]) -> list[Result]:
    """Of a benchmark that prints its targets itself."""
    rows = [(header[1], row) for header, *rows in found if header[0] == "target" for row in rows]
    return [
        Result(
            target=row[0], wanted=f"{'>=' if bound == 'at least' else '<='} {row[1]}", measured=row[2], verdict=row[3]
        )
        for bound, row in rows
    ]


BENCHMARKS = (
    Benchmark(
        name="vad",
        what="voice activity against the truth of the crawl",
        full=(),
        quick=("--minutes", "1", "--study", ""),
        results=vad_results,
        needs_crawl=True,
    ),
    Benchmark(
        name="rover",
        what="pairs of transcripts per second",
        full=(),
        quick=("--pairs", "600", "--repeats", "1"),
        results=rover_results,
    ),
    Benchmark(
        name="batching",
        what="padding of the recognisers' batches",
        full=("--minutes", "12"),
        quick=("--minutes", "2", "--no-engine"),
        results=batching_results,
    ),
    Benchmark(
        name="pipeline",
        what="the whole pipeline against a bare loop, and against what one writes today",
        full=(),
        quick=("--minutes", "5", "--repeats", "1", "--variants", "bare,ray-1,ray-2,user-1"),
        results=own_results,
    ),
    Benchmark(
        name="memory",
        what="peak memory while the input grows tenfold",
        full=(),
        quick=("--units", "20"),
        results=own_results,
    ),
    Benchmark(
        name="moe",
        what="the elastic layer in training against a dense one of equal active FLOPs",
        full=(),
        quick=("--frames", "750", "--rounds", "5"),
        results=own_results,
    ),
    Benchmark(
        name="onnx_speed",
        what="exported sizes against a dense model of equal active FLOPs, on onnxruntime",
        full=(),
        quick=("--rounds", "3", "--blocks", "1"),
        results=own_results,
    ),
    Benchmark(
        name="export_accuracy",
        what="error rates of torch, ONNX and ONNX int8",
        full=(),
        quick=("--steps", "300"),
        results=own_results,
    ),
    Benchmark(
        name="restore",
        what="going on in the middle of a large index",
        full=(),
        quick=("--clips", "1000000", "--runs", "3"),
        results=own_results,
    ),
)


def run(benchmark: Benchmark, quick: bool) -> str | None:
    """Run one, showing what it prints as it comes; answers all of it, None when it failed."""
    command = [
        sys.executable,
        "-u",
        "-m",
        f"benchmarks.{benchmark.name}",
        *(benchmark.quick if quick else benchmark.full),
    ]
    environment = os.environ | {
        "PYTHONWARNINGS": "ignore",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYANNOTE_METRICS_ENABLED": "0",
    }
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if not line.startswith("{"):  # a result for programs
                print(line, end="", flush=True)
    return "".join(lines) if process.returncode == 0 else None


def main() -> int:
    names = ",".join(benchmark.name for benchmark in BENCHMARKS)
    parser = argparse.ArgumentParser(description="Run every benchmark and sum up targets and results.")
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of most of an hour")
    parser.add_argument("--only", default=names, help=f"comma-separated (default {names})")
    options = parser.parse_args()
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in options.only.split(",")]
    unknown = sorted(set(options.only.split(",")) - {benchmark.name for benchmark in chosen})
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}: choose from {names}")
    results: list[Result] = []
    failed = []
    for number, benchmark in enumerate(chosen, start=1):
        print(f"\n=== {number}/{len(chosen)} {benchmark.name}: {benchmark.what}\n", flush=True)
        if benchmark.needs_crawl and not CRAWL.exists():
            print("skipped: it needs the crawl with its truth in ../shared/data")
            continue
        started = time.monotonic()
        output = run(benchmark, options.quick)
        print(
            f"\n--- {benchmark.name} took {time.monotonic() - started:.0f} s, load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        if output is None:
            failed.append(benchmark.name)
        else:
            results += benchmark.results(tables(output))
    print(f"\n=== summary{' (quick: coarse)' if options.quick else ''}\n")
    print("| target | wanted | measured | verdict |\n|---|--:|--:|---|")
    for result in results:
        print(f"| {result.target} | {result.wanted} | {result.measured} | {result.verdict} |")
    if failed:
        print(f"\nfailed to run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
