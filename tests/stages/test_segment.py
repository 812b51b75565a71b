"""How a long recording is shared out between units when it is not what its header promised, or cannot be read all
through.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from operators.asr.hallucination import HallucinationRules
from operators.audio.decode import AudioError, Decoded, Limits, Problem
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE, Hypothesis, Piece, Recording, Rejection, Span, Unit
from operators.speech.segments import CutSettings
from stages.segment import Segment
from stages.transcribe import Transcribe
from tests.support.fast_engines import EnergyVad, HashRecogniser

UNIT, RADIUS = 20 * SAMPLE_RATE, 4 * SAMPLE_RATE


class Disk:
    @contextmanager
    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> Iterator[str]:
        yield uri


@pytest.fixture
def segment() -> Iterator[Segment]:
    stage = Segment(
        fetcher=Disk(),
        load_vad=EnergyVad,
        cut_settings=CutSettings(),
        limits=Limits(),
        decode_timeout_seconds=60,
        decode_attempts=1,
        edge_radius=RADIUS,
    )
    stage.open()
    yield stage
    stage.close()


def sound(seconds: float, seed: int = 1) -> np.ndarray:
    """Bursts of noise between pauses: int16 [samples]."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        parts += [
            rng.integers(-6000, 6000, 40_000, dtype=np.int16),
            np.zeros(int(rng.integers(9_000, 20_000)), np.int16),
        ]
    return np.concatenate(parts)[: round(seconds * SAMPLE_RATE)]


def pieces(uri: str, declared: int) -> list[Piece]:
    edges = range(UNIT, declared - RADIUS, UNIT)
    recording = Recording(recording_id="long", uri=uri, domain="talk")
    ends = zip([0, *edges], [*edges, None], strict=True)
    return [Piece(recording=recording, start=start, end=end, declared_samples=declared) for start, end in ends]


def segmented(segment: Segment, piece: Piece) -> list[tuple[int, int, str]]:
    """(start, end, outcome) of all that a piece became, in time; rows without length left out."""
    unit = segment.process(Unit(unit_id="talk-000000", domain="talk", pieces=(piece,)))
    rows = [(clip.span.start, clip.span.end, "clip") for clip in unit.clips]
    rows += [(stretch.span.start, stretch.span.end, stretch.outcome) for stretch in unit.stretches]
    return sorted(row for row in rows if row[0] < row[1])


@pytest.mark.parametrize("seconds_short_of_an_edge", [-5, -2.5, 0, 0.5, 1, 2.5, 3.9, 4, 6])
def test_a_truncated_recording_is_tiled_wherever_it_ends(
    segment: Segment, tmp_path: Path, seconds_short_of_an_edge: float
) -> None:
    declared = 70 * SAMPLE_RATE
    there = 2 * UNIT - round(seconds_short_of_an_edge * SAMPLE_RATE)
    path = tmp_path / "cut.wav"
    soundfile.write(path, sound(70), SAMPLE_RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * there])
    parts = [segmented(segment, piece) for piece in pieces(str(path), declared)]
    for part in parts:
        assert all(before[1] == after[0] for before, after in itertools.pairwise(part)), part
    rows = [row for part in parts for row in part]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(sorted(rows))), sorted(rows)
    assert (min(rows)[0], max(rows)[1]) == (0, declared)
    assert sum(end - start for start, end, outcome in rows if outcome != "unreadable") == there


class Torn:
    """A decoder that dies on every window that reaches past a place of the recording."""

    def __init__(self, decoder: IsolatedDecoder, place: int) -> None:
        self._decoder, self._place = decoder, place

    def decode(self, source: object, window: tuple[int, int | None]) -> Decoded:
        if window[1] is None or window[1] > self._place:
            raise AudioError("decoder_crash", "SIGSEGV")
        return self._decoder.decode(source, window)  # type: ignore[arg-type]

    def close(self) -> None:
        self._decoder.close()


