"""Lay decoded frames on the recording's 16 kHz mono timeline and hand out one window of it.

    frame [C, n] at any rate ──Mixer──> block ──libswresample──> 16 kHz ──clip to window──> emit(int16)

The timeline is a function of the recording alone, never of the window asked for: work is done in blocks that lie on a
fixed grid, and a window that starts late runs in two blocks ahead of itself, by when the resampler and the mixer know
nothing of where they began. So the samples of two neighbouring windows, end to end, are those of the one window that
covers both.

How channels become one is `operators.audio.mix`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.audio.resampler import AudioResampler

from operators.audio.mix import Mixer, block_seconds
from operators.clip import SAMPLE_RATE, Span

Emit = Callable[[np.ndarray], None]
"""Takes the next int16 samples of the window. Empty arrays come while the decoder is still ahead of it: a sign of
life.
"""

_JOIN_SECONDS = 0.1
"""Non-finite samples closer than this are one unreadable stretch."""

_RESAMPLER = {
    "filter_size": "32",
    "phase_shift": "10",
    "exact_rational": "1",
    "linear_interp": "0",
    "cutoff": "0.97",
    "filter_type": "kaiser",
    "kaiser_beta": "9",
    "dither_method": "0",
}
"""libswresample's settings, all named so that another version's defaults change nothing."""


class Problem(NamedTuple):
    """A Problem is a stretch of a recording that could not be read, and why. An empty span: something is missing there,
    length unknown.
    """

    span: Span
    reason: str


class Timeline:
    """A Timeline takes frames and gives one window of 16 kHz mono int16.

    Args:
        window: [start, end) in samples at 16 kHz; end None: to the end of the recording.
        emit: takes the window's samples, in order, as they become known.
    """

    def __init__(self, window: tuple[int, int | None], emit: Emit) -> None:
        self._start, self._end = window
        self._emit = emit
        self._segment: _Segment | None = None
        self._problems: list[Problem] = []
        self._base = 0  # where the segment starts

    @property
    def samples(self) -> int:
        """Return the length of the timeline so far."""
        return self._base + (self._segment.samples if self._segment else 0)

    @property
    def done(self) -> bool:
        """Return whether the window is complete."""
        return self._end is not None and self._segment is not None and self._base + self._segment.produced >= self._end

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return what could not be read inside the window, in order of time; touching spans of one reason are one."""
        end = math.inf if self._end is None else self._end
        joined: list[Problem] = []
        for (span, reason), empty in sorted((problem, not problem.span.samples) for problem in set(self._problems)):
            low, high = max(span.start, self._start), int(min(span.end, end))
            if low >= high and not (empty and self._start <= span.start and (span.start < end)):
                continue
            if joined and joined[-1].reason == reason and joined[-1].span.end >= low:
                joined[-1] = Problem(Span(joined[-1].span.start, max(high, joined[-1].span.end)), reason)
            else:
                joined.append(Problem(Span(low, high), reason))
        return tuple(joined)

    def report(self, start: int, end: int, reason: str) -> None:
        """Note that [start, end) of the timeline could not be read."""
        self._problems.append(Problem(Span(start, end), reason))

    def wants(self, samples: int, sample_rate: int, channels: int) -> bool:
        """Return whether the next frame must be given to `add`; if not, `skip` will do, and is much cheaper."""
        return self._at(sample_rate, channels).wants(samples)

    def add(self, frame: np.ndarray, sample_rate: int) -> None:
        """Append a decoded frame: [C, n], any sample type."""
        segment = self._at(sample_rate, frame.shape[0])
        for pcm, bad in segment.push(frame):
            self._take(pcm, bad)

    def skip(self, samples: int) -> None:
        """Append a frame whose samples `wants` has refused."""
        assert self._segment is not None
        self._segment.skip(samples)

    def seek(self, samples: int, sample_rate: int, channels: int) -> None:
        """Start at `samples` of the stored rate instead of 0, where an exact seek has put the decoder."""
        self._at(sample_rate, channels).skip(samples)

    def sign_of_life(self) -> None:
        """Hand out nothing: whoever waits for the window sees that work goes on."""
        self._emit(np.zeros(0, np.int16))

    def lose(self, seconds: float, reason: str, limit: int | None) -> None:
        """Keep time moving over something lost: silence, reported.

        If that would pass `limit` (in samples; None: unknown), time stands still and only the place is reported.
        """
        start, segment = self.samples, self._segment
        room = 0 if limit is None else max(0, limit - start)
        if segment is None or not seconds * SAMPLE_RATE <= room:
            self.report(start, start, reason)
            return
        left = round(seconds * segment.rate)
        while left > 0:
            count = min(left, segment.rate)
            if segment.wants(count):
                self.add(np.zeros((segment.channels, count), np.float32), segment.rate)
            else:
                segment.skip(count)
            left -= count
        self.report(start, self.samples, reason)

    def close(self) -> None:
        """Hand out what the resampler still holds, once the recording has ended."""
        if self._segment is not None:
            for pcm, bad in self._segment.finish():
                self._take(pcm, bad)
            self._base += self._segment.samples
            self._segment = None

    def _at(self, sample_rate: int, channels: int) -> _Segment:
        if self._segment is None or (self._segment.rate, self._segment.channels) != (sample_rate, channels):
            self.close()
            self._segment = _Segment(sample_rate, channels, max(0, self._start - self._base))
        return self._segment

    def _take(self, pcm: np.ndarray, bad: list[tuple[int, int]]) -> None:
        assert self._segment is not None
        for start, end in bad:
            self.report(self._base + start, self._base + end, "non_finite")
        at = self._base + self._segment.produced - len(pcm)
        low = max(0, self._start - at)
        high = len(pcm) if self._end is None else min(len(pcm), self._end - at)
        if low < high:
            self._emit(pcm[low:high])


