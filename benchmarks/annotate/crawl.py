"""Segments of the crawl with what is known of each, for the benchmarks of this folder.

../shared/data ──unpack.sh──> crawl/ ──truth.jsonl, decode──> TrueSegment ...
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operators.audio.decode import decode
from operators.clip import SAMPLE_RATE

SHARED = Path(__file__).resolve().parents[3] / "shared"


@dataclass(frozen=True, slots=True, eq=False)
class TrueSegment:
    """A TrueSegment is one segment of a recording with its truth."""

    recording: dict[str, Any]
    truth: dict[str, Any]
    pcm: np.ndarray
    """int16 [samples], 16 kHz."""
    neighbours: Sequence[np.ndarray]
    """the segments before and after it."""


def add_crawl(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crawl", type=Path, help="the unpacked crawl (default: unpack ../shared/data)")


@contextlib.contextmanager
def crawl_folder(given: Path | None) -> Iterator[Path]:
    """Yield the folder of the crawl, unpacked for as long as it is used where none is given."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([str(SHARED / "data/unpack.sh"), folder], check=True)
        yield Path(folder) / "crawl"


def records(crawl: Path, domain: str) -> list[dict[str, Any]]:
    """Return a domain's lines of the truth in a seeded order."""
    found = [json.loads(line) for line in (crawl / "truth.jsonl").read_text("utf-8").splitlines()]
    found = [record for record in found if record["domain"] == domain]
    random.Random(f"annotate {domain}").shuffle(found)
    return found


def segments(
    crawl: Path, domain: str, most: float = float("inf"), *, least_seconds: float = 0.0
) -> Iterator[TrueSegment]:
    """Yield up to `most` segments of a domain that last `least_seconds` or more, whole recordings in a seeded order."""
    for record in records(crawl, domain):
        if most <= 0:
            return
        audio = decode(str(crawl / record["path"])).pcm
        clips = [audio[_sample(each["start_s"]) : _sample(each["end_s"])] for each in record["segments"]]
        for place, (truth, clip) in enumerate(zip(record["segments"], clips, strict=True)):
            if len(clip) >= least_seconds * SAMPLE_RATE and most > 0:
                most -= 1
                near = [clips[other] for other in (place - 1, place + 1) if 0 <= other < len(clips)]
                yield TrueSegment(record, truth, clip, near)


def _sample(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
