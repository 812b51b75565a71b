"""What Whisper hears of samples: log-mel features, of the clip's own length or of Whisper's 30-s window.

    int16 pcm ──frames of 25 ms, every 10 ms──> power ──mel filters──> log10 ──at most 8 below the loudest──> [F, bins]

The same numbers as transformers' WhisperFeatureExtractor. Shapes: F frames of 10 ms.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from operators.filterbank import SAMPLE_RATE

WINDOW_FRAMES = 3_000
_FFT, _HOP = 400, 160


class Mel(NamedTuple):
    """A Mel is the features of one clip."""

    features_FM: np.ndarray
    """float32 [F, bins]: of the clip, or of the whole window"""
    frames: int
    """of the clip itself"""


def frames_of(samples: int) -> int:
    """Return the frames of a clip: one for every 10 ms begun."""
    return min(WINDOW_FRAMES, -(-samples // _HOP))


def log_mel(pcm: np.ndarray, bins: int, *, full_window: bool) -> Mel:
    """Return the features of int16 [T] at 16 kHz; 3000 frames, silence behind the clip, with `full_window`."""
    own = frames_of(len(pcm))
    frames = WINDOW_FRAMES if full_window else own
    signal = np.zeros(frames * _HOP, np.float64)
    signal[: len(pcm)] = pcm[: len(signal)] / 32768.0
    padded = np.pad(signal, _FFT // 2, mode="reflect" if len(signal) > _FFT // 2 else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:frames]
    power = np.abs(np.fft.rfft(windows * _hann(), axis=1)) ** 2
    log = np.log10(np.maximum(power @ _filters(bins), 1e-10))
    return Mel(((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32), own)


@lru_cache
def _hann() -> np.ndarray:
    return np.hanning(_FFT + 1)[:-1]


@lru_cache
def _filters(bins: int) -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(1 + _FFT // 2, bins, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
