"""Recordings made for a test, in any container, and small crawls of them: folders, manifests, tars."""

from __future__ import annotations

import io
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from operators.audio.decode import (
    REASONS,
    AudioError,
    Decoded,
    Limits,
    decode,
)
from operators.clip import SAMPLE_RATE
from pipeline.config import SourceSettings
from pipeline.sources.files import SourceFile, read_sources

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
"""Container and its codec, with a sample rate to try it at."""


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


def write_wav(
    path: Path, signal: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "PCM_16", format: str = "WAV"
) -> Path:
    soundfile.write(path, signal, rate, subtype=subtype, format=format)
    return path


def reason_of(source: object, limits: Limits | None = None) -> str:
    with pytest.raises(AudioError) as caught:
        decode(source, limits=limits)  # type: ignore[arg-type]
    assert caught.value.reason in REASONS
    return caught.value.reason


def lost(decoded: Decoded) -> int:
    return sum(problem.span.samples for problem in decoded.problems)


def read(*paths: object, **settings: Any) -> list[SourceFile]:
    return list(read_sources([SourceSettings(path=str(path), **settings) for path in paths]))


def problems(files: list[SourceFile]) -> dict[str, str]:
    return {file.recording_id: file.problem.reason for file in files if file.problem}


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def manifest(tmp_path: Path, text: str | bytes, name: str = "m.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def tar_bytes(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()
