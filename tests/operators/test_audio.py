"""Decoding anything: the timeline, what is lost, what is refused, and the codecs of the shards."""

from __future__ import annotations

import io
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from operators.audio import (
    PROBLEMS,
    REASONS,
    AudioError,
    Decoded,
    FileRange,
    Limits,
    decode,
    encode_flac,
    encode_opus,
    probe,
)
from operators.clip import SAMPLE_RATE, Span

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def tone(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    """A sine that grows from 1/8 to 1/2 of full scale, so that every moment of it is told from every other."""
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * hertz * time) * np.linspace(0.125, 0.5, len(time))


def noise(seconds: float, channels: int = 1, rate: int = SAMPLE_RATE) -> np.ndarray:
    return np.random.default_rng(7).uniform(-0.5, 0.5, (round(seconds * rate), channels))


def write_av(path: Path, signal: np.ndarray, rate: int, codec: str, video: bool = False, **options: str) -> Path:
    """Encode float [samples] as mono with PyAV, in the container of the path's suffix."""
    with av.open(str(path), "w", options=options) as output:
        if video:
            picture = output.add_stream("mpeg4", rate=10)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        stream = output.add_stream(codec, rate=rate)
        stream.codec_context.layout = "mono"
        stream.codec_context.open()
        if video:
            for _ in range(10):
                output.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            output.mux(picture.encode(None))
        size, form = stream.codec_context.frame_size or 1024, stream.codec_context.format.name
        scale, kind = {"f": (1, np.float32), "s16": (32767, np.int16), "s32": (2147483647, np.int32)}[
            form.rstrip("p").rstrip("lt")
        ]
        for at in range(0, len(signal), size):
            samples = np.ascontiguousarray((signal[np.newaxis, at : at + size] * scale).astype(kind))
            frame = av.AudioFrame.from_ndarray(samples, form, "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_wav(path: Path, signal: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "PCM_16", format: str = "WAV") -> Path:
    soundfile.write(path, signal, rate, subtype=subtype, format=format)
    return path


def reason_of(source: object, limits: Limits | None = None) -> str:
    with pytest.raises(AudioError) as caught:
        decode(source, limits=limits)  # type: ignore[arg-type]
    assert caught.value.reason in REASONS
    return caught.value.reason


def lost(decoded: Decoded) -> int:
    return sum(problem.span.samples for problem in decoded.problems)


CODECS = {
    "wav": ("pcm_s16le", 44100),
    "aiff": ("pcm_s16be", 22050),
    "flac": ("flac", 48000),
    "opus": ("libopus", 48000),
    "webm": ("libopus", 48000),
    "mp3": ("libmp3lame", 44100),
    "m4a": ("aac", 44100),
    "mov": ("alac", 32000),
    "ts": ("mp2", 48000),
    "avi": ("mp2", 44100),
    "mkv": ("flac", 96000),
    "au": ("pcm_mulaw", 8000),
}


@pytest.mark.parametrize("suffix", CODECS)
def test_every_codec_gives_its_tone_and_windows_join_bit_for_bit(suffix: str, tmp_path: Path) -> None:
    codec, rate = CODECS[suffix]
    path = str(write_av(tmp_path / f"a.{suffix}", tone(6, rate), rate, codec))
    whole = decode(path)
    assert whole.problems == ()
    assert whole.end_reached
    assert whole.total_samples == len(whole.pcm)
    assert abs(len(whole.pcm) - 6 * SAMPLE_RATE) <= 0.05 * SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(whole.pcm[: 4 * SAMPLE_RATE].astype(float)))
    assert spectrum.argmax() == 4 * 440
    cuts = [0, 1, 15_999, 40_000, 40_001, 77_777, None]
    windows = [decode(path, window) for window in itertools.pairwise(cuts)]
    assert [window.end_reached for window in windows] == [False] * 5 + [True]
    np.testing.assert_array_equal(np.concatenate([window.pcm for window in windows]), whole.pcm)
    assert len(decode(path, (10**7, None)).pcm) == 0


