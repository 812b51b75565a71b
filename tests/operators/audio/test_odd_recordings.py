"""A recording is heard to its end, whatever its container claims: right seconds, right holes, no invented length."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from operators.audio.decode import decode, probe
from operators.audio.isolated import IsolatedDecoder
from operators.audio.links import find_links
from operators.audio.measure import measure
from operators.clip import SAMPLE_RATE
from tests.support.odd_recordings import ESTIMATED, ODD, aiff, bursts, encode, holed, mp3, odd, wav

HOLES = {
    # name: where the hole begins and its length, in seconds
    "zeros.ts": (26.5, 7.1),
    "hole.opus": (27, 7),
    "hole.ogg": (25, 9),
    "hole.mp3": (27, 6),
    "hole.aac": (13.5, 3),
    "end.aac": (10, 5),
}
CLOCKLESS = ("hole.mp3", "hole.aac", "end.aac")
"""The lengths of their holes are estimated from bytes."""


@pytest.mark.parametrize("name", ODD)
def test_it_is_heard_to_its_end(name: str) -> None:
    _, seconds, declared = ODD[name]
    data = odd(name)
    heard = decode(io.BytesIO(data))
    assert heard.end_reached
    assert heard.total_samples == len(heard.pcm)
    assert abs(len(heard.pcm) / SAMPLE_RATE - seconds) < ESTIMATED.get(name, 0.1)
    told = probe(io.BytesIO(data)).declared_samples
    if name == "two.flac":  # the first file's length, less than what is heard: nothing is lost by it
        assert told == 5 * SAMPLE_RATE
    elif declared is None:
        assert told is None
    else:
        assert told is not None
        assert abs(told / SAMPLE_RATE - declared) < 0.05
    if name not in HOLES:
        assert heard.problems == ()
        # What is heard is sound, not what was filled in.
        loud = np.abs(heard.pcm.astype(int)) > 300
        assert all(part.any() for part in np.array_split(loud, round(seconds)) if name != "vbr.mp3")
        return
    where, length = HOLES[name]
    filled = [problem.span for problem in heard.problems if problem.span.samples]
    assert abs(filled[-1].start / SAMPLE_RATE - where) < 0.6
    assert abs(sum(span.seconds for span in filled) - length) < 0.5
    assert not heard.pcm[filled[-1].start + 2000 : filled[-1].end - 2000].any()
    assert name == "end.aac" or np.abs(heard.pcm[filled[-1].end :].astype(int)).max() > 2000


@pytest.mark.parametrize(
    "name", ["zeros.ts", "hole.opus", "hole.aac", "rates.ogg", "two.wav", "second.mkv", "pipe.aiff"]
)
def test_its_windows_join_bit_for_bit(name: str) -> None:
    seconds, data = ODD[name][1], odd(name)
    whole = decode(io.BytesIO(data))
    cuts = [0, 30_001, *(round(seconds * SAMPLE_RATE * share) for share in (0.45, 0.5, 0.7)), None]
    parts = [decode(io.BytesIO(data), window) for window in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate([part.pcm for part in parts]), whole.pcm)
    lost = sum(problem.span.samples for part in parts for problem in part.problems)
    assert lost == sum(problem.span.samples for problem in whole.problems)


@pytest.mark.parametrize("name", sorted({name for name, odd in ODD.items() if odd[2] is None} - {"two.flac"}))
def test_what_declares_no_length_can_be_measured(name: str) -> None:
    seconds, data = ODD[name][1], odd(name)
    hole = HOLES[name][1] if name in CLOCKLESS else 0  # what is not there cannot be counted
    assert abs(measure(io.BytesIO(data)) / SAMPLE_RATE - seconds + hole) < 0.2
    with IsolatedDecoder() as decoder:
        assert decoder.measure(io.BytesIO(data)) == measure(io.BytesIO(data))


def test_a_second_track_with_sound_is_named() -> None:
    heard = decode(io.BytesIO(encode("matroska", "aac", bursts(4), more=(bursts(4, hertz=700),))))
    assert [(problem.span.samples, problem.reason) for problem in heard.problems] == [(0, "other_track")]
    spectrum = np.abs(np.fft.rfft(heard.pcm[: 4 * SAMPLE_RATE].astype(float)))
    assert abs(spectrum.argmax() / 4 - 440) < 2


def test_many_holes_and_a_broken_end_are_survived() -> None:
    data = encode("ogg", "libopus", bursts(60, 48_000), 48_000)
    for share in (0.02, 0.5, 0.9):
        decoded = decode(io.BytesIO(holed(data, share)))
        assert abs(len(decoded.pcm) / SAMPLE_RATE - 60) < 0.1
        lost = sum(problem.span.seconds for problem in decoded.problems)
        assert abs(lost - 60 * share) < 2.5
    cut = decode(io.BytesIO(holed(data, 0.1)[: len(data) * 8 // 10]))
    assert abs(len(cut.pcm) / SAMPLE_RATE - 48) < 1.5
    assert cut.problems[-1].reason == "truncated"


def test_a_jump_that_no_bytes_bear_out_is_not_filled() -> None:
    """Two transport streams end to end: the clock of the second begins hours later."""
    data = encode("mpegts", "mp2", bursts(5)) + encode("mpegts", "mp2", bursts(5), start=10_000)
    heard = decode(io.BytesIO(data))
    assert abs(len(heard.pcm) / SAMPLE_RATE - 10) < 0.2
    assert [(problem.span.samples, problem.reason) for problem in heard.problems] == [(0, "gap")]


def test_links_cover_the_file() -> None:
    parts = [wav(1), wav(2, 16_000), wav(1)]
    data = b"".join(parts)
    links = find_links(lambda at, size: data[at : at + size], len(data))
    assert links == [(0, len(parts[0])), (len(parts[0]), len(parts[1])), (len(parts[0]) + len(parts[1]), len(parts[2]))]
    tagged = wav(1) + b"LIST" + (5).to_bytes(4, "little") + b"INFO\0\0" + wav(1)
    assert len(find_links(lambda at, size: tagged[at : at + size], len(tagged))) == 2
    for alone in (wav(1), aiff(1), mp3(2, 64_000), b"", b"OggS", b"RIFF\xff\xff\xff\xffWAVE"):
        assert len(find_links(lambda at, size, alone=alone: alone[at : at + size], len(alone))) == 1  # type: ignore[misc]
