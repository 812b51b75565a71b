"""Recordings as crawls really hold them: joined, holed, cut off by a pipe, with headers that guess. Made by PyAV alone.

Every one holds bursts of a tone, so that what is heard can be told from what is filled in.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
import soundfile


def bursts(seconds: float, rate: int = 44_100, hertz: float = 440.0) -> np.ndarray:
    """0.7 s of a tone each second, float [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * hertz * time) * (time % 1 >= 0.3)


class Pipe(io.RawIOBase):
    """A file that cannot seek, as `ffmpeg ... - | cat > file` writes: headers stay as they were first written."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += data
        return len(data)


def encode(
    format: str,
    codec: str,
    signal: np.ndarray,
    rate: int = 44_100,
    *,
    start: float = 0.0,
    bit_rate: int = 0,
    video: float = 0.0,
    pipe: bool = False,
    video_codec: str = "mpeg4",
    more: tuple[np.ndarray, ...] = (),
    **options: str,
) -> bytes:
    """A file of float [samples] or [C, samples]: its audio begins at `start` s, beside `video` s of film.

    `more` are further audio tracks, `pipe` writes where nothing can be gone back to.
    """
    sink: Any = Pipe() if pipe else io.BytesIO()
    with av.open(sink, "w", format=format, options=options) as output:
        if video:
            picture: Any = output.add_stream(video_codec, rate=10)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        tracks = []
        for sound in (signal, *more):
            stream: Any = output.add_stream(codec, rate=rate)
            if bit_rate:
                stream.bit_rate = bit_rate
            stream.codec_context.layout = "stereo" if sound.ndim == 2 else "mono"
            stream.codec_context.open()
            tracks.append((stream, np.atleast_2d(sound)))
        if video:
            for number in range(round(video * 10)):
                frame = av.VideoFrame(64, 64, "yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                output.mux(picture.encode(frame))
            output.mux(picture.encode(None))
        for stream, sound in tracks:
            _encode_track(output, stream, sound, rate, start)
    return bytes(sink.written) if pipe else sink.getvalue()


def _encode_track(output: Any, stream: Any, sound: np.ndarray, rate: int, start: float) -> None:
    context = stream.codec_context
    size, form = context.frame_size or 1024, context.format.name
    scale, kind = {"f": (1, np.float32), "s16": (32767, np.int16), "s32": (2147483647, np.int32)}[
        form.rstrip("p").removesuffix("lt") if form.startswith("f") else form.rstrip("p")
    ]
    samples = (sound * scale).astype(kind)
    for at in range(0, samples.shape[1], size):
        part = samples[:, at : at + size]
        packed = part if form.endswith("p") else part.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), form, context.layout.name)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at + round(start * rate)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def holed(data: bytes, share: float = 0.1, size: int = 0) -> bytes:
    """The file with zeros in its middle."""
    size = size or round(len(data) * share)
    at = (len(data) - size) // 2
    return data[:at] + bytes(size) + data[at + size :]


def wav(seconds: float, rate: int = 44_100, claimed: int | None = None) -> bytes:
    """PCM WAV whose data chunk claims to be `claimed` bytes."""
    body = (bursts(seconds, rate) * 32767).astype("<i2").tobytes()
    fields = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    claimed = len(body) if claimed is None else claimed
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", claimed) + body
    return b"RIFF" + struct.pack("<I", min(claimed + 36, 0xFFFFFFFF)) + chunks


def aiff(seconds: float, rate: int = 44_100, *, from_pipe: bool = False) -> bytes:
    """PCM AIFF; from a pipe with the sizes that sox writes then."""
    body = (bursts(seconds, rate) * 32767).astype(">i2").tobytes()
    frames, size = (0x7F000000 // 2, 0x7F000000 + 8) if from_pipe else (len(body) // 2, len(body) + 8)
    exponent = rate.bit_length() - 1
    extended = struct.pack(">HQ", 16383 + exponent, rate << (63 - exponent))
    common = b"COMM" + struct.pack(">IhIh", 18, 1, frames, 16) + extended
    sound = b"SSND" + struct.pack(">III", size, 0, 0) + body
    return (
        b"FORM" + struct.pack(">I", size + 46 if from_pipe else 4 + len(common) + len(sound)) + b"AIFF" + common + sound
    )


def vorbis(seconds: float, rate: int = 44_100) -> bytes:
    """By libsndfile: PyAV's wheels write no Vorbis."""
    sink, signal = io.BytesIO(), bursts(seconds, rate)
    with soundfile.SoundFile(sink, "w", rate, 1, "VORBIS", format="OGG") as file:
        for at in range(0, len(signal), 4096):  # libsndfile overruns its stack with more at once
            file.write(signal[at : at + 4096])
    return sink.getvalue()


def mp3(seconds: float, bit_rate: int, *, tagged: bool = True) -> bytes:
    return encode("mp3", "libmp3lame", bursts(seconds), bit_rate=bit_rate, write_xing=str(int(tagged)))


