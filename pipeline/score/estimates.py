"""Rates of what was counted: error rates, joint errors, precision and recall, each with an interval.

    Counts per recording ──draw──> Sample ──rates of a domain, a language, all──> Scope
    grid of WER x PER ──────────────────────────────────────────────────────────> CurvePoint

Rates are micro-averages: edits over reference length of many clips, not means of rates. Intervals and the comparison of
engines with labels are those of pipeline/score/resampling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from operators.agreement import AgreementRule
from operators.resampling import Estimate, ratio
from pipeline.score.counts import (
    ALIKE_COLUMNS,
    ASR,
    CHAR_EDITS,
    CHARS,
    CLIPS,
    EARLIER,
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
from pipeline.score.resampling import Sample, Sums, draw


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
    """which engine has the lowest `alone`; where nothing was kept, the lowest CER over all clips it heard."""
    alone: Estimate
    """CER that it would have in the kept clips with its own rate of each domain and language, in percent. Its rates are
    those of all clips that the rule decided. None where nothing was kept."""
    lower_by: Estimate
    """that over the CER of the kept labels; None where the labels have no error, or nothing was kept."""


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
        return _scope(name, {key: by_recording[key] for key in keys}, limits, np.random.default_rng((seed, number)))

    def by(kind: str, column: int) -> list[Scope]:
        return [
            scope(kind, name, [k for k in by_recording if k[column] == name])
            for name in sorted({key[column] for key in by_recording})
        ]

    return scope("all", "", by_recording), by("domain", 1), by("language", 2)


def _scope(
    name: str,
    parts: dict[tuple[str, str, str], Counts],
    limits: tuple[float, ...],
    generator: np.random.Generator,
) -> Scope:
    sample = draw(parts, generator)
    copilots = len(sample.sums.joint)
    names = ["label", "asr", *(copilot_name(index) for index in range(copilots))]
    systems = tuple(_system(sample, index, each, limits) for index, each in enumerate(names))
    better = _better(sample.sums, systems)

    def alone(counts: Sums) -> np.ndarray:
        return 100 * ratio(counts.expected[..., better - ASR], counts.errors[..., LABEL, KEPT, CHARS])

    def lower_by(counts: Sums) -> np.ndarray:
        return ratio(counts.expected[..., better - ASR], counts.errors[..., LABEL, KEPT, CHAR_EDITS])

    def undecided(counts: Sums) -> np.ndarray:
        return counts.errors[..., ASR, EARLIER, :]

    return Scope(
        name=name,
        recordings=len({recording for recording, _, _ in parts}),
        systems=systems,
        joint=tuple(_joint(sample, index, at, limit) for index in range(copilots) for at, limit in enumerate(limits)),
        filter=tuple(_filter(sample, at, limit) for at, limit in enumerate(limits)),
        undecided=int(undecided(sample.sums)[CLIPS]),
        undecided_right=tuple(sample.percent(undecided, RIGHT + at, CLIPS) for at in range(len(limits))),
        better=names[better],
        alone=sample.estimate(alone),
        lower_by=sample.estimate(lower_by),
    )


def _better(sums: Sums, systems: tuple[System, ...]) -> int:
    """Return which engine alone would do best in the kept clips, of those that heard every clip that was decided."""
    engines = range(ASR, len(systems))
    if sums.errors[LABEL, KEPT, CHARS]:
        clips = sums.errors[:, :EARLIER, CLIPS].sum(axis=-1)
        rates = {at: float(sums.expected[at - ASR]) for at in engines if clips[at] == clips[ASR]}
    else:
        rates = {at: rate for at in engines if (rate := systems[at].all.cer.value) is not None}
    return min(rates, key=lambda at: (rates[at], at), default=ASR)


def copilot_name(index: int) -> str:
    return f"copilot {index + 1}" if index else "copilot"


def _system(sample: Sample, index: int, name: str, limits: tuple[float, ...]) -> System:
    def rates(groups: slice) -> ErrorRates:
        def of(counts: Sums) -> np.ndarray:
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

    return System(name=name, all=rates(slice(None)), kept=rates(slice(0, 1)), rejected=rates(slice(1, None)))


def _joint(sample: Sample, copilot: int, at: int, limit: float) -> JointErrors:
    def share(column: int) -> Callable[[Sums], np.ndarray]:
        return lambda c: 100 * ratio(c.joint[..., copilot, 1 + ALIKE_COLUMNS * at + column], c.joint[..., copilot, 0])

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


def _filter(sample: Sample, at: int, limit: float) -> AgreementFilter:
    def kept(counts: Sums) -> np.ndarray:
        return counts.errors[..., LABEL, KEPT, :]

    def decided(counts: Sums) -> np.ndarray:
        return np.asarray(counts.errors[..., LABEL, :, :].sum(axis=-2))

    right = RIGHT + at
    return AgreementFilter(
        limit=limit,
        clips=int(decided(sample.sums)[CLIPS]),
        kept=int(kept(sample.sums)[CLIPS]),
        right_before=sample.percent(decided, right, CLIPS),
        precision=sample.percent(kept, right, CLIPS),
        recall=sample.estimate(lambda counts: 100 * ratio(kept(counts)[..., right], decided(counts)[..., right])),
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
