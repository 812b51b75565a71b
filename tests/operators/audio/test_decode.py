"""Decoding anything: the timeline, what is refused, and the codecs of the shards."""

from __future__ import annotations

import io
import itertools
import json
import os
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from operators.audio.decode import (
    REASONS,
    FileRange,
    Limits,
    decode,
    encode_flac,
    encode_opus,
    probe,
)
from operators.clip import SAMPLE_RATE
from tests.conftest import REPOSITORY
from tests.support.recordings import CODECS, noise, reason_of, tone, write_av, write_wav


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


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(44100, 2, "PCM_24"), (24000, 8, "PCM_16"), (7999, 1, "PCM_16")]
)
def test_a_seek_in_wav_gives_what_decoding_from_the_start_gives(
    rate: int, channels: int, subtype: str, tmp_path: Path
) -> None:
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
        "import sys, hashlib, numpy as np; from operators.audio.decode import encode_flac, encode_opus;"
        "pcm = np.random.default_rng(3).integers(-9000, 9000, 40000).astype(np.int16);"
        "sys.stdout.write(hashlib.sha256(encode_flac(pcm) + encode_opus(pcm)).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY).stdout
        for _ in range(2)
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
        readable = len(decoded.pcm) - sum(
            span.samples for span, reason in decoded.problems if reason in ("decode_error", "gap")
        )
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
