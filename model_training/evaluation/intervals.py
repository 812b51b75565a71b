"""Intervals of 95 % for shares, of answers that belong to recordings.

    (right, total) of each recording ──variance between recordings──> what they are worth ──Wilson──> interval

Clips of one voice in one room are wrong together, so they are worth fewer answers than they are
(docs/decisions/intervals-over-speakers.md). All in percent.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import NamedTuple

Interval = tuple[float, float]

Z = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


class Proportion(NamedTuple):
    right: int
    total: int
    worth: float | None = None
    """As many independent answers as these are worth, being of some recordings; None: all of them. 0: of one recording,
    from which nothing follows about others."""

    @classmethod
    def over(cls, recordings: Iterable[tuple[int, int, int]]) -> Proportion:
        """Return the share over recordings, each (right, total, how many such recordings).

        What they are worth is their number of answers over the design effect (Kish 1965), the variance between
        recordings as a multiple of that between independent answers, less where recordings are few: Korn and Graubard
        1998.
        """
        each = [(right, total, count) for right, total, count in recordings if total]
        right, total = sum(r * count for r, _, count in each), sum(n * count for _, n, count in each)
        clusters = sum(count for *_, count in each)
        if clusters < 2:
            return cls(right, total, 0.0)
        share = right / total
        if right in (0, total):
            return cls(right, total, float(clusters))
        between = sum(count * (r - share * n) ** 2 for r, n, count in each) * clusters / (clusters - 1) / total**2
        alone = share * (1 - share) / (total - 1)
        return cls(right, total, total if between <= alone else share * (1 - share) / between * few(clusters))

    @property
    def percent(self) -> float | None:
        return 100 * self.right / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        worth = self.total if self.worth is None else self.worth
        return wilson(self.right / self.total, worth) if worth else None


_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def student(freedom: int) -> float:
    """Return the two-sided 95 % point of Student's distribution, to three digits."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    # Cornish and Fisher's expansion, Abramowitz and Stegun 26.7.5.
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


def few(recordings: int) -> float:
    """Return how much less few recordings are worth than many, at most 1: their variance is itself uncertain."""
    return (Z / student(recordings - 1)) ** 2


def wilson(share: float, n: float) -> Interval:
    """Return the interval in percent of a share among n answers: sound for few, and near 0 and 100.

    Wilson 1927.
    """
    centre = share + Z * Z / (2 * n)
    spread = Z * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + Z * Z / n) for sign in (-1, 1))
    # Rounding must not push the bounds past what they bound.
    return 100 * max(0.0, min(low, share)), 100 * min(1.0, max(high, share))
