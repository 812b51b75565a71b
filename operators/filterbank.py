"""Kaldi's log-mel filterbank in numpy alone, and the sums that normalise it.

    int16 pcm ──25 ms windows every 10 ms──> minus mean ──> pre-emphasis ──> povey window ──> |FFT|² ──> 80 mels ──> log
    features of every clip ──MelSums.add──> sums ──cmvn()──> mean, 1/std per bin

The trainer, the hand-off and the recogniser without torch all hear through this one function, so it needs numpy and
nothing more. It follows compute-fbank-feats with --dither=0 --num-mel-bins=80: int16 scale, snip_edges, 20 Hz and up.

Shapes: T samples, F frames, 80 mel bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from operators.clip import SAMPLE_RATE

__all__ = [
    "BINS",
    "FFT",
    "FLOOR",
    "PRE_EMPHASIS",
    "SAMPLE_RATE",
    "SHIFT",
    "WINDOW",
    "MelSums",
    "filterbank",
    "mel_weights",
    "window",
]

BINS = 80
WINDOW = SAMPLE_RATE * 25 // 1000
"""Samples that one frame hears."""
SHIFT = SAMPLE_RATE * 10 // 1000
"""Samples from one frame to the next."""

FFT = 512  # the power of two above the window
PRE_EMPHASIS = np.float32(0.97)
_LOW_HZ, _HIGH_HZ = 20.0, SAMPLE_RATE / 2
FLOOR = np.finfo(np.float32).eps
_CHUNK = 1024
"""Frames transformed at once: about 8 MB, so that an hour of audio costs no more memory than its features."""


def filterbank(pcm: np.ndarray) -> np.ndarray:
    """Return log-mel energies of int16 [T] at 16 kHz as float32 [F, 80], F = 1 + (T - 400) // 160, or 0 below 400
    samples.

    The numbers are those of torchaudio.compliance.kaldi.fbank(dither=0) on the samples unscaled.

    Raises:
        ValueError: not one dimension of int16.
    """
    if pcm.dtype != np.int16 or pcm.ndim != 1:
        raise ValueError(f"want int16 [samples], got {pcm.dtype} {list(pcm.shape)}")
    if len(pcm) < WINDOW:
        return np.zeros((0, BINS), np.float32)
    frames_FW = sliding_window_view(pcm, WINDOW)[::SHIFT]
    features_F80 = np.empty((len(frames_FW), BINS), np.float32)
    for start in range(0, len(frames_FW), _CHUNK):
        features_F80[start : start + _CHUNK] = _log_mel(frames_FW[start : start + _CHUNK].astype(np.float32))
    return features_F80


def _log_mel(frames_FW: np.ndarray) -> np.ndarray:
    frames_FW -= frames_FW.mean(axis=1, keepdims=True)
    before_FW = np.concatenate((frames_FW[:, :1], frames_FW[:, :-1]), axis=1)
    frames_FW -= PRE_EMPHASIS * before_FW
    spectrum_FK = np.fft.rfft(frames_FW * window(), FFT, axis=1)
    power_FK = (spectrum_FK.real**2 + spectrum_FK.imag**2).astype(np.float32, copy=False)
    return np.log(np.maximum(power_FK @ mel_weights(), FLOOR))


@cache
def window() -> np.ndarray:
    """Return Kaldi's povey window, float32 [400]: a Hann window to the power of 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    return (hann**0.85).astype(np.float32)


@cache
def mel_weights() -> np.ndarray:
    """Return triangles even on the mel scale 1127 ln(1 + f / 700), float32 [257, 80]. Nyquist counts for none."""

    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(_LOW_HZ), mel(_HIGH_HZ), BINS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mels_K1 = mel(np.arange(FFT // 2 + 1) * (SAMPLE_RATE / FFT))[:, np.newaxis]
    rising, falling = (mels_K1 - left) / (centre - left), (right - mels_K1) / (right - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[-1] = 0.0
    return weights.astype(np.float32)


def _no_sums() -> np.ndarray:
    return np.zeros(BINS, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class MelSums:
    """MelSums are what the global mean and variance of features need: counts and sums that add up over clips, units and
    runs.
    """

    frames: int = 0
    sums: np.ndarray = field(default_factory=_no_sums)
    """float64 [80]: the sum over all frames."""
    squares: np.ndarray = field(default_factory=_no_sums)
    """float64 [80]: the sum of squares over all frames."""

    def add(self, features_F80: np.ndarray) -> MelSums:
        """Return these sums and those of the float features [F, 80] of one more clip."""
        wide = features_F80.astype(np.float64)
        return self + MelSums(len(wide), wide.sum(axis=0), np.square(wide).sum(axis=0))

    def __add__(self, other: MelSums) -> MelSums:
        return MelSums(self.frames + other.frames, self.sums + other.sums, self.squares + other.squares)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MelSums) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Return the sums as JSON holds them, exactly: `from_dict(to_dict())` is equal to the bit."""
        return {"frames": self.frames, "sums": self.sums.tolist(), "squares": self.squares.tolist()}

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> MelSums:
        """Raises KeyError or ValueError when `record` is none of `to_dict`."""
        sums, squares = (np.array(record[name], np.float64) for name in ("sums", "squares"))
        if sums.shape != (BINS,) or squares.shape != (BINS,):
            raise ValueError(f"want sums of {BINS} bins, got {sums.shape} and {squares.shape}")
        return MelSums(int(record["frames"]), sums, squares)

    def cmvn(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and 1/standard deviation of every bin, float32 [80] each: normalised = (features - mean) *
        istd.

        Raises:
            ValueError: no frame was added.
        """
        if not self.frames:
            raise ValueError("no frames to normalise by")
        mean = self.sums / self.frames
        # A bin that never changes (digital silence) must not be blown up, nor a variance rounded below zero.
        variance = np.maximum(self.squares / self.frames - mean**2, 1e-4)
        return mean.astype(np.float32), (1.0 / np.sqrt(variance)).astype(np.float32)
