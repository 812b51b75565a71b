"""Sums as they are, and as they might have been: what estimates and their intervals are made of.

    Counts per recording ──sum──────────────────────────────> Sums ──rate──> value ──────┐
                         └─draw recordings again, 1,000 times──> Sums ──rate──> 95 % ────┴─> Estimate

Intervals are those of operators/resampling.py, over recordings, since clips of one recording share voice and room.

Engines and labels are compared on the same clips, those that the agreement rule decided, and domain by domain
(`Sums.expected`), so that a filter that merely leaves out a hard domain gains nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from operators.resampling import Estimate, estimate, ratio, redraws
from pipeline.score.counts import ASR, CHAR_EDITS, CHARS, CLIPS, EARLIER, KEPT, LABEL, Counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums(Counts):
    """Sums are the counts of all clips of a scope, and what the engines would have done in the kept ones; leading axes
    as there.
    """

    expected: np.ndarray
    """[..., engines]: edits that each engine alone would have made in the kept clips, with its own rate of all clips of
    the same domain and language."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A Sample holds the sums as they are, and as they might have been had other recordings been drawn."""

    sums: Sums
    drawn: Sums | None

    def estimate(self, rate: Callable[[Sums], np.ndarray]) -> Estimate:
        """Return a rate of the sums, with the interval of the same rate of what was drawn."""
        return estimate(rate(self.sums), rate(self.drawn) if self.drawn is not None else np.zeros(0))

    def percent(self, columns: Callable[[Sums], np.ndarray], part: int, whole: int, *, rest: bool = False) -> Estimate:
        """Return one column in percent of another; `rest`: what the part leaves of the whole."""

        def rate(counts: Sums) -> np.ndarray:
            of = columns(counts)
            share = 100 * ratio(of[..., part], of[..., whole])
            return 100 - share if rest else share

        return self.estimate(rate)


def draw(parts: dict[tuple[str, str, str], Counts], generator: np.random.Generator) -> Sample:
    """Return the sums of some counts by (recording, domain, language), and DRAWS sums with recordings drawn again."""
    names = sorted({recording for recording, _, _ in parts})
    place = {name: at for at, name in enumerate(names)}

    def stacked(field: str) -> np.ndarray:
        arrays = {key: getattr(counts, field) for key, counts in parts.items()}
        sums = np.zeros((len(names), *next(iter(arrays.values())).shape))
        for key, array in arrays.items():
            sums[place[key[0]]] += array
        return sums

    errors, joint = stacked("errors"), stacked("joint")
    exposed: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for recording, domain, language in sorted(parts):
        part = place[recording], _exposed(parts[recording, domain, language].errors)
        exposed[domain, language].append(part)
    strata = [([at for at, _ in rows], np.stack([array for _, array in rows])) for rows in exposed.values()]

    def sums(weights: np.ndarray) -> Sums:
        # Sums of whole numbers far below 2**53: exact as doubles, so no order of summing can change a digit.
        return Sums(
            errors=np.tensordot(weights, errors, axes=1),
            joint=np.tensordot(weights, joint, axes=1),
            expected=np.sum([_expected(np.tensordot(weights[..., at], array, axes=1)) for at, array in strata], axis=0),
        )

    as_they_are = sums(np.ones(len(names)))
    draws = [sums(weights) for weights in redraws(len(names), generator)]
    if not draws:
        return Sample(as_they_are, None)
    fields = ("errors", "joint", "expected")
    return Sample(as_they_are, Sums(**{each: np.concatenate([getattr(of, each) for of in draws]) for each in fields}))


def _exposed(errors: np.ndarray) -> np.ndarray:
    """Return [engines, 5] of one recording in one stratum, for `_expected`.

    Columns: clips, characters and edits of the engine in the clips that the rule decided; clips and characters kept.
    """
    decided = errors[ASR:, :EARLIER].sum(axis=1)[:, [CLIPS, CHARS, CHAR_EDITS]]
    kept = np.broadcast_to(errors[LABEL, KEPT, [CLIPS, CHARS]], (len(decided), 2))
    return np.concatenate([decided, kept], axis=1).astype(float)


def _expected(exposed: np.ndarray) -> np.ndarray:
    """Return [..., engines]: the edits that each engine alone would have made in the kept clips of one stratum.

    A stratum is one domain in one language. The engine errs there as often per character (where nobody speaks: per
    clip) as in all clips that the rule decided. This is indirect standardisation (Breslow and Day, "Statistical Methods
    in Cancer Research", volume 2, 1987, chapter 2): one domain is never compared with another.
    """
    clips, characters, edits, kept_clips, kept_characters = np.moveaxis(exposed, -1, 0)
    share = np.where(characters > 0, ratio(kept_characters, characters), ratio(kept_clips, clips))
    return edits * np.nan_to_num(share, posinf=0.0)
