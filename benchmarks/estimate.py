"""`plan --estimate` against a complete run: is what the whole plan took and kept within the intervals of a sample?

    plan ──all units──> what a complete run took, by stage       plan ──a sample for each seed──> intervals
                           └──────────────────compared──────────────────┘

    python -m benchmarks.estimate CONFIG [key=value ...] [--minutes 8] [--seeds 3]

The complete run goes through the same stages in one process, and is metered as the samples are; its processor time is
held against what the system says of the whole process as well. Start-up is in both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console

from benchmarks.truth import table
from operators.resampling import Estimate
from pipeline import config
from pipeline.curate import Curation
from pipeline.estimate.command import rehearse, wanted
from pipeline.estimate.forecast import Forecast, forecast
from pipeline.estimate.meter import spent
from pipeline.estimate.sample import draw
from pipeline.executor.dependencies import keep_freed_memory, quiet_dependencies


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_intermixed_args()
    keep_freed_memory()
    quiet_dependencies()
    console = Console(width=160, stderr=True)
    settings = config.load(arguments.config, arguments.settings)
    settings = replace(settings, execution=replace(settings.execution, runner="local"))
    with tempfile.TemporaryDirectory(prefix="touchasp-estimate-") as folder:
        plan = Curation(settings=replace(settings, output=f"{folder}/plan"), console=console).plan()
        before = spent()
        whole = draw(plan, 1e9, 0)
        run = rehearse(replace(settings, output=f"{folder}/run"), plan, whole, console)
        process = (spent() - before).cpu
        truth = forecast(run.measured, wanted(settings.execution, whole, run))
        counted = 3600 * (truth.cpu_hours.value or 0.0)
        print(f"complete run: {len(plan)} units, {whole.expected_seconds / 60:.1f} min; {counted:.0f} CPU s by stage, ")
        print(f"{process:.0f} of the process, its first unit done twice\n", flush=True)
        rows = []
        for seed in range(arguments.seeds):
            sample = draw(plan, arguments.minutes, seed)
            tried = rehearse(replace(settings, output=f"{folder}/{seed}"), plan, sample, console)
            found = forecast(tried.measured, wanted(settings.execution, sample, tried))
            size = f"{seed} ({len(sample.chunks)} chunks, {sample.sampled_seconds / 60:.1f} min)"
            rows += [[size, *row] for row in compared(found, truth)]
        columns = ["sample", "figure", "complete run", "estimate", "interval", "within"]
        table("Samples against the complete run", columns, rows)
        within = sum(row[-1] == "yes" for row in rows)
        print(f"\n{within} of {len(rows)} within their intervals")


def compared(found: Forecast, truth: Forecast) -> list[tuple[str, ...]]:
    """Rows of figure, complete run, estimate, interval, whether it is within."""
    pairs: list[tuple[str, Estimate, Estimate, float]] = [
        (f"CPU s, {here.name}", there.cpu_hours, here.cpu_hours, 3600)
        for here, there in zip(found.stages, truth.stages, strict=True)
    ]
    pairs += [
        ("CPU s, all", truth.cpu_hours, found.cpu_hours, 3600),
        ("kept, min", truth.kept_seconds, found.kept_seconds, 1 / 60),
        ("shards", truth.shards, found.shards, 1),
        ("MB", truth.gigabytes, found.gigabytes, 1000),
        ("wall, min", truth.wall_hours, found.wall_hours, 60),
    ]
    rows = []
    for name, true, estimate, scale in pairs:
        value, low, high = (scale * (each or 0.0) for each in (true.value, estimate.low, estimate.high))
        said = "–" if estimate.value is None else f"{scale * estimate.value:.1f}"
        # A draw of the edge counts: shards are whole.
        rows.append((name, f"{value:.1f}", said, f"{low:.1f} to {high:.1f}", "yes" if low <= value <= high else "no"))
    return rows


if __name__ == "__main__":
    main()
