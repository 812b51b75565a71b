"""What is damaged or cut off keeps its place on the timeline and is counted."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest

from operators.audio.decode import (
    PROBLEMS,
    AudioError,
    Limits,
    decode,
    probe,
)
from operators.clip import SAMPLE_RATE, Span
from tests.support.recordings import CODECS, lost, noise, tone, write_av, write_wav


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_a_reported_silence(value: float, tmp_path: Path) -> None:
    signal = tone(3).astype(np.float32)
    clean = decode(str(write_wav(tmp_path / "clean.wav", signal, subtype="FLOAT"))).pcm
    signal[10_000:20_000] = value
    path = str(write_wav(tmp_path / "a.wav", signal, subtype="FLOAT"))
    decoded = decode(path)
    assert {problem.reason for problem in decoded.problems} == {"non_finite"}
    assert decoded.problems[0].span.start == 10_000
    assert decoded.problems[-1].span.end == 20_000
    assert lost(decoded) == 10_000
    assert not decoded.pcm[10_000:20_000].any()
    np.testing.assert_array_equal(decoded.pcm[:10_000], clean[:10_000])
    np.testing.assert_array_equal(decoded.pcm[20_000:], clean[20_000:])
    assert decode(path, (12_000, 15_000)).problems == ((Span(12_000, 15_000), "non_finite"),)
    assert decode(path, (20_000, None)).problems == ()


@pytest.mark.parametrize(
    ("suffix", "codec"), [("flac", "flac"), ("m4a", "aac"), ("mp3", "libmp3lame"), ("wav", "pcm_s16le")]
)
def test_a_cut_off_file_gives_what_is_there_and_counts_the_rest(suffix: str, codec: str, tmp_path: Path) -> None:
    options = {"movflags": "+faststart"} if suffix == "m4a" else {}
    path = write_av(tmp_path / f"a.{suffix}", tone(8), SAMPLE_RATE, codec, **options)
    whole = decode(str(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    declared = probe(str(path)).declared_samples
    assert declared is not None
    assert abs(declared - 8 * SAMPLE_RATE) < 0.05 * SAMPLE_RATE
    decoded = decode(str(path))
    readable = decoded.total_samples - sum(p.span.samples for p in decoded.problems if p.reason == "decode_error")
    assert 2 * SAMPLE_RATE < readable < 7 * SAMPLE_RATE
    span, reason = decoded.problems[-1]
    assert reason == "truncated"
    assert span == Span(len(decoded.pcm), declared)
    sure = readable - SAMPLE_RATE // 10
    np.testing.assert_array_equal(decoded.pcm[:sure], whole.pcm[:sure])
    # Windows share out the loss without a gap or an overlap, also one that lies past the end of what is there.
    cuts = [0, 50_000, len(decoded.pcm) + 1000, None]
    parts = [decode(str(path), window) for window in itertools.pairwise(cuts)]
    assert sum(map(lost, parts)) == lost(decoded)
    np.testing.assert_array_equal(np.concatenate([part.pcm for part in parts]), decoded.pcm)


def test_a_cut_off_ogg_says_so_though_nobody_knows_how_much(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.opus", tone(8, 48000), 48000, "libopus")
    assert decode(str(path)).problems == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    decoded = decode(str(path))
    assert decoded.problems == ((Span(len(decoded.pcm), len(decoded.pcm)), "truncated"),)


def test_audio_after_a_damaged_flac_frame_keeps_its_time(tmp_path: Path) -> None:
    pcm = (noise(10)[:, 0] * 32767).astype(np.int16)
    path = write_wav(tmp_path / "a.flac", pcm, format="FLAC")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    decoded = decode(str(path))
    assert len(decoded.pcm) == len(pcm)
    assert 0 < lost(decoded) < 2 * SAMPLE_RATE
    damaged = np.flatnonzero(decoded.pcm != pcm)
    assert len(damaged), "the damage did not reach the audio"
    reported = np.zeros(len(pcm), bool)
    for span, reason in decoded.problems:
        assert reason in PROBLEMS
        reported[span.start : span.end] = True
    assert reported[damaged].all(), "damaged samples pass for good ones"


def test_a_lost_ogg_page_is_a_gap_of_its_own_length(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.opus", tone(12, 48000), 48000, "libopus")
    whole = decode(str(path)).pcm
    data = bytearray(path.read_bytes())
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    data[pages[5] + 200] ^= 0xFF
    path.write_bytes(data)
    decoded = decode(str(path))
    assert len(decoded.pcm) == len(whole)
    ((span, reason),) = decoded.problems
    assert reason == "gap"
    assert abs(span.samples - SAMPLE_RATE) < 2000
    later = span.end + SAMPLE_RATE  # a second for the decoder to forget
    assert np.abs(decoded.pcm[later:].astype(int) - whole[later:]).max() < 400
    np.testing.assert_array_equal(decode(str(path), (span.start + 10, None)).pcm, decoded.pcm[span.start + 10 :])


def wav_claiming(path: Path, seconds: float, data_bytes: int) -> Path:
    body = (tone(seconds) * 32767).astype("<i2").tobytes()
    fields = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    riff = b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", data_bytes) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + riff)
    return path


def test_a_wav_header_is_taken_at_its_word(tmp_path: Path) -> None:
    long = decode(str(wav_claiming(tmp_path / "long.wav", 2, 3600 * 32000)))
    assert long.total_samples == 32_000
    assert long.problems == ((Span(32_000, 3600 * SAMPLE_RATE), "truncated"),)
    short = decode(str(wav_claiming(tmp_path / "short.wav", 2, 32000)))
    assert short.total_samples == 16_000
    assert short.problems == ((Span(16_000, 16_000), "trailing_data"),)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_wav_written_to_a_pipe_declares_nothing(size: int, tmp_path: Path) -> None:
    path = str(wav_claiming(tmp_path / "pipe.wav", 2, size))
    assert probe(path).declared_samples is None
    assert decode(path).total_samples == 32_000
    assert decode(path).problems == ()


def test_a_guess_from_the_bit_rate_is_not_a_declaration(tmp_path: Path) -> None:
    assert probe(str(write_av(tmp_path / "a.mp3", tone(3), SAMPLE_RATE, "libmp3lame"))).declared_samples is not None
    assert (
        probe(str(write_av(tmp_path / "b.mp3", tone(3), SAMPLE_RATE, "libmp3lame", write_xing="0"))).declared_samples
        is None
    )
    assert probe(str(write_av(tmp_path / "c.aac", tone(3), SAMPLE_RATE, "aac"))).declared_samples is None


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("b.aac", "aac"), ("c.webm", "libopus")])
def test_what_declares_no_length_has_an_estimate(name: str, codec: str, tmp_path: Path) -> None:
    """Live WebM has neither a length nor a bit rate: the size must do."""
    options = {"write_xing": "0"} if name == "a.mp3" else {"live": "1"} if name == "c.webm" else {}
    found = probe(str(write_av(tmp_path / name, tone(60), 48_000, codec, **options)))
    assert found.declared_samples is None
    assert 10 < found.estimated_samples / SAMPLE_RATE < 300
    bounded = probe(str(tmp_path / name), Limits(max_seconds=5))
    assert bounded.estimated_samples <= 5 * SAMPLE_RATE


def test_an_estimate_is_the_declared_length_where_there_is_one(tmp_path: Path) -> None:
    assert probe(str(write_wav(tmp_path / "a.wav", tone(3)))).estimated_samples == 3 * SAMPLE_RATE


@pytest.mark.parametrize("suffix", ["wav", "flac", "opus", "m4a", "mp3", "webm"])
def test_damage_anywhere_is_an_answer_not_an_accident(suffix: str, tmp_path: Path) -> None:
    codec, rate = CODECS[suffix]
    data = write_av(tmp_path / f"a.{suffix}", tone(2, rate), rate, codec).read_bytes()
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(40):
        damaged = bytearray(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.5 else data)
        for _ in range(rng.integers(0, 4)):
            at = rng.integers(0, min(len(damaged), 400) if rng.random() < 0.5 else len(damaged))
            damaged[at] = rng.integers(0, 256)
        try:
            decoded = decode(io.BytesIO(bytes(damaged)), limits=Limits(max_seconds=60))
            assert decoded.total_samples == len(decoded.pcm)
            assert {reason for _, reason in decoded.problems} <= set(PROBLEMS)
            outcomes.add("decoded")
        except AudioError as error:
            outcomes.add(error.reason)
    assert "decoded" in outcomes
