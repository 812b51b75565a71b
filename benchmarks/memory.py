"""Peak memory while the input grows tenfold: the whole `python -m pipeline run`, planning and report included.

    synthetic crawl, 1x and 10x ──python -m pipeline run──> process tree ──sampled every 100 ms──> peak of every kind
    of process ──> table

    python -m benchmarks.memory                  30 and 300 units of a minute, plain runner and Ray: about four minutes
    python -m benchmarks.memory --units 60

Recordings are decoded from FLAC, cut, encoded and written in earnest; VAD and recognisers are the fast engines of the
tests, whose memory is nothing, so what would grow is seen and not drowned. A peak is the most that all processes of a
kind held at one moment. Of a page that processes share (libraries, Ray's object store) each counts its part (PSS), so
the sum is what the machine must have; "own" leaves such pages out (USS). A worker reaches its height after some twenty
units, when it has met a large one and Ray's store has been used all over, so fewer units measure the climb.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.fast_engines import settings, write_crawl

ROOT = Path(__file__).resolve().parents[1]
CLIPS_PER_UNIT = 12
GROWTH = 10
SAMPLE_SECONDS = 0.1
ALLOWED = 0.10


def kind(process: psutil.Process, driver: int) -> str:
    """What a process of the run is, by its command line."""
    command = " ".join(process.cmdline())
    if process.pid == driver:
        return "driver"
    if "operators.audio.isolated" in command:
        return "decoders"
    if command.startswith("ray::MapWorker"):
        return "workers"
    return "Ray itself"


def peaks(command: list[str]) -> dict[str, tuple[float, float]]:
    """Run a command; the most that its processes of a kind, and all of them, held at a moment, in MB: with their part
    of shared pages, and without. Raises SystemExit when it fails.
    """
    highest: dict[str, tuple[int, int]] = {}
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as log:
        run = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        while run.poll() is None:
            now: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            for process in tree(run.pid):
                try:
                    memory, name = process.memory_full_info(), kind(process, run.pid)
                except psutil.Error:  # it ended meanwhile
                    continue
                for each in (name, "all"):
                    now[each][0] += memory.pss
                    now[each][1] += memory.uss
            for each, (held, own) in now.items():
                before = highest.get(each, (0, 0))
                highest[each] = max(before[0], held), max(before[1], own)
            time.sleep(SAMPLE_SECONDS)
        if run.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-2000:]}")
    return {name: (held / 1e6, own / 1e6) for name, (held, own) in highest.items()}


def tree(pid: int) -> Iterator[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        yield parent
        yield from parent.children(recursive=True)
    except psutil.Error:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--units", type=int, default=30, help="of one minute, before they are ten times as many (default 30)"
    )
    options = parser.parse_args()
    rows: list[tuple[str, str, float, float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="touchasp-bench-") as name:
        folder = Path(name)
        (folder / "empty.yaml").write_text("{}\n")
        crawls = {}
        for growth in (1, GROWTH):
            clips = write_crawl(folder / f"crawl-{growth}", options.units * growth * CLIPS_PER_UNIT)
            crawls[growth] = folder / f"crawl-{growth}"
            megabytes = sum(path.stat().st_size for path in crawls[growth].rglob("*.flac")) / 1e6
            print(
                f"{growth}x: about {options.units * growth} units, {clips} clips, {megabytes:.0f} MB of FLAC",
                flush=True,
            )
        for runner in ("local", "ray"):
            found = {}
            for growth, crawl in crawls.items():
                started = time.time()
                chosen = settings(str(folder / f"{runner}-{growth}"), str(crawl), f"execution.runner={runner}")
                found[growth] = peaks([sys.executable, "-m", "pipeline", "run", str(folder / "empty.yaml"), *chosen])
                print(f"  {runner}, {growth}x: {time.time() - started:.0f} s", flush=True)
            for process in sorted(found[1], key="all".__eq__):  # their sum last
                small, large = found[1][process], found[GROWTH][process]
                rows.append((runner, process, small[0], large[0], small[1], large[1]))
    print(f"\nPeaks in MB at 1x and {GROWTH}x:\n")
    print("| runner | processes | at 1x | 10x | growth | own 1x | 10x | growth |\n|---|---|" + "--:|" * 6)
    for runner, process, *sizes in rows:
        cells = [f"{a:.0f} | {b:.0f} | {b / a - 1:+.1%}" for a, b in (sizes[:2], sizes[2:])]
        print(f"| {runner} | {process} | {' | '.join(cells)} |")
    print("\n| target | at most | measured | verdict |\n|---|--:|--:|---|")
    for runner, process, before, after, *_ in rows:
        if process in ("all", "driver"):
            more = after / before - 1
            verdict = "met" if more <= ALLOWED else "missed"
            print(
                f"| peak memory, {runner} runner, {process}, {GROWTH}x input | {ALLOWED:+.0%} | {more:+.1%} | "
                f"{verdict} |"
            )


if __name__ == "__main__":
    main()
