"""Rates of what was counted: error rates, joint errors, precision and recall, each with an interval.

    Counts per recording ──sum──> Counts of a domain, a language, all ──divide──> estimates
                         └─draw recordings again, 1,000 times──> the same again ──percentiles──> 95 % intervals

Rates are micro-averages: edits over reference length of many clips, not means of rates. Intervals are the percentile
bootstrap (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004),
over recordings, since clips of one recording share voice and room. Seeded; of fewer than two recordings there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from operators.agreement import AgreementRule
from pipeline.score.counts import (
    ALIKE_COLUMNS,
    ASR,
    CHAR_EDITS,
    CHARS,
    CLIPS,
    KEPT,
    LABEL,
    RIGHT,
    TOKEN_EDITS,
    TOKENS,
    WORD_EDITS,
    WORDS,
    Counts,
    ScoreCounts,
)

DRAWS = 1000
_DRAWS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Estimate:
    """An Estimate is a number and its 95 % interval; None: nothing to divide by, no end, or too few recordings."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRates:
    """ErrorRates say how wrong one system was in some clips. Rates and shares in percent."""

    clips: int
    characters: int
    tokens: int
    cer: Estimate
    """over characters without spaces, all languages."""
    wer: Estimate
    """over words, languages written with spaces only."""
    mer: Estimate
    """over mixed tokens: one per Han character, one per word elsewhere."""
    wrong: tuple[Estimate, ...]
    """share of clips whose mixed-token error rate exceeds each limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A System is the label, the ASR or a copilot. `rejected` of the label is what it would have been, if kept."""

    name: str
    all: ErrorRates
    kept: ErrorRates
    rejected: ErrorRates


