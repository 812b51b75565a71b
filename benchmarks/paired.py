"""Two models on the same clips: how much fewer or more errors one makes, with an interval over voices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_training.evaluation.answers import Answer, from_lines
from model_training.evaluation.metrics import Scores

REDRAWS = 2000


class Relative(NamedTuple):
    """A Relative is a difference in percent of the first rate, and its 95 % interval; NaN of fewer than two voices."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.percent:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def answers_of(path: Path, n_experts: int) -> list[Answer]:
    """Return the answers of an eval.jsonl at one size that have a text."""
    found = from_lines(path.read_bytes(), str(path))
    return [one for one in found if one.n_experts == n_experts and one.reference]


def relative(first: Iterable[Answer], second: Iterable[Answer]) -> Relative:
    """Return how the character error rate of `second` differs from that of `first`, voices drawn again in pairs.

    Answers of several trainings may stand together: a voice is drawn with all of them.
    """
    before, after = _by_voice(first), _by_voice(second)
    voices = sorted(before.keys() & after.keys())
    pairs_V22 = np.array([[before[voice], after[voice]] for voice in voices], float)
    drawn = np.random.default_rng(0).integers(0, len(voices), (REDRAWS, len(voices)))
    change = _change(pairs_V22.sum(0))
    if len(voices) < 2:
        return Relative(float(change), np.nan, np.nan)
    low, high = np.percentile(_change(pairs_V22[drawn].sum(1)), (2.5, 97.5))
    return Relative(float(change), float(low), float(high))


def _by_voice(answers: Iterable[Answer]) -> dict[str, tuple[int, int]]:
    parts: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        parts[one.voice].append(one)
    rates = {voice: Scores.of(part).characters for voice, part in parts.items()}
    return {voice: (rate.errors, rate.reference) for voice, rate in rates.items()}


def _change(sums_22: np.ndarray) -> np.ndarray:
    """Return the relative difference in percent of [..., first or second, errors and characters]."""
    rates = sums_22[..., 0] / sums_22[..., 1]
    return 100 * (rates[..., 1] / rates[..., 0] - 1)
