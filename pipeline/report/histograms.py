"""Histograms of clips on fixed edges, so that they can be added: WER, PER, WER x PER, speech rate, duration.

    columns of many clips ──bin──> Distributions per domain (or language) ──plus──> Distributions of the run

Each histogram counts kept and rejected clips apart, by number and by samples. The joint histogram of WER and PER holds
the samples of clips that the agreement rule alone decides, with bins closed on the right: the time kept at any pair of
thresholds on its edges is an exact sum, for either reading of the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np

from operators.clip import SAMPLE_RATE

SCORE_EDGES = np.concatenate([np.arange(0, 20, 0.5), np.arange(20, 30), [30, 35, 40, 45, 50, 60, 70, 80, 90, 100]])
"""Percent. Bin 0 is exactly 0, bin i is (edge i-1, edge i], the last is above 100: a rule `rate <= edge` cuts between
bins.
"""
RATE_EDGES = np.arange(0.25, 12.25, 0.25)
"""Tokens per second. Bin i is [edge i-1, edge i)."""
DURATION_EDGES = np.arange(1, 31)
"""Seconds. Bin i is [i, i+1); 30 s, the longest clip there is, belongs to 29-30, and what is longer to the last bin."""

SCORE_BINS, RATE_BINS, DURATION_BINS = len(SCORE_EDGES) + 1, len(RATE_EDGES) + 1, len(DURATION_EDGES) + 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distributions:
    """Distributions are histograms that add up: int64 [bins, 2, 2] each, where axis 1 is kept or rejected and axis 2 is
    clips or samples; `wer_per` is int64 [WER, PER] of samples.
    """

    wer: np.ndarray = field(default_factory=partial(np.zeros, (SCORE_BINS, 2, 2), np.int64))
    per: np.ndarray = field(default_factory=partial(np.zeros, (SCORE_BINS, 2, 2), np.int64))
    rate: np.ndarray = field(default_factory=partial(np.zeros, (RATE_BINS, 2, 2), np.int64))
    duration: np.ndarray = field(default_factory=partial(np.zeros, (DURATION_BINS, 2, 2), np.int64))
    wer_per: np.ndarray = field(default_factory=partial(np.zeros, (SCORE_BINS, SCORE_BINS), np.int64))

    def plus(self, other: Distributions) -> Distributions:
        return Distributions(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        )

    def kept_at(self, max_wer: float, max_per: float, *, drop_only_when_both: bool = False) -> int:
        """Return the samples kept with these thresholds; the other reading drops only what exceeds both.

        Exact at edges. Between two a threshold counts as the lower, above 100 % as none.
        """
        wer, per = _bins_within(max_wer), _bins_within(max_per)
        if drop_only_when_both:
            return int(self.wer_per.sum() - self.wer_per[wer:, per:].sum())
        return int(self.wer_per[:wer, :per].sum())

    def to_json(self) -> dict[str, Any]:
        edges = {"wer": SCORE_EDGES, "per": SCORE_EDGES, "rate": RATE_EDGES, "duration": DURATION_EDGES}
        histograms: dict[str, Any] = {}
        for name, at in edges.items():
            counts = getattr(self, name)
            histograms[name] = {
                "edges": at.tolist(),
                "kept": {"clips": counts[:, 0, 0].tolist(), "samples": counts[:, 0, 1].tolist()},
                "rejected": {"clips": counts[:, 1, 0].tolist(), "samples": counts[:, 1, 1].tolist()},
            }
        cells = np.argwhere(self.wer_per)
        joint = [[int(i), int(j), int(self.wer_per[i, j])] for i, j in cells]
        return histograms | {"wer_per": {"edges": SCORE_EDGES.tolist(), "cells": joint}}


def _bins_within(limit: float) -> int:
    return SCORE_BINS if limit > SCORE_EDGES[-1] else int(np.searchsorted(SCORE_EDGES, limit, side="right"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipColumns:
    """ClipColumns hold numbers of many clips, one array each; a rate that was not measured is NaN."""

    samples: np.ndarray
    rejected: np.ndarray  # bool
    rule_decides: np.ndarray  # bool: kept, or rejected for disagreement
    wer: np.ndarray
    per: np.ndarray
    rate: np.ndarray


def distributions_by(group: np.ndarray, groups: int, clips: ClipColumns) -> Iterator[Distributions]:
    """Yield the distributions of each group 0 .. groups-1, in order.

    `group` int [clips] is the index of each clip's domain or language.
    """
    wer, per = (np.searchsorted(SCORE_EDGES, score, side="left") for score in (clips.wer, clips.per))
    rate = np.searchsorted(RATE_EDGES, clips.rate, side="right")
    seconds = np.minimum(clips.samples // SAMPLE_RATE, DURATION_BINS - 1)
    seconds[clips.samples == (DURATION_BINS - 1) * SAMPLE_RATE] = DURATION_BINS - 2
    everything = np.ones(len(group), bool)

    def counts(bins: int, index: np.ndarray, where: np.ndarray) -> np.ndarray:
        cell = (group[where] * bins + index[where]) * 2 + clips.rejected[where]
        size = groups * bins * 2
        # bincount sums weights as doubles: exact, since a batch is far below 2**53 samples.
        both = np.bincount(cell, minlength=size), np.bincount(cell, weights=clips.samples[where], minlength=size)
        return np.stack(both, axis=-1).astype(np.int64).reshape(groups, bins, 2, 2)

    judged = clips.rule_decides & ~np.isnan(clips.wer) & ~np.isnan(clips.per)
    cell = (group[judged] * SCORE_BINS + wer[judged]) * SCORE_BINS + per[judged]
    joint = np.bincount(cell, weights=clips.samples[judged], minlength=groups * SCORE_BINS**2)
    for parts in zip(
        counts(SCORE_BINS, wer, ~np.isnan(clips.wer)),
        counts(SCORE_BINS, per, ~np.isnan(clips.per)),
        counts(RATE_BINS, rate, ~np.isnan(clips.rate)),
        counts(DURATION_BINS, seconds, everything),
        joint.astype(np.int64).reshape(groups, SCORE_BINS, SCORE_BINS),
        strict=True,
    ):
        yield Distributions(**dict(zip(("wer", "per", "rate", "duration", "wer_per"), parts, strict=True)))
