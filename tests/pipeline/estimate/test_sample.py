"""The sample of a plan: every second as likely, recordings whole or cut, units too short for a chunk."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from operators.clip import SAMPLE_RATE, Piece, Recording, Rejection, Unit
from operators.errors import UserError
from operators.storage.fetch import open_store
from pipeline.estimate.sample import draw, window
from pipeline.plan import Plan, expected_samples, load_plan, read_samples, save_plan


def piece(name: str, seconds: float, start: float = 0, end: float | None = None, problem: bool = False) -> Piece:
    return Piece(
        recording=Recording(recording_id=name, uri=f"file:///{name}", domain="talk"),
        start=round(start * SAMPLE_RATE),
        end=None if end is None else round(end * SAMPLE_RATE),
        declared_samples=round(seconds * SAMPLE_RATE) if seconds else None,
        problem=Rejection(stage="plan", reason="duplicate") if problem else None,
    )


def unit(number: int, *pieces: Piece, domain: str = "talk") -> Unit:
    own = tuple(replace(each, recording=replace(each.recording, domain=domain)) for each in pieces)
    return Unit(unit_id=f"{domain}-{number:06d}", domain=domain, pieces=own)


def plan_of(tmp_path: Path, *units: Unit) -> Plan:
    store = open_store(str(tmp_path))
    save_plan(units, store)
    return load_plan(store)


def crawl(hours: int = 6) -> list[Unit]:
    """Long recordings of half-hour units, then one unit of 300 clips of 6 s, then a short unit."""
    long = [
        unit(2 * at + half, piece(f"long-{at}.opus", 3600, 1800 * half, None if half else 1800))
        for at in range(hours)
        for half in (0, 1)
    ]
    short = unit(0, *(piece(f"short-{at}.mp3", 6) for at in range(300)), domain="commands")
    return [*long, short, unit(1, piece("last.mp3", 45), piece("broken.mp3", 0), domain="commands")]


def test_lengths_of_columns_are_those_of_the_pieces(tmp_path: Path) -> None:
    units = [
        *crawl(2),
        unit(9, piece("a.wav", 100, 40, 60), piece("copy.mp3", 30, problem=True), piece("b.mp3", 90, 50)),
    ]
    plan = plan_of(tmp_path, *units)
    expected, read = plan.lengths()
    assert expected.tolist() == [sum(map(expected_samples, each.pieces)) for each in units]
    assert read.tolist() == [sum(map(read_samples, each.pieces)) for each in units]
    assert read[-1] / SAMPLE_RATE == 20 + 90, "a decoder goes straight to a place in WAV, and nowhere else"
    later = plan.take(np.array([1, len(units) - 1]))
    assert [each.unit_id for each in later] == [units[1].unit_id, units[-1].unit_id]
    assert [each.unit_id for each in later.take(np.array([1]))] == [units[-1].unit_id]


def test_a_sample_has_the_minutes_asked_for_in_chunks_over_all_domains(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *crawl(2))
    sample = draw(plan, 20, seed=3)
    assert len(sample.chunks) == 10
    assert sample.sampled_seconds == pytest.approx(1200, rel=0.02)
    assert {chunk.unit.domain for chunk in sample.chunks} == {"talk", "commands"}
    names = [chunk.unit.unit_id for chunk in sample.chunks]
    assert len({*names}) == len(names)
    assert sample.expected_seconds == pytest.approx(plan.expected_seconds())
    for chunk in sample.chunks:
        if chunk.unit.domain == "talk":
            assert chunk.expected_seconds == pytest.approx(120, abs=0.01)
        else:
            assert all(each.start == 0 and each.end is None for each in chunk.unit.pieces), "short files come whole"


@pytest.mark.parametrize("minutes", [1, 9, 300])
def test_every_second_is_as_likely(tmp_path: Path, minutes: float) -> None:
    plan = plan_of(tmp_path, *crawl(5))
    seen: Counter[str] = Counter()
    drawn = 0.0
    for seed in range(40):
        sample = draw(plan, minutes, seed)
        drawn += sample.sampled_seconds
        for chunk in sample.chunks:
            for each in chunk.unit.pieces:
                kind = (
                    "short"
                    if each.recording.uri.endswith(".mp3")
                    else "begin"
                    if each.start < 1800 * SAMPLE_RATE
                    else "end"
                )
                seen[kind] += expected_samples(each)
    assert drawn / 40 == pytest.approx(60 * minutes, rel=0.05)
    # 5 h of long recordings in halves, half an hour of short ones.
    assert seen["short"] == pytest.approx(seen["begin"] / 5, rel=0.4)
    assert seen["begin"] == pytest.approx(seen["end"], rel=0.25)


def test_more_minutes_than_there_are_take_the_whole_plan_uncut(tmp_path: Path) -> None:
    units = crawl(1)
    sample = draw(plan_of(tmp_path, *units), 10_000, seed=0)
    assert sample.whole
    assert sample.share == 1
    assert [chunk.unit.pieces for chunk in sample.chunks] == [each.pieces for each in units]


def test_a_plan_without_any_length_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to estimate from"):
        draw(plan_of(tmp_path, unit(0, piece("broken.mp3", 0))), 5, seed=0)


def test_windows_of_a_ring_share_its_audio_out_evenly() -> None:
    pieces = (piece("a", 100, 10), piece("b", 7), piece("c", 5, problem=True), piece("d", 8), piece("e", 300, 0, 65))
    size = sum(map(expected_samples, pieces))
    assert size == (90 + 7 + 8 + 65) * SAMPLE_RATE
    taken: Counter[str] = Counter()
    for offset in range(0, size, SAMPLE_RATE // 2):
        found = window(pieces, offset, 20 * SAMPLE_RATE)
        assert found
        for each in found:
            taken[each.recording.recording_id] += expected_samples(each)
            assert each.end is None or each.start < each.end
    per_second = {name: taken[name] / length for name, length in (("a", 90), ("b", 7), ("d", 8), ("e", 65))}
    assert max(per_second.values()) == pytest.approx(min(per_second.values()), rel=0.02)
    assert window(pieces, 0, size) == pieces
    (part,) = window(pieces[:1], 80 * SAMPLE_RATE, 5 * SAMPLE_RATE)
    assert (part.start, part.end) == (90 * SAMPLE_RATE, 95 * SAMPLE_RATE)