def test_16_khz_mono_pcm_is_untouched(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 50_001).astype(np.int16)
    np.testing.assert_array_equal(decode(str(write_wav(tmp_path / "a.wav", pcm))).pcm, pcm)


@pytest.mark.parametrize(("rate", "channels", "subtype"), [(44100, 2, "PCM_24"), (24000, 8, "PCM_16"), (7999, 1, "PCM_16")])
def test_a_seek_in_wav_gives_what_decoding_from_the_start_gives(rate: int, channels: int, subtype: str, tmp_path: Path) -> None:
    signal = (noise(75, channels, rate) * 2**31).astype(np.int32)
    sought = str(write_wav(tmp_path / "a.wav", signal, rate, subtype))
    read = str(write_wav(tmp_path / "a.flac", signal, rate, subtype, "FLAC"))  # never sought
    for window in ((64 * SAMPLE_RATE + 1, 70 * SAMPLE_RATE), (74 * SAMPLE_RATE, None), (76 * SAMPLE_RATE, None)):
        one, other = decode(sought, window), decode(read, window)
        np.testing.assert_array_equal(one.pcm, other.pcm)
        assert (one.total_samples, one.problems) == (other.total_samples, other.problems)


def test_memory_is_bounded_by_the_window(tmp_path: Path) -> None:
    path = str(write_wav(tmp_path / "hour.flac", np.zeros(3600 * SAMPLE_RATE, np.int16), format="FLAC"))
    window = (1800 * SAMPLE_RATE, 1860 * SAMPLE_RATE)
    tracemalloc.start()
    decoded = decode(path, window)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(decoded.pcm) == 60 * SAMPLE_RATE
    assert not decoded.end_reached
    assert peak < decoded.pcm.nbytes + (4 << 20)


def test_a_tar_member_and_a_file_object_are_read_like_the_file(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.m4a", tone(3), SAMPLE_RATE, "aac")
    data = path.read_bytes()
    (tmp_path / "all.tar").write_bytes(b"\0" * 512 + data + b"RIFF" * 1000)
    member = FileRange(str(tmp_path / "all.tar"), 512, len(data))
    expected = decode(str(path)).pcm
    np.testing.assert_array_equal(decode(member).pcm, expected)
    np.testing.assert_array_equal(decode(io.BytesIO(data)).pcm, expected)
    assert probe(member) == probe(str(path)) == probe(io.BytesIO(data))
    assert probe(member).bytes == len(data)
    assert probe(member).codec == "aac"


# Mono


def rms_db(pcm: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(pcm.astype(float)))) / 32768))


def test_a_voice_in_one_channel_of_eight_keeps_its_level(tmp_path: Path) -> None:
    signal = np.zeros((3 * SAMPLE_RATE, 8))
    signal[:, 3] = tone(3)
    mono = decode(str(write_wav(tmp_path / "a.wav", signal))).pcm
    assert abs(rms_db(mono) - rms_db(tone(3) * 32768)) < 0.5


def test_equal_channels_are_unchanged_and_full_scale_does_not_clip(tmp_path: Path) -> None:
    one = np.sign(tone(2)) * 0.999
    mono = decode(str(write_wav(tmp_path / "1.wav", one))).pcm
    six = decode(str(write_wav(tmp_path / "6.wav", np.repeat(one[:, None], 6, axis=1)))).pcm
    assert np.abs(six.astype(int) - mono).max() <= 1


def test_a_miswired_plug_does_not_cancel_the_voice(tmp_path: Path) -> None:
    mono = decode(str(write_wav(tmp_path / "a.wav", np.stack([tone(2), -tone(2)], axis=1)))).pcm
    assert abs(rms_db(mono) - rms_db(tone(2) * 32768)) < 0.5


# What is lost keeps its place and is counted


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


