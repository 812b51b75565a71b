"""Recordings drawn again: the intervals of what was counted of them.

    counts per recording ──redraws: how often each is drawn──> the same rate, 1,000 times ──estimate──> 95 %

Intervals are the percentile bootstrap (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004). The generator is the caller's and seeded; of fewer than two recordings there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
_DRAWS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Estimate:
    """An Estimate is a number and its 95 % interval; None: nothing to divide by, no end, or too few recordings."""

    value: float | None
    low: float | None
    high: float | None


def estimate(value: np.ndarray | float, drawn: np.ndarray) -> Estimate:
    """Return a value with the interval of what was drawn for it, [draws]; draws that are NaN say nothing."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Estimate(_finite(value), None, None)
    # A draw itself, never a mean of two: a ratio to no errors at all is infinite.
    low, high = np.percentile(drawn, (2.5, 97.5), method="inverted_cdf")
    return Estimate(_finite(value), _finite(low), _finite(high))


def redraws(recordings: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield how often each recording is drawn, [some draws, recordings], DRAWS draws in all; none for fewer than two.

    They come in parts, so that what is made of them need not be in memory at once.
    """
    if recordings < 2:
        return
    chances = np.full(recordings, 1 / recordings)
    for _ in range(DRAWS // _DRAWS_AT_ONCE):
        yield generator.multinomial(recordings, chances, size=_DRAWS_AT_ONCE).astype(float)


def _finite(value: np.ndarray | float) -> float | None:
    return float(value) if math.isfinite(value) else None


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, infinite or NaN without a whole."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / whole)
