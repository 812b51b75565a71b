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
    Media,
    Probe,
    Source,
    View,
    check_format,
    open_media,
    open_source,
    probe,
)
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

_TOLERANCE = SAMPLE_RATE // 4
"""A declared length may round, or count an encoder's delay and padding (Opus: up to 0.2 s): no loss below a quarter
second.
"""

_JUMP_SECONDS = 0.05
"""Timestamps of good files jitter by less (Matroska rounds to 1 ms, some writers to a video frame)."""

_SEEK_MARGIN_SECONDS = 60
_FRUITLESS = 1000
"""Errors in a row after which a demuxer that reads nothing new is given up."""

_LEAST_BYTES = 500
"""Bytes that a second of compressed sound takes at least, as far as holes are concerned: 4 kbit/s."""

_RAW = frozenset(("mp3", "aac", "ac3", "eac3", "dts", "amr", "amrnb", "amrwb", "mp2"))
"""Containers without a clock: a hole in them is measured by its bytes."""

_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""How a packet begins that is no sound and was none: what stands between two MP3 files that were joined."""

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
    """`decode` as a generator: it yields int16 [samples] one after the other and returns the `Ending`.

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
        reader = _Reader(media, timeline, limits)
        yield from reader.run(seek_to)
        if timeline.done:
            return
        timeline.close()
        total, declared = timeline.samples, base + (media.declared_samples or 0)
        if total >= most:
            timeline.report(total, max(total, declared), "too_large")
        elif not media.claims.whole and declared - max(total, reader.end_samples) >= _TOLERANCE:
            timeline.report(total, declared, "truncated")
        elif media.claims.unfinished and total > base:
            timeline.report(total, total, "truncated")
        elif reader.astray and total > base:
            timeline.report(total, total, "decode_error")
        if media.claims.trailing_data:
            timeline.report(total, total, "trailing_data")