@pytest.mark.parametrize(("suffix", "codec"), [("flac", "flac"), ("m4a", "aac"), ("mp3", "libmp3lame"), ("wav", "pcm_s16le")])
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
    assert probe(str(write_av(tmp_path / "b.mp3", tone(3), SAMPLE_RATE, "libmp3lame", write_xing="0"))).declared_samples is None
    assert probe(str(write_av(tmp_path / "c.aac", tone(3), SAMPLE_RATE, "aac"))).declared_samples is None


# What is refused


def test_what_is_not_a_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")  # opening it for reading would block for ever
    (tmp_path / "folder.mp3").mkdir()
    (tmp_path / "gone.mp3").symlink_to("/nonexistent/target")
    (tmp_path / "loop.mp3").symlink_to(tmp_path / "loop.mp3")
    (tmp_path / "empty.mp3").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.wav")
        assert reason_of("socket.wav") == "not_a_file"
    assert reason_of(str(tmp_path / "pipe.wav")) == "not_a_file"
    assert reason_of(str(tmp_path / "folder.mp3")) == "not_a_file"
    assert reason_of("/dev/zero") == "not_a_file"
    assert reason_of(str(tmp_path / "gone.mp3")) == "missing"
    assert reason_of(str(tmp_path / "none.mp3")) == "missing"
    assert reason_of("a\0.mp3") == "missing"
    assert reason_of(str(tmp_path / "loop.mp3")) == "read_error"
    assert reason_of(str(tmp_path / "empty.mp3")) == "empty_file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_locked_file_is_a_matter_of_permission(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(1))
    path.chmod(0)
    assert reason_of(str(path)) == "permission"


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_never_followed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_av(tmp_path / "secret.aac", tone(2), SAMPLE_RATE, "aac")
    path = tmp_path / "list.m3u8"
    path.write_text(PLAYLISTS[kind].format("secret.aac"))
    with path.open("rb") as file, av.open(file) as unguarded:  # the danger is real: FFmpeg reads the other file
        assert sum(frame.samples for frame in unguarded.decode(audio=0)) >= 2 * SAMPLE_RATE
    assert reason_of(str(path)) == "not_audio"
    with path.open("rb") as file:
        assert reason_of(file) == "not_audio"


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html>not found</html>",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 15004 RTP/AVP 0\n",
        b"PK\x03\x04" + bytes(5000),
        b"just a line of text\n" * 20,
        np.random.default_rng(0).bytes(20_000),
    ],
)
def test_other_things_are_not_audio(data: bytes) -> None:
    assert reason_of(io.BytesIO(data)) == "not_audio"


def test_video_is_passed_over_and_a_silent_film_has_no_audio(tmp_path: Path) -> None:
    film = decode(str(write_av(tmp_path / "film.mp4", tone(1, 44100), 44100, "aac", video=True)))
    assert film.problems == ()
    assert abs(len(film.pcm) - SAMPLE_RATE) < 800
    with av.open(str(tmp_path / "silent.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(stream.encode(None))
    assert reason_of(str(tmp_path / "silent.mp4")) == "no_audio_stream"


def test_limits(tmp_path: Path) -> None:
    path = str(write_wav(tmp_path / "a.wav", noise(10, 2), 32000))  # 5 s
    assert reason_of(path, Limits(max_bytes=1000)) == "too_large"
    assert reason_of(path, Limits(max_channels=1)) == "too_large"
    assert reason_of(path, Limits(max_sample_rate=16000)) == "too_large"
    flac = str(write_wav(tmp_path / "a.flac", tone(10), format="FLAC"))
    used = decode(flac, limits=Limits(max_seconds=4))
    assert used.end_reached
    assert 4 * SAMPLE_RATE <= len(used.pcm) < 5 * SAMPLE_RATE
    assert [problem.reason for problem in used.problems] == ["too_large"]


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


# The shards' codecs


@pytest.mark.parametrize("samples", [1, 15, 4096, 4097, 48_000])
def test_flac_is_lossless(samples: int) -> None:
    pcm = np.random.default_rng(samples).integers(-32768, 32768, samples).astype(np.int16)
    data = encode_flac(pcm)
    np.testing.assert_array_equal(decode(io.BytesIO(data)).pcm, pcm)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(data), dtype="int16")[0], pcm)
    assert soundfile.info(io.BytesIO(data)).samplerate == SAMPLE_RATE


