"""How long a restart takes with an index of ten million clips: from opening the file to the rows of an exact batch.

    python -m benchmarks.restore [--clips 10000000] [--runs 5]

    lengths of curation's shape ──> an index in scratch ──a fresh process per run: open, plan, locate, batch──> ms

Every run is a process of its own; importing Python packages is timed apart. The file is in the page cache, since it was
just written; a cold disk adds the time to read the columns frames, label_tokens and domain (12 bytes a clip). Where the
processor time is far below the time of the clock, others used the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ROWS = 1 << 20
DOMAINS = [f"domain-{number:02d}" for number in range(20)]


def write(path: Path, clips: int) -> None:
    """An index of `clips` rows: 20 domains, a shard for every 300 clips, lengths of 2 to 30 s."""
    from operators.index import INDEX_SCHEMA

    shards = pa.array([f"s3://bucket/run/shards/{n:06d}.tar" for n in range(-(-clips // 300))])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
        for start in range(0, clips, ROWS):
            count = min(ROWS, clips - start)
            random = np.random.default_rng(start)
            rows = np.arange(start, start + count)
            frames = (np.clip(random.gamma(2.0, 3.5, count) + 2, 2, 30) * 100 - 2).astype(np.int32)
            shard = pa.DictionaryArray.from_arrays(pa.array((rows // 300).astype(np.int32)), shards)
            domain = pa.array(random.integers(0, len(DOMAINS), count).astype(np.int32))
            columns = {
                "clip_id": pa.array([f"clip-{row:012d}" for row in rows]),
                "shard": shard,
                "offset": pa.array(rows % 300 * 100_000),
                "size": pa.array(np.full(count, 100_000)),
                "frames": pa.array(frames),
                "label_tokens": pa.array((frames // 25).astype(np.int32)),
                "label": pa.array(["a label of some words"] * count),
                "domain": pa.DictionaryArray.from_arrays(domain, pa.array(DOMAINS)),
                "recording_id": pa.array([f"recording-{row // 100:09d}" for row in rows]),
            }
            arrays = [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in INDEX_SCHEMA]
            writer.write_batch(pa.record_batch(arrays, schema=INDEX_SCHEMA))


def restore(path: str, global_batch: int) -> dict[str, float]:
    """Times in ms of one restart, and the batch that it led to."""
    began = time.perf_counter()
    from model_training.data.batching import BatchPlan, Planner
    from model_training.data.index import Index

    marks = {"import": time.perf_counter() - began}
    began = before = time.perf_counter()
    worked = time.process_time()
    index = Index.open(path)
    marks["open"], before = time.perf_counter() - before, time.perf_counter()
    weights = {domain: 0.5 + number / 10 for number, domain in enumerate(DOMAINS)}
    planner = Planner(index, BatchPlan(max_frames=60_000, max_clips=128), weights)
    marks["plan"], before = time.perf_counter() - before, time.perf_counter()
    place = planner.locate(global_batch)
    rows = planner.batch(*place)
    index.row(int(rows[0]))
    marks["batch"] = time.perf_counter() - before
    marks["restore"] = time.perf_counter() - began
    marks["its processor time"] = time.process_time() - worked
    before = time.perf_counter()
    for number in range(100):
        planner.batch(*planner.locate(global_batch + number))
    marks["each further batch"] = (time.perf_counter() - before) / 100
    return {name: round(seconds * 1000, 2) for name, seconds in marks.items()} | {"rows": int(rows.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--global-batch", type=int, default=1_234_567, help="the batch to restart at")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(restore(arguments.one, arguments.global_batch)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.arrow"
        write(path, arguments.clips)
        size, load = path.stat().st_size / 1e9, os.getloadavg()[0]
        print(f"{arguments.clips:,} clips, {size:.2f} GB; restart at batch {arguments.global_batch:,}; load {load:.1f}")
        command = [sys.executable, __file__, "--one", str(path), "--global-batch", str(arguments.global_batch)]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.runs)]
    assert len({run.pop("rows") for run in runs}) == 1, "two restarts led to different batches"
    for name in runs[0]:
        times = [run[name] for run in runs]
        print(
            f"{name:>20}: median {statistics.median(times):8.2f} ms   best {min(times):8.2f}   worst {max(times):8.2f}"
        )

    total = statistics.median(run["restore"] for run in runs) / 1000
    from benchmarks.targets import show_targets  # not above: each restart is this file by itself

    show_targets([(f"restore of {arguments.clips:,} clips, seconds", 1.0, total)])


if __name__ == "__main__":
    main()
