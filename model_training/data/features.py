"""What the model is given of an array of samples: filterbank, global normalisation, and how many frames come out of it.

    int16 pcm ──operators.filterbank──> features [F, 80] ──Cmvn.apply──> normalised ──the model──> S encoder frames

Shapes: F feature frames of 10 ms, S encoder frames of 40 ms, 80 mel bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from operators.errors import UserError
from operators.filterbank import BINS, MelSums

MIN_FRAMES = 7
"""Below this the two convolutions leave no encoder frame."""
SUBSAMPLING, OVERLAP = 4, 3
"""Feature frames from one encoder frame to the next, and those that an encoder frame hears beyond its own four."""


def subsampled(frames: Any) -> Any:
    """Return the encoder frames that two unpadded convolutions (width 3, stride 2) leave of `frames` (int or array)."""
    return (frames - 3) >> 2  # ((frames - 1) // 2 - 1) // 2, in a quarter of the time on ten million of them


def ctc_frames(ids: Sequence[int]) -> int:
    """Return the fewest encoder frames that CTC needs for labels: one each, and a blank between equal neighbours."""
    return len(ids) + sum(first == second for first, second in pairwise(ids))


@dataclass(frozen=True, slots=True, eq=False)
class Cmvn:
    """A Cmvn normalises by the mean and variance of the training set."""

    mean: np.ndarray
    """float32 [80]."""
    istd: np.ndarray
    """float32 [80]: 1 / standard deviation."""

    def apply(self, features_F80: np.ndarray) -> np.ndarray:
        """Return (features - mean) * istd, float32 [F, 80]."""
        return (features_F80 - self.mean) * self.istd

    def to_dict(self, frames: int) -> dict[str, Any]:
        """Return what `cmvn.json` holds."""
        return {"frames": frames, "mean": self.mean.tolist(), "istd": self.istd.tolist()}

    @staticmethod
    def of(sums: MelSums) -> Cmvn:
        return Cmvn(*sums.cmvn())

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Cmvn:
        """Return the normalisation in `cmvn.json`. Raises UserError when `record` is not what that should hold."""
        try:
            mean, istd = (np.array(record[name], np.float32) for name in ("mean", "istd"))
        except (KeyError, TypeError, ValueError):
            raise UserError("cmvn.json holds no numbers under 'mean' and 'istd': run the hand-off again") from None
        if mean.shape != (BINS,) or istd.shape != (BINS,) or not (np.isfinite(mean).all() and np.isfinite(istd).all()):
            raise UserError(f"cmvn.json must hold {BINS} finite numbers for mean and for istd: run the hand-off again")
        return Cmvn(mean, istd)