@dataclass(frozen=True, slots=True, kw_only=True)
class JointErrors:
    """JointErrors say how often two engines are wrong together, of the clips that both heard. Shares in percent."""

    copilot: str
    limit: float
    clips: int
    asr_wrong: Estimate
    copilot_wrong: Estimate
    both_wrong: Estimate
    if_independent: Estimate
    """the product of the two: how often both would be wrong if one knew nothing of the other."""
    both_wrong_alike: Estimate
    """with the same text: what no comparison of the two can find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementFilter:
    """An AgreementFilter judges the agreement rule as a search for right labels. Percent."""

    limit: float
    clips: int
    """that the rule decided."""
    kept: int
    right_before: Estimate
    """share of right labels without the rule."""
    precision: Estimate
    """share of right labels among the kept."""
    recall: Estimate
    """share of right labels that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A Scope is one domain, one language, or all."""

    name: str
    recordings: int
    systems: tuple[System, ...]
    """label, ASR, copilots."""
    joint: tuple[JointErrors, ...]
    filter: tuple[AgreementFilter, ...]
    undecided: int
    """clips that the ASR heard and that were rejected before the rule could decide."""
    undecided_right: tuple[Estimate, ...]
    """share of them that the ASR had right, per limit."""
    better: str
    """which engine alone has the lower CER over all clips it heard."""
    lower_by: Estimate
    """its CER over that of the kept labels; None where the labels have no error, or nothing was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A CurvePoint is what the rule would keep at one pair of limits. Percent, without intervals."""

    limit: float | None
    """of the rate that changes; None: no limit."""
    kept: float
    """share of the time that the rule decides."""
    cer: float | None
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]


def scopes(counts: ScoreCounts, limits: tuple[float, ...], seed: int) -> tuple[Scope, list[Scope], list[Scope]]:
    """Return all as one, then by domain and by language, each sorted by name."""
    by_recording = counts.by_recording

    def scope(kind: str, name: str, keys: Iterable[tuple[str, str, str]]) -> Scope:
        # A generator per scope: what a domain draws does not depend on which other domains there are.
        number = int.from_bytes(sha256(f"{kind}\0{name}".encode()).digest()[:8])
        return _scope(
            name, [(key[0], by_recording[key]) for key in keys], limits, np.random.default_rng((seed, number))
        )

    def by(kind: str, column: int) -> list[Scope]:
        return [
            scope(kind, name, [k for k in by_recording if k[column] == name])
            for name in sorted({key[column] for key in by_recording})
        ]

    return scope("all", "", by_recording), by("domain", 1), by("language", 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """A _Sample holds the sums as they are, and as they might have been had other recordings been drawn."""

    sums: Counts
    drawn: Counts | None

    def estimate(self, rate: Callable[[Counts], np.ndarray]) -> Estimate:
        value = _finite(rate(self.sums))
        drawn = rate(self.drawn) if self.drawn is not None else np.zeros(0)
        drawn = drawn[~np.isnan(drawn)]
        if not len(drawn):
            return Estimate(value, None, None)
        # A draw itself, never a mean of two: a ratio to no errors at all is infinite.
        low, high = np.percentile(drawn, (2.5, 97.5), method="inverted_cdf")
        return Estimate(value, _finite(low), _finite(high))

    def percent(
        self, columns: Callable[[Counts], np.ndarray], part: int, whole: int, *, rest: bool = False
    ) -> Estimate:
        """Return one column in percent of another; `rest`: what the part leaves of the whole."""

        def rate(counts: Counts) -> np.ndarray:
            of = columns(counts)
            share = 100 * _ratio(of[..., part], of[..., whole])
            return 100 - share if rest else share

        return self.estimate(rate)


def _finite(value: np.ndarray | float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / whole)


def _draw(parts: list[tuple[str, Counts]], generator: np.random.Generator) -> _Sample:
    names = sorted({name for name, _ in parts})
    place = {name: at for at, name in enumerate(names)}

    def stacked(field: str) -> np.ndarray:
        arrays = [getattr(counts, field) for _, counts in parts]
        sums = np.zeros((len(names), *arrays[0].shape))
        for (name, _), array in zip(parts, arrays, strict=True):
            sums[place[name]] += array
        return sums

    # Sums of whole numbers far below 2**53: exact as doubles, so no order of summing can change a digit.
    fields = {field: stacked(field) for field in ("errors", "joint", "undecided")}
    sums = Counts(**{field: array.sum(axis=0) for field, array in fields.items()})
    if len(names) < 2:
        return _Sample(sums, None)
    drawn: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    chances = np.full(len(names), 1 / len(names))
    for _ in range(DRAWS // _DRAWS_AT_ONCE):
        weights = generator.multinomial(len(names), chances, size=_DRAWS_AT_ONCE).astype(float)
        for field, array in fields.items():
            drawn[field].append(np.tensordot(weights, array, axes=1))
    return _Sample(sums, Counts(**{field: np.concatenate(arrays) for field, arrays in drawn.items()}))


def _scope(
    name: str, parts: list[tuple[str, Counts]], limits: tuple[float, ...], generator: np.random.Generator
) -> Scope:
    sample = _draw(parts, generator)
    copilots = len(sample.sums.joint)
    names = ["label", "asr", *(copilot_name(index) for index in range(copilots))]
    systems = tuple(_system(sample, index, each, limits) for index, each in enumerate(names))
    heard = [index for index in range(ASR, len(systems)) if systems[index].all.cer.value is not None]
    better = min(heard, key=lambda index: (systems[index].all.cer.value, index)) if heard else ASR

    def lower_by(counts: Counts) -> np.ndarray:
        alone = counts.errors[..., better, :, :].sum(axis=-2)
        label = counts.errors[..., LABEL, KEPT, :]
        return _ratio(
            _ratio(alone[..., CHAR_EDITS], alone[..., CHARS]), _ratio(label[..., CHAR_EDITS], label[..., CHARS])
        )

    return Scope(
        name=name,
        recordings=len({recording for recording, _ in parts}),
        systems=systems,
        joint=tuple(_joint(sample, index, at, limit) for index in range(copilots) for at, limit in enumerate(limits)),
        filter=tuple(_filter(sample, at, limit) for at, limit in enumerate(limits)),
        undecided=int(sample.sums.undecided[0]),
        undecided_right=tuple(sample.percent(lambda c: c.undecided, 1 + at, 0) for at in range(len(limits))),
        better=names[better],
        lower_by=sample.estimate(lower_by),
    )


def copilot_name(index: int) -> str:
    return f"copilot {index + 1}" if index else "copilot"


def _system(sample: _Sample, index: int, name: str, limits: tuple[float, ...]) -> System:
    def rates(groups: slice) -> ErrorRates:
        def of(counts: Counts) -> np.ndarray:
            return counts.errors[..., index, groups, :].sum(axis=-2)

        sums = of(sample.sums)
        return ErrorRates(
            clips=int(sums[CLIPS]),
            characters=int(sums[CHARS]),
            tokens=int(sums[TOKENS]),
            cer=sample.percent(of, CHAR_EDITS, CHARS),
            wer=sample.percent(of, WORD_EDITS, WORDS),
            mer=sample.percent(of, TOKEN_EDITS, TOKENS),
            wrong=tuple(sample.percent(of, RIGHT + at, CLIPS, rest=True) for at in range(len(limits))),
        )

    return System(name=name, all=rates(slice(None)), kept=rates(slice(0, 1)), rejected=rates(slice(1, 2)))


def _joint(sample: _Sample, copilot: int, at: int, limit: float) -> JointErrors:
    def share(column: int) -> Callable[[Counts], np.ndarray]:
        return lambda c: 100 * _ratio(c.joint[..., copilot, 1 + ALIKE_COLUMNS * at + column], c.joint[..., copilot, 0])

    asr, other, both, alike = (share(column) for column in range(ALIKE_COLUMNS))
    return JointErrors(
        copilot=copilot_name(copilot),
        limit=limit,
        clips=int(sample.sums.joint[copilot, 0]),
        asr_wrong=sample.estimate(asr),
        copilot_wrong=sample.estimate(other),
        both_wrong=sample.estimate(both),
        if_independent=sample.estimate(lambda counts: asr(counts) * other(counts) / 100),
        both_wrong_alike=sample.estimate(alike),
    )


def _filter(sample: _Sample, at: int, limit: float) -> AgreementFilter:
    def kept(counts: Counts) -> np.ndarray:
        return counts.errors[..., LABEL, KEPT, :]

    def decided(counts: Counts) -> np.ndarray:
        return np.asarray(counts.errors[..., LABEL, :, :].sum(axis=-2))

    right = RIGHT + at
    return AgreementFilter(
        limit=limit,
        clips=int(decided(sample.sums)[CLIPS]),
        kept=int(kept(sample.sums)[CLIPS]),
        right_before=sample.percent(decided, right, CLIPS),
        precision=sample.percent(kept, right, CLIPS),
        recall=sample.estimate(lambda counts: 100 * _ratio(kept(counts)[..., right], decided(counts)[..., right])),
    )


def curve(counts: ScoreCounts, over: str, rule: AgreementRule) -> tuple[CurvePoint, ...]:
    """Return what the rule would keep while the limit of `over` ("wer" or "per") changes and the other stays. Exact."""
    grid = counts.grid if over == "wer" else counts.grid.swapaxes(0, 1)
    edges, other_edges = counts.edges if over == "wer" else counts.edges[::-1]
    other = int(np.searchsorted(other_edges, rule.max_per if over == "wer" else rule.max_wer, side="right"))
    total = grid.sum(axis=(0, 1))
    points = []
    for bins, limit in enumerate([*edges.tolist(), None], 1):
        kept = (
            grid[:bins, :other].sum(axis=(0, 1))
            if rule.drop_when == "either"
            else total - grid[bins:, other:].sum(axis=(0, 1))
        )
        clips, samples, edits, characters, *right = (float(each) for each in kept)
        points.append(
            CurvePoint(
                limit=limit if limit is None or math.isfinite(limit) else None,
                kept=_percent(samples, total[1]) or 0.0,
                cer=_percent(edits, characters),
                precision=tuple(_percent(each, clips) for each in right),
                recall=tuple(_percent(each, whole) for each, whole in zip(right, total[4:], strict=True)),
            )
        )
    return tuple(points)


def _percent(part: float, whole: float) -> float | None:
    return float(100 * part / whole) if whole else None