class _Segment:
    """A run of frames of one sample rate and channel count (a chained file may hold several)."""

    def __init__(self, rate: int, channels: int, start: int) -> None:
        self.rate, self.channels = rate, channels
        step = rate // math.gcd(rate, SAMPLE_RATE)  # both clocks tick together every `step` stored samples
        self._block = step * max(1, math.ceil(block_seconds(rate, channels) * rate / step))
        self._first = max(0, start * rate // SAMPLE_RATE // self._block - 2) * self._block
        """the stored sample from which on frames are wanted."""
        self._received = 0
        self._held: list[np.ndarray] = []  # float32 [C, n]
        self._held_samples = 0
        self._at = self._first  # of the next block to mix
        self.produced = self._first * SAMPLE_RATE // rate
        self._mixer = Mixer(rate)
        self._resampler = (
            None if rate == SAMPLE_RATE else AudioResampler("fltp", "mono", SAMPLE_RATE, options=_RESAMPLER)
        )

    @property
    def samples(self) -> int:
        """Length at 16 kHz of what was received."""
        return -(-self._received * SAMPLE_RATE // self.rate)

    def wants(self, samples: int) -> bool:
        return self._received + samples > self._first

    def skip(self, samples: int) -> None:
        self._received += samples

    def push(self, frame: np.ndarray) -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
        early = max(0, self._first - self._received)
        self._received += frame.shape[1]
        self._held.append(_to_float(frame[:, early:]))
        self._held_samples += frame.shape[1] - early
        if self._held_samples >= self._block:
            held = np.concatenate(self._held, axis=1)
            whole = held.shape[1] // self._block * self._block
            self._held, self._held_samples = [held[:, whole:]], held.shape[1] - whole
            for at in range(0, whole, self._block):
                yield self._convert(held[:, at : at + self._block])

    def finish(self) -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
        if self._held_samples:
            yield self._convert(np.concatenate(self._held, axis=1))
        if self._resampler is not None:
            tail = _to_int16(self._resampler.resample(None))
            missing = self.samples - self.produced  # the flush may differ from the exact length by a sample
            if self._received > self._first and missing > 0:
                self.produced = self.samples
                yield np.pad(tail[:missing], (0, max(0, missing - len(tail)))), []

    def _convert(self, block: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
        block, bad = _finite(block, self.rate)
        mono = self._mixer.mix(block)
        if self._resampler is None:
            pcm = _quantise(mono)
        else:
            frame = av.AudioFrame.from_ndarray(mono[np.newaxis], "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = self.rate, Fraction(1, self.rate), self._at
            pcm = _to_int16(self._resampler.resample(frame))
        spans = [
            ((self._at + low) * SAMPLE_RATE // self.rate, -(-(self._at + high) * SAMPLE_RATE // self.rate))
            for low, high in bad
        ]
        self._at += block.shape[1]
        pcm = pcm[: self.samples - self.produced]
        self.produced += len(pcm)
        return pcm, spans


def _to_float(frame: np.ndarray) -> np.ndarray:
    """float32, full scale ±1, whatever the decoder's sample type; NaN and infinity stay."""
    if frame.dtype == np.uint8:
        return (frame.astype(np.float32) - 128) / 128
    if frame.dtype.kind == "i":
        return frame.astype(np.float32) / np.float32(2.0 ** (8 * frame.dtype.itemsize - 1))
    with np.errstate(over="ignore"):  # a double too large for a float becomes infinity, and is reported as such
        return frame.astype(np.float32)


def _finite(block: np.ndarray, rate: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The block within [-1, 1], and the stretches that held NaN or infinity, which become silence."""
    bad: list[tuple[int, int]] = []
    finite = np.isfinite(block)
    if not finite.all():
        places = np.flatnonzero(~finite.all(axis=0))
        for run in np.split(places, np.flatnonzero(np.diff(places) > _JOIN_SECONDS * rate) + 1):
            bad.append((int(run[0]), int(run[-1]) + 1))
        block = block.copy()
        for low, high in bad:
            block[:, low:high] = 0
    return np.clip(block, -1, 1), bad


def _quantise(mono: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(mono * np.float32(32768)), -32768, 32767).astype(np.int16)


def _to_int16(frames: list[av.AudioFrame]) -> np.ndarray:
    if not frames:
        return np.zeros(0, np.int16)
    return _quantise(np.concatenate([frame.to_ndarray()[0] for frame in frames]))
