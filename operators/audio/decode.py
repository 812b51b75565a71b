"""Decode any container to 16 kHz mono, and encode clips for the shards.

    source ──find_links──> links ──open_media──> packets ──decoder──> frames ──Timeline──> int16 of one window
                                                    └─ what could not be read, where it lies ─> Ending
    clip ──encode_flac / encode_opus──> bytes, the same for the same samples

Decoding always starts at the beginning and drops what lies before the window, except in PCM WAV, where a seek is exact.
Opus, AAC and MP3 decoders carry state that a seek loses, so samples after one are close but not equal, and two units
that read the same stretch must agree to the bit. It is affordable: FFmpeg runs through unwanted audio at 800 (Opus) to
6,000 times real time.

**A recording is heard to its end.** Where the container breaks off, the demuxer is asked again for as long as it comes
on. Files that hold several recordings end to end are heard link by link.

**What is lost keeps its place.** A packet that will not decode becomes silence of its own length ("decode_error"); a
jump of 50 ms or more in the timestamps becomes silence of that length ("gap"). Neither goes past the declared length
or, where there is none, past what the bytes that were passed over may have held: there only the place is reported. When
the audio ends a quarter of a second or more before its declared length the rest is "truncated". A stretch with NaN or
infinity is "non_finite".
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile

from operators.audio.links import find_links
from operators.audio.media import (
    REASONS,
    AudioError,
    FileRange,
    Limits,
    Probe,
    Source,
    View,
    open_media,
    open_source,
    probe,
)
from operators.audio.reader import TOLERANCE, Reader
from operators.audio.timeline import Emit, Problem, Timeline
from operators.audio.tracks import choose_track
from operators.clip import SAMPLE_RATE

__all__ = [
    "NO_SAMPLES",
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
    "audio_length",
    "decode",
    "decode_into",
    "encode_flac",
    "encode_opus",
    "probe",
    "stream",
]

PROBLEMS = ("truncated", "decode_error", "gap", "non_finite", "too_large", "trailing_data", "other_track")
"""Why a part of a recording cannot be read. "trailing_data": the header claims less than the file holds; the rest is
not used. "other_track": another track of the file holds sound as well; it is not used.
"""

NO_SAMPLES = "no samples"
"""The detail of "decode_error" for a sound file that holds nothing."""


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
    """A Decoded is one window of a recording."""

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
    """Decode as `decode` does, handing out the window's samples as they come. Empty arrays are a sign of life before
    the window begins.
    """
    parts = stream(source, window, limits)
    while True:
        try:
            emit(next(parts))
        except StopIteration as end:
            ending: Ending = end.value
            return ending


def stream(
    source: Source, window: tuple[int, int | None] = (0, None), limits: Limits | None = None
) -> Generator[np.ndarray, None, Ending]:
    """Decode as `decode` does, as a generator: it yields int16 [samples] one after the other and returns the `Ending`.

    Empty arrays come now and then, also inside the window. Raises AudioError as `decode`, after what could be read.
    """
    start, end = window
    limits = limits or Limits()
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"not a window: {window}")
    ready: list[np.ndarray] = []
    timeline = Timeline((start, end), ready.append)
    unreadable: AudioError | None = None
    with open_source(source, limits) as view:
        links = find_links(view.read_at, view.size)
        for offset, size in links:
            alone = len(links) == 1
            try:
                for _ in _link(view if alone else view.part(offset, size), timeline, start if alone else 0, limits):
                    yield from ready
                    ready.clear()
            except AudioError as error:
                if alone:
                    raise
                unreadable = unreadable or error
                timeline.report(timeline.samples, timeline.samples, "decode_error")
            if timeline.done:
                return Ending(end_reached=False, total_samples=None, problems=timeline.problems)
            timeline.close()
            yield from ready
            ready.clear()
            if timeline.samples >= int(limits.max_seconds * SAMPLE_RATE):
                break
    total = timeline.samples
    if total == 0:
        detail = "no frame could be decoded" if timeline.problems else NO_SAMPLES
        raise unreadable or AudioError("decode_error", detail)
    return Ending(end_reached=True, total_samples=total, problems=timeline.problems)


def audio_length(source: Source, limits: Limits | None = None) -> int:
    """Return a recording's samples at 16 kHz, found by decoding it to its end; nothing is kept. Raises AudioError."""
    ending = decode_into(lambda pcm: None, source, (_NEVER, None), limits or Limits())
    assert ending.total_samples is not None
    return ending.total_samples


_NEVER = 1 << 60


class Collector:
    """A Collector grows an array sample by sample, so that a window is never held twice."""

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
    """Return FLAC of int16 [samples] at 16 kHz, lossless, the same bytes for the same samples."""
    _check_clip(pcm)
    written = io.BytesIO()
    # libsndfile's FLAC is three times as fast as FFmpeg's and 4 % smaller.
    soundfile.write(written, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return written.getvalue()


def encode_opus(pcm: np.ndarray, bitrate: int = 32_000) -> bytes:
    """Return Ogg Opus of int16 [samples] at 16 kHz and `bitrate` bits/s, the same bytes for the same samples."""
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


def _link(view: View, timeline: Timeline, seek_to: int, limits: Limits) -> Iterator[None]:
    """Decode one recording onto the timeline, packet by packet, until the window is complete or the recording ends."""
    base, most = timeline.samples, int(limits.max_seconds * SAMPLE_RATE)
    with ExitStack() as opened:
        media = opened.enter_context(open_media(view, limits))
        if media.other_tracks:
            opened.close()
            track, others = choose_track(view, limits)
            media = opened.enter_context(open_media(view, limits, track))
            if others:
                timeline.report(base, base, "other_track")
        reader = Reader(media, timeline, limits)
        yield from reader.run(seek_to)
        if timeline.done:
            return
        timeline.close()
        total, declared = timeline.samples, base + (media.declared_samples or 0)
        if total >= most:
            timeline.report(total, max(total, declared), "too_large")
        elif not media.claims.whole and declared - max(total, reader.end_samples) >= TOLERANCE:
            timeline.report(total, declared, "truncated")
        elif media.claims.unfinished and total > base:
            timeline.report(total, total, "truncated")
        elif reader.astray and total > base:
            timeline.report(total, total, "decode_error")
        if media.claims.trailing_data:
            timeline.report(total, total, "trailing_data")