@pytest.mark.parametrize("samples", [1, 4097, 48_000])
def test_opus_keeps_length_and_sound(samples: int) -> None:
    pcm = (tone(3) * 32767).astype(np.int16)[:samples]
    decoded = decode(io.BytesIO(encode_opus(pcm)))
    assert len(decoded.pcm) == samples
    assert decoded.problems == ()
    if samples > SAMPLE_RATE:
        assert np.corrcoef(decoded.pcm, pcm)[0, 1] > 0.95
        assert len(encode_opus(pcm, 64_000)) > len(encode_opus(pcm, 16_000))


def test_encoded_bytes_are_the_same_in_every_process() -> None:
    program = (
        "import sys, hashlib, numpy as np; from operators.audio import encode_flac, encode_opus;"
        "pcm = np.random.default_rng(3).integers(-9000, 9000, 40000).astype(np.int16);"
        "sys.stdout.write(hashlib.sha256(encode_flac(pcm) + encode_opus(pcm)).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY).stdout for _ in range(2)
    }
    assert len(runs) == 1
    assert len(runs.pop()) == 64


@pytest.mark.parametrize("bad", [np.zeros(0, np.int16), np.zeros(8, np.float32), np.zeros((2, 8), np.int16)])
def test_only_mono_int16_is_encoded(bad: np.ndarray) -> None:
    for encode in (encode_flac, encode_opus):
        with pytest.raises(ValueError, match="int16"):
            encode(bad)


# Real recordings


def test_real_broken_files_are_answered_as_expected(crawl: Path) -> None:
    rows = [json.loads(line) for line in (crawl / "broken" / "truth_broken.jsonl").read_text().splitlines()]
    assert len(rows) == 31
    window = (0, 600 * SAMPLE_RATE)
    for row in rows:
        name, expect = row["path"], row["expect"]
        refused = {"unreadable": REASONS, "skip": ("not_a_file",)}.get(expect, ())
        refused = ("bad_header",) if name.endswith("fast.wav") else refused
        if refused:
            assert reason_of(str(crawl / name)) in refused, name
            continue
        decoded = decode(str(crawl / name), window)
        assert expect in ("partial", "suspect", "no speech", "too short", "readable"), (name, decoded)
        assert bool(decoded.problems) == (expect in ("partial", "suspect")), (name, decoded.problems)
        seconds = row["ffmpeg_decoded_s"]
        readable = len(decoded.pcm) - sum(span.samples for span, reason in decoded.problems if reason in ("decode_error", "gap"))
        assert abs(min(seconds, 600) - readable / SAMPLE_RATE) < 0.05, (name, readable)
        if name.endswith("surround.wav"):
            assert rms_db(decoded.pcm) > -35


def test_real_recordings_have_their_true_length(crawl: Path) -> None:
    rows = [json.loads(line) for line in (crawl / "truth.jsonl").read_text().splitlines()]
    kinds: dict[tuple[object, ...], dict[str, object]] = {}
    for row in sorted(rows, key=lambda row: row["duration_s"]):
        kinds.setdefault((row["container"], row["codec"], row["sample_rate"], row["channels"]), row)
    assert len(kinds) >= 12
    for row in kinds.values():
        decoded = decode(str(crawl / row["path"]))
        assert abs(len(decoded.pcm) / SAMPLE_RATE - row["duration_s"]) < 0.05, row["path"]
        assert decoded.problems == (), row["path"]
        declared = probe(str(crawl / row["path"])).declared_samples or 0
        assert abs(declared / SAMPLE_RATE - row["duration_s"]) < 0.25, row["path"]