def test_a_piece_that_cannot_be_read_begins_where_its_neighbour_ends(segment: Segment, tmp_path: Path) -> None:
    whole = sound(70)
    path = tmp_path / "torn.flac"
    soundfile.write(path, whole, SAMPLE_RATE)
    segment._decoder = Torn(segment._decoder, 2 * UNIT + RADIUS + 1)  # type: ignore[assignment]
    rows = [segmented(segment, piece) for piece in pieces(str(path), len(whole))]
    assert [row[2] for row in rows[2]] == ["unreadable"]
    assert "unreadable" not in {row[2] for row in rows[0] + rows[1]}
    assert rows[1][-1][1] != 2 * UNIT, "a nominal edge would prove nothing"
    flat = [row for part in rows for row in part]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(flat)), flat


class Patchy(IsolatedDecoder):
    """Finds that something of unknown length is missing at one place."""

    place = 0

    def decode(self, source: object, window: tuple[int, int | None] = (0, None)) -> Decoded:
        heard = super().decode(source, window)  # type: ignore[arg-type]
        inside = window[0] <= self.place < window[0] + len(heard.pcm)
        problems = (Problem(Span(self.place, self.place), "gap"),) if inside else ()
        return Decoded(
            pcm=heard.pcm,
            end_reached=heard.end_reached,
            total_samples=heard.total_samples,
            problems=heard.problems + problems,
        )


@pytest.mark.parametrize("place", [0, 5 * SAMPLE_RATE, UNIT - RADIUS, UNIT, UNIT + RADIUS, 60 * SAMPLE_RATE])
def test_a_loss_of_unknown_length_is_reported_by_one_piece(segment: Segment, tmp_path: Path, place: int) -> None:
    whole = sound(70)
    path = tmp_path / "patchy.flac"
    soundfile.write(path, whole, SAMPLE_RATE)
    segment.close()
    segment._decoder = Patchy()
    segment._decoder.place = place
    told = []
    for piece in pieces(str(path), len(whole)):
        unit = segment.process(Unit(unit_id="talk-000000", domain="talk", pieces=(piece,)))
        told += [stretch.span for stretch in unit.stretches if stretch.outcome == "unreadable"]
    assert told == [Span(place, place)]


def test_a_full_disk_is_not_taken_for_a_missing_recording(
    segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder for temporary files no decoder starts: that is no fault of any recording."""
    path = tmp_path / "good.flac"
    soundfile.write(path, sound(10), SAMPLE_RATE)

    def no_folder() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", no_folder)
    with pytest.raises(RuntimeError, match="decoder process could not be started"):
        segment.process(Unit(unit_id="talk-000000", domain="talk", pieces=tuple(pieces(str(path), 10 * SAMPLE_RATE))))


@pytest.mark.parametrize("order", [1, -1])
def test_a_duplicates_language_is_not_believed(segment: Segment, tmp_path: Path, order: int) -> None:
    path = tmp_path / "good.flac"
    soundfile.write(path, sound(10), SAMPLE_RATE)
    good = Piece(recording=Recording(recording_id="a", uri=str(path), domain="talk", language="en"))
    copy = Piece(
        recording=Recording(recording_id="a", uri=str(tmp_path / "copy.flac"), domain="talk", language="zh"),
        problem=Rejection(stage="plan", reason="duplicate"),
    )
    hints: list[str | None] = []

    class Listening(HashRecogniser):
        def transcribe(self, clips: object, languages: list[str | None]) -> list[Hypothesis]:  # type: ignore[override]
            hints.extend(languages)
            return super().transcribe(clips, languages)  # type: ignore[arg-type]

    transcribe = Transcribe(load=Listening, rules=HallucinationRules())
    transcribe.open()
    transcribe.process(segment.process(Unit(unit_id="talk-000000", domain="talk", pieces=(good, copy)[::order])))
    assert set(hints) == {"en"}
