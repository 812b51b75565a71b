"""Read one recording from its container onto the timeline, over errors and holes, to its end.

packets ──decoder──> frames ──> Timeline
   ├─ an error of the demuxer: it is asked again
   └─ what will not decode, a jump of the clock, bytes that were passed over: silence of that length, reported
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from operators.audio.adts import TAGS, AdtsGaps
from operators.audio.media import Limits, Media, check_format
from operators.audio.timeline import Timeline
from operators.clip import SAMPLE_RATE

TOLERANCE = SAMPLE_RATE // 4
"""A declared length may round, or count an encoder's delay and padding (Opus: up to 0.2 s): no loss below this."""

_JUMP_SECONDS = 0.05
"""Timestamps of good files jitter by less (Matroska rounds to 1 ms, some writers to a video frame)."""

_SEEK_MARGIN_SECONDS = 60
"""How long before a window a mixer of channels is fed, so that it weighs them as it would from the beginning."""
_MONO_MARGIN_SECONDS = 2
_FRUITLESS = 1000
"""Errors in a row after which a demuxer that reads nothing new is given up."""

_LEAST_BYTES = 500
"""Bytes that a second of compressed sound takes at least, as far as holes are concerned: 4 kbit/s."""

_RAW = frozenset(("mp3", "aac", "ac3", "eac3", "dts", "amr", "amrnb", "amrwb", "mp2"))
"""Containers without a clock: the length of a hole in them is estimated from its bytes."""

_SIGN_OF_LIFE = 256
"""Frames between two calls of `emit` with nothing, while the window has not begun."""


class Reader:
    """A Reader takes one recording from its container, and keeps the books of what is missing between its frames."""

    def __init__(self, media: Media, timeline: Timeline, limits: Limits) -> None:
        self._media, self._timeline, self._limits = media, timeline, limits
        self._tick = float(media.stream.time_base)
        self._base = timeline.samples
        declared = media.declared_samples
        self._room = None if declared is None else self._base + declared + TOLERANCE
        self._raw = media.container.format.name in _RAW
        self.astray = False
        """the demuxer reported an error since the last frame."""
        self._first: float | None = None  # timestamp of the first frame, in seconds
        self._expected: float | None = None  # timestamp at which the next frame should start
        self._heard_bytes, self._heard_seconds = 0, 0.0  # of packets that gave frames
        self._next_byte: int | None = None  # where the next packet should lie in the file
        self._unheard = 0  # bytes since the last packet that gave a frame
        self._gaps: AdtsGaps | None = None  # the demuxer of ADTS counts no bytes between frames
        if media.container.format.name == "aac":
            self._gaps = AdtsGaps()
            self._gaps.feed(media.view.read_at(0, media.view.tell()))
            media.view.watch = self._gaps.feed

    @property
    def end_samples(self) -> int:
        """Return where the last frame ended by the recording's own clock, if that begins elsewhere than at 0."""
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
        if self._gaps is not None and (left := self._gaps.passed_over(None)):
            self._unheard += left
            self._lose(self._unheard / self._byte_rate(), "decode_error")

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
        if self._raw and bytes(memoryview(packet)[:11]).startswith(TAGS):
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
        if self._gaps is not None:
            self._unheard += self._gaps.passed_over(packet.pos)
        if self._next_byte is not None:
            self._unheard += max(0, packet.pos - self._next_byte)
        self._next_byte = packet.pos + packet.size

    def _packets(self, seek_to: int) -> Iterator[Any]:
        """The recording's packets from its beginning, or from just before the window where seeking is exact; None
        where the demuxer lost its way and found on."""
        media, container, stream = self._media, self._media.container, self._media.stream
        codec = stream.codec_context
        margin = _SEEK_MARGIN_SECONDS if codec.channels > 1 else _MONO_MARGIN_SECONDS
        target = (seek_to // SAMPLE_RATE - margin) * codec.sample_rate
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
