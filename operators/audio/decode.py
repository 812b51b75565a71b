"""Decode any container to 16 kHz mono, and encode clips for the shards.

    source ──open_media──> packets ──decoder──> frames ──Timeline──> int16 of one window + what could not be read
    clip ──encode_flac / encode_opus──> bytes, the same for the same samples

Decoding always starts at the beginning and drops what lies before the window, except in PCM WAV, where a seek is exact.
Opus, AAC and MP3 decoders carry state that a seek loses, so samples after one are close but not equal, and two units
that read the same stretch must agree to the bit. It is affordable: FFmpeg runs through unwanted audio at 800 (Opus) to
6,000 times real time.

**What is lost keeps its place.** A packet that will not decode becomes silence of its own length ("decode_error"); a
jump of 50 ms or more in the timestamps becomes silence of that length ("gap"). Neither goes past the declared length:
there only the place is reported. When the audio ends a quarter of a second or more before its declared length the rest
is "truncated". A stretch with NaN or infinity is "non_finite".
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile

from operators.audio.media import (
    REASONS,
    AudioError,
    FileRange,
    Limits,
    Media,
    Probe,
    Source,
    check_format,
    open_media,
    probe,
)
from operators.audio.timeline import Emit, Problem, Timeline
from operators.clip import SAMPLE_RATE

__all__ = [
    "PROBLEMS",
    "REASONS",
    "AudioError",
    "Decoded",
    "Ending",
    "FileRange",
    "Limits",
    "Probe",
    "Problem",
    "Source",
    "decode",
    "decode_into",
    "encode_flac",
    "encode_opus",
    "probe",
]

PROBLEMS = ("truncated", "decode_error", "gap", "non_finite", "too_large", "trailing_data")
"""Why a part of a recording cannot be read. "trailing_data": the header claims less than the file holds; the rest is
not used.
"""

_TOLERANCE = SAMPLE_RATE // 4
"""A declared length may round, or count an encoder's delay and padding (Opus: up to 0.2 s): no loss below a quarter
second.
"""

_JUMP_SECONDS = 0.05
"""Timestamps of good files jitter by less (Matroska rounds to 1 ms, some writers to a video frame)."""

_SEEK_MARGIN_SECONDS = 60
_NOTHING = np.zeros(0, np.int16)
_SIGN_OF_LIFE = 256
"""Frames between two calls of `emit` with nothing, while the window has not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is known of a recording once a window of it was decoded."""

    end_reached: bool
    """the recording ends inside the window or before it."""
    total_samples: int | None
    """length of the timeline, known when the end was reached; a "truncated" remainder comes after it."""
    problems: tuple[Problem, ...]
    """what could not be read inside the window, by start; where samples exist for it they are silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One window of a recording."""

    pcm: np.ndarray
    """int16 [samples], 16 kHz mono: the window, clipped to the end of the recording."""
    end_reached: bool
    total_samples: int | None
    problems: tuple[Problem, ...]


def decode(source: Source, window: tuple[int, int | None] = (0, None), limits: Limits | None = None) -> Decoded:
    """Decode the samples [start, end) of a recording's 16 kHz mono timeline; `end` None: to its end.

    Memory holds the window and about a second more, however long the recording is.

    Raises:
        AudioError: nothing of the recording can be read; the reason says why.
    """
    collected = Collector(window)
    ending = decode_into(collected.add, source, window, limits or Limits())
    return collected.finish(ending)


def decode_into(emit: Emit, source: Source, window: tuple[int, int | None], limits: Limits) -> Ending:
    """`decode`, handing out the window's samples as they come. Empty arrays are a sign of life before the window
    begins.
    """
    start, end = window
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"not a window: {window}")
    most = int(limits.max_seconds * SAMPLE_RATE)
    with open_media(source, limits) as media:
        timeline = Timeline((start, end), emit)
        finished = _run(media, timeline, start, limits, emit)
        if not finished:
            return Ending(end_reached=False, total_samples=None, problems=timeline.problems)
        timeline.close()
        total = timeline.samples
        if total == 0:
            raise AudioError("decode_error", "no frame could be decoded")
        declared = media.declared_samples or 0
        if total >= most:
            timeline.report(total, max(total, declared), "too_large")
        elif declared - total >= _TOLERANCE:
            timeline.report(total, declared, "truncated")
        elif media.claims.unfinished:
            timeline.report(total, total, "truncated")
        if media.claims.trailing_data:
            timeline.report(total, total, "trailing_data")
        return Ending(end_reached=True, total_samples=total, problems=timeline.problems)


class Collector:
    """Grow an array sample by sample, so that a window is never held twice."""

    def __init__(self, window: tuple[int, int | None]) -> None:
        # Untouched pages cost nothing: a window far past the end of a short file does not use its size.
        self._pcm = np.empty(1 << 20 if window[1] is None else min(window[1] - window[0], 1 << 27), np.int16)
        self._count = 0

    def add(self, pcm: np.ndarray) -> None:
        need = self._count + len(pcm)
        if need > len(self._pcm):
            self._pcm.resize(max(need, len(self._pcm) * 3 // 2), refcheck=False)
        self._pcm[self._count : need] = pcm
        self._count = need

    def finish(self, ending: Ending) -> Decoded:
        self._pcm.resize(self._count, refcheck=False)
        return Decoded(
            pcm=self._pcm,
            end_reached=ending.end_reached,
            total_samples=ending.total_samples,
            problems=ending.problems,
        )


def encode_flac(pcm: np.ndarray) -> bytes:
    """FLAC of int16 [samples] at 16 kHz, lossless, the same bytes for the same samples."""
    _check_clip(pcm)
    written = io.BytesIO()
    # libsndfile's FLAC is three times as fast as FFmpeg's and 4 % smaller.
    soundfile.write(written, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return written.getvalue()


def encode_opus(pcm: np.ndarray, bitrate: int = 32_000) -> bytes:
    """Ogg Opus of int16 [samples] at 16 kHz and `bitrate` bits/s, the same bytes for the same samples."""
    _check_clip(pcm)
    written = io.BytesIO()
    # FFmpeg's muxer, not libsndfile's, which draws the Ogg serial number at random; bitexact: no serial, no version in
    # the tags.
    with av.open(written, "w", format="ogg", options={"fflags": "+bitexact"}) as output:
        options = {"b": str(bitrate), "application": "voip", "flags": "+bitexact"}
        stream: Any = output.add_stream("libopus", rate=SAMPLE_RATE, options=options)
        stream.codec_context.layout, stream.codec_context.format = "mono", "s16"
        stream.codec_context.thread_count = 1
        stream.codec_context.open()
        for at in range(0, len(pcm), stream.codec_context.frame_size):
            samples = np.ascontiguousarray(pcm[np.newaxis, at : at + stream.codec_context.frame_size])
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), at
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return written.getvalue()


def _check_clip(pcm: np.ndarray) -> None:
    if pcm.dtype != np.int16 or pcm.ndim != 1 or not len(pcm):
        raise ValueError(f"want int16 [samples > 0], got {pcm.dtype} {list(pcm.shape)}")


def _run(media: Media, timeline: Timeline, start: int, limits: Limits, emit: Emit) -> bool:
    """Decode until the window is complete (False) or the recording ends (True)."""
    stream, declared = media.stream, media.declared_samples
    room = None if declared is None else declared + _TOLERANCE
    most = int(limits.max_seconds * SAMPLE_RATE)
    tick = float(stream.time_base)
    expected: float | None = None  # timestamp at which the next frame should start, in seconds
    form: tuple[int, int] | None = None
    for number, packet in enumerate(_packets(media, timeline, start)):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            lost = float(packet.duration or 0) * tick
            timeline.lose(lost, "decode_error", room)
            expected = None if expected is None else expected + lost
            continue
        for frame in frames:
            if timeline.samples >= most:
                return True
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if form != (rate, channels):
                check_format(rate, channels, limits)
                form = rate, channels
            if frame.pts is not None:
                at = frame.pts * tick
                jump = 0.0 if expected is None else at - expected
                if jump >= _JUMP_SECONDS:
                    timeline.lose(jump, "gap", room)
                expected = at
            expected = None if expected is None else expected + frame.samples / rate
            if timeline.wants(frame.samples, rate, channels):
                timeline.add(_samples(frame, channels), rate)
            else:
                timeline.skip(frame.samples)
        if timeline.done:
            return False
        if number % _SIGN_OF_LIFE == 0:
            emit(_NOTHING)
    return True


def _packets(media: Media, timeline: Timeline, start: int) -> Iterator[Any]:
    """The recording's packets from its beginning, or from just before the window where seeking is exact."""
    container, stream = media.container, media.stream
    codec = stream.codec_context
    target = (start // SAMPLE_RATE - _SEEK_MARGIN_SECONDS) * codec.sample_rate
    packets = container.demux(stream)
    if container.format.name in ("wav", "w64") and codec.name.startswith("pcm_") and target > 0:
        try:
            container.seek(target, stream=stream)
            first = next(packets)
            if first.pts is None:
                raise EOFError
            timeline.seek(first.pts, codec.sample_rate, codec.channels)
            yield first
        except (EOFError, av.FFmpegError):  # cut off before the window: only reading it all tells where
            container.seek(0, stream=stream)
            packets = container.demux(stream)
    try:
        yield from packets
    except av.FFmpegError:  # the container breaks off here: what came before is good, the rest is missing
        return


def _samples(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """[C, n] in the decoder's sample type, whether it interleaves channels or not."""
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar or channels == 1 else samples.reshape(-1, channels).T