class _Reader:
    """Takes one recording from its container, and keeps the books of what is missing between its frames."""

    def __init__(self, media: Media, timeline: Timeline, limits: Limits) -> None:
        self._media, self._timeline, self._limits = media, timeline, limits
        self._tick = float(media.stream.time_base)
        self._base = timeline.samples
        declared = media.declared_samples
        self._room = None if declared is None else self._base + declared + _TOLERANCE
        self._raw = media.container.format.name in _RAW
        self.astray = False
        """the demuxer reported an error since the last frame."""
        self._first: float | None = None  # timestamp of the first frame, in seconds
        self._expected: float | None = None  # timestamp at which the next frame should start
        self._heard_bytes, self._heard_seconds = 0, 0.0  # of packets that gave frames
        self._next_byte: int | None = None  # where the next packet should lie in the file
        self._unheard = 0  # bytes since the last packet that gave a frame

    @property
    def end_samples(self) -> int:
        """Where the last frame ended by the recording's own clock, if that begins elsewhere than at 0."""
        if self._expected is None or self._first is None or self._first < _JUMP_SECONDS:
            return self._timeline.samples
        return self._base + round(self._expected * SAMPLE_RATE)

    def run(self, seek_to: int) -> Iterator[None]:
        """Decode until the window is complete or the recording ends; between two packets the caller may look."""
        most = int(self._limits.max_seconds * SAMPLE_RATE)
        for number, packet in enumerate(self._packets(seek_to)):
            if packet is None:
                self.astray = True
                continue
            self._pass_over(packet)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._lose_packet(packet)
                yield
                continue
            if self._raw and frames and self._unheard:
                self._lose(self._unheard / self._byte_rate(), "decode_error")
            for frame in frames:
                if self._timeline.samples >= most:
                    return
                self._take(frame)
            if frames:
                self._heard_bytes += packet.size
                self._unheard = 0
            yield
            if self._timeline.done:
                return
            if number % _SIGN_OF_LIFE == 0:
                self._timeline.sign_of_life()

    def _take(self, frame: av.AudioFrame) -> None:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        check_format(rate, channels, self._limits)
        if frame.pts is not None:
            at = frame.pts * self._tick
            jump = 0.0 if self._expected is None else at - self._expected
            if jump >= _JUMP_SECONDS and not self._raw:
                self._lose(jump, "gap")
                self.astray = False
            self._expected = at
            self._first = at if self._first is None else self._first
        if self.astray:  # something was lost, and no clock tells how much
            here = self._timeline.samples
            self._timeline.report(here, here, "decode_error")
            self.astray = False
        seconds = frame.samples / rate
        self._expected = None if self._expected is None else self._expected + seconds
        self._heard_seconds += seconds
        if self._timeline.wants(frame.samples, rate, channels):
            self._timeline.add(_samples(frame, channels), rate)
        else:
            self._timeline.skip(frame.samples)

    def _lose_packet(self, packet: Any) -> None:
        if self._raw and bytes(memoryview(packet)[:11]).startswith(_TAGS):
            return
        seconds = float(packet.duration or 0) * self._tick
        if self._raw and self._heard_seconds > 1:
            # Its size tells more: in a stream without a clock all of a hole is one packet.
            seconds = max(seconds, packet.size / self._byte_rate())
        self._unheard += packet.size
        self._lose(seconds, "decode_error")
        if self._raw:
            self._unheard = 0
        self._expected = None if self._expected is None else self._expected + seconds

    def _lose(self, seconds: float, reason: str) -> None:
        room = self._room
        if (
            room is None
        ):  # twice what so many bytes hold elsewhere in the file, and a second for what was in their midst
            believable = 1 + 2 * self._unheard / self._byte_rate()
            room = self._timeline.samples + round(believable * SAMPLE_RATE)
        self._timeline.lose(seconds, reason, room)

    def _byte_rate(self) -> float:
        """Bytes a second of the file so far, pictures and all."""
        if self._heard_seconds < 1:
            return _LEAST_BYTES
        read = self._heard_bytes if self._raw else max(self._heard_bytes, self._next_byte or 0)
        return max(_LEAST_BYTES, read / self._heard_seconds)

    def _pass_over(self, packet: Any) -> None:
        """Count the bytes between the packet before and this one, as far as positions are known."""
        if packet.pos is None or packet.pos < 0 or not packet.size:
            return
        if self._next_byte is not None:
            self._unheard += max(0, packet.pos - self._next_byte)
        self._next_byte = packet.pos + packet.size

    def _packets(self, seek_to: int) -> Iterator[Any]:
        """The recording's packets from its beginning, or from just before the window where seeking is exact; None
        where the demuxer lost its way and found on."""
        media, container, stream = self._media, self._media.container, self._media.stream
        codec = stream.codec_context
        target = (seek_to // SAMPLE_RATE - _SEEK_MARGIN_SECONDS) * codec.sample_rate
        packets = container.demux(stream)
        if container.format.name in ("wav", "w64") and codec.name.startswith("pcm_") and target > 0:
            try:
                container.seek(target, stream=stream)
                first = next(packets)
                if first.pts is None:
                    raise EOFError
                self._timeline.seek(first.pts, codec.sample_rate, codec.channels)
                yield first
            except (EOFError, av.FFmpegError):  # cut off before the window: only reading it all tells where
                container.seek(0, stream=stream)
                packets = container.demux(stream)
        fruitless, reached = 0, media.view.reached
        while True:
            try:
                for packet in packets:
                    fruitless = 0
                    yield packet
                return
            except av.FFmpegError:
                fruitless = 0 if media.view.reached > reached else fruitless + 1
                reached = media.view.reached
                yield None
                if fruitless >= _FRUITLESS:
                    return
                packets = container.demux(stream)


def _samples(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """[C, n] in the decoder's sample type, whether it interleaves channels or not."""
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar or channels == 1 else samples.reshape(-1, channels).T