def vbr_mp3(seconds: float) -> bytes:
    """Without a tag, its first eighth silence at a fraction of the rate of the noise behind it."""
    rng, count = np.random.default_rng(1), round(seconds * 44_100)
    signal = np.where(np.arange(count) < count // 8, 0, rng.uniform(-0.5, 0.5, count))
    quality = {"flags": "+qscale", "global_quality": "472"}
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp3", options={"write_xing": "0"}) as output:
        stream: Any = output.add_stream("libmp3lame", rate=44_100, options=quality)
        stream.codec_context.layout = "mono"
        stream.codec_context.open()
        _encode_track(output, stream, signal[np.newaxis], 44_100, 0)
    return sink.getvalue()


ODD: dict[str, tuple[Callable[[], bytes], float, float | None]] = {
    # name: (its bytes, seconds heard with holes filled, seconds declared)
    "zeros.ts": (lambda: holed(encode("mpegts", "mp2", bursts(60), bit_rate=64_000), size=131_072), 60, None),
    "hole.opus": (lambda: holed(encode("ogg", "libopus", bursts(60, 48_000), 48_000)), 60, 60),
    "hole.ogg": (lambda: holed(vorbis(60)), 60, 60),
    "hole.mp3": (lambda: holed(mp3(60, 64_000, tagged=False)), 60, None),
    "hole.aac": (lambda: holed(encode("adts", "aac", bursts(30, 16_000), 16_000, bit_rate=32_000)), 30, None),
    "end.aac": (lambda: encode("adts", "aac", bursts(10), bit_rate=64_000) + bytes(36_500), 15, None),
    "rates.ogg": (
        lambda: vorbis(5) + vorbis(5, 22_050),
        10,
        None,
    ),
    "channels.opus": (
        lambda: (
            encode("ogg", "libopus", bursts(5, 48_000), 48_000)
            + encode("ogg", "libopus", np.stack([bursts(5, 48_000)] * 2), 48_000)
        ),
        10,
        None,
    ),
    "codecs.ogg": (
        lambda: vorbis(5) + encode("ogg", "libopus", bursts(5, 48_000), 48_000),
        10,
        None,
    ),
    "two.wav": (lambda: wav(5) + wav(5, 22_050), 10, None),
    "two.aiff": (lambda: aiff(5) + aiff(5, 22_050), 10, None),
    "two.mp4": (lambda: encode("mp4", "aac", bursts(5)) + encode("mp4", "aac", bursts(5, 22_050), 22_050), 10, None),
    "two.flac": (lambda: encode("flac", "flac", bursts(5)) + encode("flac", "flac", bursts(5)), 10, None),
    "advert.mp3": (lambda: mp3(5, 32_000) + mp3(20, 128_000), 25, None),
    "junk.mp3": (lambda: b"HTTP/1.1 200 OK\r\n" * 100 + mp3(20, 64_000, tagged=False), 20, None),
    "vbr.mp3": (lambda: vbr_mp3(20), 20, None),
    "cbr.mp3": (lambda: mp3(20, 64_000, tagged=False), 20, None),
    "film.mkv": (lambda: encode("matroska", "aac", bursts(5), video=10), 5, 5),
    "film.webm": (lambda: encode("webm", "libopus", bursts(5, 48_000), 48_000, video=10, video_codec="libvpx"), 5, 5),
    "film.wmv": (lambda: encode("asf", "wmav2", bursts(5), bit_rate=64_000, video=10, video_codec="wmv2"), 5, None),
    "late.mka": (lambda: encode("matroska", "aac", bursts(5), start=100), 5, 5),
    "late.opus": (lambda: encode("ogg", "libopus", bursts(5, 48_000), 48_000, start=100), 5, 5),
    "late.wmv": (lambda: encode("asf", "wmav2", bursts(5), bit_rate=64_000, start=100), 5, 5),
    "late.ts": (lambda: encode("mpegts", "aac", bursts(5), start=100), 5, None),
    "fffffffe.wav": (lambda: wav(5, claimed=0xFFFFFFFE), 5, None),
    "ffffffd7.wav": (lambda: wav(5, claimed=0xFFFFFFD7), 5, None),
    "7fffff00.wav": (lambda: wav(5, claimed=0x7FFFFF00), 5, None),
    "zero.wav": (lambda: wav(5, claimed=0), 5, None),
    "pipe.aiff": (lambda: aiff(5, from_pipe=True), 5, None),
    "pipe.avi": (lambda: encode("avi", "mp2", bursts(5), pipe=True), 5, None),
    "pipe.wmv": (lambda: encode("asf", "wmav2", bursts(5), bit_rate=64_000, pipe=True), 5, None),
    "pipe.flac": (lambda: encode("flac", "flac", bursts(5), pipe=True), 5, None),
    "second.mkv": (lambda: encode("matroska", "aac", np.zeros(5 * 44_100), more=(bursts(5),)), 5, 5),
}

ESTIMATED = {"hole.aac": 0.5}
"""Seconds by which what is heard may be off: frames of many sizes tell less of what was in their place."""


@cache
def odd(name: str) -> bytes:
    """The bytes of one of them."""
    return ODD[name][0]()
