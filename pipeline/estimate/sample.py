"""Chunks of a plan: a systematic sample of its audio, each chunk a small unit that the stages take as any other.

    lengths of all units, end to end ──every (total / n)-th second, from a random one──> places
    place in a unit ──window, round the unit's end to its start──> Chunk: short recordings whole, long ones cut

Every second of the plan has the same chance to be in the sample, but for units shorter than a chunk: they come whole,
and as rarely as they are short. The plan's order is by domain and name, so that every domain has its share of chunks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from operators.clip import SAMPLE_RATE, Piece, Unit
from operators.errors import UserError
from pipeline.plan import Plan, expected_samples, read_samples

CHUNK_SECONDS = 120.0
"""Of a chunk; longer where there would be more than `MOST_CHUNKS` of them, shorter where there would be fewer than
`LEAST_CHUNKS`, or units are shorter.
"""
MOST_CHUNKS, LEAST_CHUNKS = 40, 4
SHORTEST_SECONDS = 30.0
"""A shorter chunk would be mostly edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A Chunk is a part of one unit of the plan, as a unit of its own."""

    unit: Unit
    expected_seconds: float
    """of audio, by what the plan knows; more than 0 but where the whole plan is the sample."""
    read_seconds: float
    """that a decoder runs through to reach it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A Sample is some chunks of a plan, in its order, and what they stand for."""

    chunks: tuple[Chunk, ...]
    units: int
    expected_seconds: float
    """of the whole plan."""
    read_seconds: float
    whole: bool
    """whether the chunks are all units of the plan, uncut."""

    @property
    def sampled_seconds(self) -> float:
        return sum(chunk.expected_seconds for chunk in self.chunks)

    @property
    def share(self) -> float:
        """Return how much of the plan is in the sample, 0-1."""
        return 1.0 if self.whole else min(1.0, self.sampled_seconds / self.expected_seconds)


def draw(plan: Plan, minutes: float, seed: int) -> Sample:
    """Return about `minutes` of the plan's audio; all of it where it holds no more. Raises UserError."""
    expected, read = plan.lengths()
    total = int(expected.sum())
    if not total:
        raise UserError("nothing to estimate from: no recording of the plan says how long it is, or can be read")
    whole = minutes * 60 * SAMPLE_RATE >= total
    chunks = _all(plan) if whole else _some(plan, expected, minutes * 60, seed)
    return Sample(
        chunks=tuple(chunks),
        units=len(plan),
        expected_seconds=total / SAMPLE_RATE,
        read_seconds=int(read.sum()) / SAMPLE_RATE,
        whole=whole,
    )


def _all(plan: Plan) -> Iterator[Chunk]:
    for unit in plan:
        yield _chunk(unit)


def _some(plan: Plan, expected: np.ndarray, seconds: float, seed: int) -> Iterator[Chunk]:
    ends = np.cumsum(expected)
    count, samples = _size(seconds, ends[-1] / len(expected) / SAMPLE_RATE)
    first = np.random.default_rng(seed).random()
    places = ((first + np.arange(count)) * (ends[-1] / count)).astype(np.int64)
    at = np.searchsorted(ends, places, side="right")
    offsets: dict[int, list[int]] = defaultdict(list)
    for unit_at, offset in zip(at.tolist(), (places - (ends[at] - expected[at])).tolist(), strict=True):
        offsets[unit_at].append(offset)
    number = 0
    for unit, unit_at in zip(plan.take(np.unique(at)), sorted(offsets), strict=True):
        for offset in offsets[unit_at]:
            # Two chunks of one unit may not share a name: theirs is that of their files as well.
            name = f"{unit.unit_id.rpartition('-')[0]}-{number:06d}"
            yield _chunk(replace(unit, unit_id=name, pieces=window(unit.pieces, offset, samples)))
            number += 1


def _size(seconds: float, unit_seconds: float) -> tuple[int, int]:
    """Return how many chunks there are in so many seconds, and the samples of one; units are so long in the mean."""
    chunk = min(max(CHUNK_SECONDS, seconds / MOST_CHUNKS), unit_seconds, seconds / LEAST_CHUNKS)
    count = max(1, round(seconds / max(chunk, SHORTEST_SECONDS)))
    return count, round(seconds / count * SAMPLE_RATE)


def window(pieces: tuple[Piece, ...], offset: int, samples: int) -> tuple[Piece, ...]:
    """Return what lies in the `samples` from `offset` on of some pieces, laid end to end and closed to a ring.

    A piece longer than that is cut; a shorter one is in it, whole, where its middle is.
    """
    lengths = [expected_samples(piece) for piece in pieces]
    size = sum(lengths)
    if samples >= size:
        return pieces
    over = offset + samples - size
    stretches = [(0, over), (offset, size)] if over > 0 else [(offset, offset + samples)]
    found: list[Piece] = []
    begins = list(accumulate(lengths, initial=0))[:-1]
    for piece, length, begin in zip(pieces, lengths, begins, strict=True):
        if length <= samples:
            middle = begin + length // 2
            found += [piece] if (middle - offset) % size < samples else []
            continue
        for low, high in stretches:
            start, end = max(low, begin), min(high, begin + length)
            if start < end:
                stop = piece.end if end == begin + length else piece.start + end - begin
                found.append(replace(piece, start=piece.start + start - begin, end=stop))
    if any(map(expected_samples, found)):
        return tuple(found)
    there = next(at for at, begin in enumerate(begins) if begin <= offset < begin + lengths[at])
    return (pieces[there],)


def _chunk(unit: Unit) -> Chunk:
    expected = sum(map(expected_samples, unit.pieces))
    read = sum(map(read_samples, unit.pieces))
    return Chunk(unit=unit, expected_seconds=expected / SAMPLE_RATE, read_seconds=read / SAMPLE_RATE)
