"""How many labels are kept, and how good they are, at every threshold; and the threshold that reaches a target.

    LanguageSample ──held-out probabilities──> sums per recording and threshold ──redraws──> CurvePoint, Reliability
                                                                                         └──> the lowest that is enough

Every rate here is of probabilities that other recordings gave, so that it holds for recordings that nobody checked.
Intervals are those of operators/resampling.py: recordings drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from operators.confidence import Calibration
from operators.resampling import Estimate, estimate, ratio, redraws
from pipeline.calibrate.fit import fit, held_out
from pipeline.calibrate.samples import LanguageSample

SHOWN = (0.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0)
"""thresholds of the printed curve, in percent."""
BINS = (0.0, 50.0, 70.0, 80.0, 90.0, 95.0, 100.0)
"""edges of the reliability table, in percent."""
LEAST_CLIPS, LEAST_RECORDINGS, LEAST_OF_A_KIND, LEAST_KEPT = 50, 5, 5, 20
"""Hand-checked clips and recordings of a language, right and wrong labels among them, and clips that a threshold
keeps: with fewer a calibration would say more than anybody knows."""
SURE = 0.9
"""of the draws must reach the target: a target reached by luck is missed on the next recordings."""
_CANDIDATES = 200
_CLIPS, _SAMPLES, _EDITS, _CHARACTERS, _RIGHT = range(5)


class NotCalibrated(Exception):
    """NotCalibrated says in one line why a language has no threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A CurvePoint is what would be kept at one threshold, of the clips within the limits of WER and PER. Percent."""

    min_right: float
    clips: int
    kept: Estimate
    """share of their time."""
    cer: Estimate
    """character errors of the labels kept."""
    right: Estimate
    """share of the labels kept that are right."""
    reached: float
    """share of the draws, 0 to 1, in which the target is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """A Reliability compares what was predicted with what was so, for clips of like probability. Percent."""

    low: float
    high: float
    clips: int
    predicted: float
    """mean probability."""
    right: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A Calibrated language has coefficients, a threshold, and what they are worth."""

    language: str
    recordings: int
    clips: int
    """that the agreement rule decided."""
    wrong: int
    """labels among them."""
    calibration: Calibration
    chosen: CurvePoint
    curve: tuple[CurvePoint, ...]
    reliability: tuple[Reliability, ...]


def calibrate(language: str, sample: LanguageSample, *, target: float, bound: float, seed: int) -> Calibrated:
    """Return the calibration of a language that keeps the most time at a character error rate of `target` percent.

    bound: percent; a label is right within it. Raises NotCalibrated where there is too little truth, or no threshold
    reaches the target.
    """
    right = sample.right(bound)
    _check_enough(sample, right, bound)
    chances = 100 * held_out(sample.evidence, right, sample.place, sample.recordings)
    number = int.from_bytes(sha256(language.encode()).digest()[:8])
    weights = list(redraws(len(sample.recordings), np.random.default_rng((seed, number))))
    curve = _curve(sample, right, chances, weights, target)
    enough = [point for point in curve if point.clips >= LEAST_KEPT]
    chosen = next((point for point in enough if _reaches(point, target)), None)
    if chosen is None:
        raise NotCalibrated(_out_of_reach(enough, target))
    return Calibrated(
        language=language,
        recordings=len(sample.recordings),
        clips=len(right),
        wrong=int((~right).sum()),
        calibration=replace(fit(sample.evidence, right), min_right=chosen.min_right),
        chosen=chosen,
        curve=tuple(point for point in curve if point.min_right in SHOWN or point is chosen),
        reliability=_reliability(sample, right, chances, weights),
    )


def _check_enough(sample: LanguageSample, right: np.ndarray, bound: float) -> None:
    clips, recordings, wrong = len(right), len(sample.recordings), int((~right).sum())
    if not clips:
        raise NotCalibrated("the truth file has none of its clips")
    if clips < LEAST_CLIPS or recordings < LEAST_RECORDINGS:
        raise NotCalibrated(
            f"too little truth, {clips:,} clips of {recordings:,} recordings: check at least {LEAST_CLIPS} clips of "
            f"{LEAST_RECORDINGS} recordings"
        )
    if int(sample.within.sum()) < LEAST_KEPT:
        raise NotCalibrated(f"only {int(sample.within.sum())} of {clips:,} clips are within the limits of WER and PER")
    if min(wrong, clips - wrong) < LEAST_OF_A_KIND:
        few = "wrong" if wrong < clips - wrong else "right"
        raise NotCalibrated(
            f"only {min(wrong, clips - wrong)} of {clips:,} labels are {few} (a character error rate of at most "
            f"{bound:g} % is right): too few to learn from; check more clips, or give another --right"
        )


def _reaches(point: CurvePoint, target: float) -> bool:
    return point.cer.value is not None and point.cer.value <= target and point.reached >= SURE


def _out_of_reach(enough: list[CurvePoint], target: float) -> str:
    best = min(enough, key=lambda point: (-point.reached, np.inf if point.cer.value is None else point.cer.value))
    said = "unknown" if best.cer.value is None else f"{best.cer.value:.2f} %"
    between = "" if best.cer.low is None or best.cer.high is None else f" ({best.cer.low:.2f}-{best.cer.high:.2f})"
    return (
        f"no threshold reaches a character error rate of {target:g} % for sure: the best is {said}{between} with "
        f"{best.kept.value or 0:.0f} % of the time kept; give a higher --target-cer, or check more recordings"
    )


def _sums(sample: LanguageSample, right: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return float64 [recordings, groups, 5] of the clips within the limits, by recording and by `group` [clips]."""
    columns = np.stack([np.ones(len(right)), sample.samples, sample.edits, sample.characters, right], axis=1)
    found = np.zeros((len(sample.recordings), groups, columns.shape[1]))
    np.add.at(found, (sample.place[sample.within], group[sample.within]), columns[sample.within])
    return found


def _estimates(sums: np.ndarray, weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return sums over recordings [groups, 5], as they are and as they might have been, [draws, groups, 5]."""
    return sums.sum(axis=0), np.concatenate([np.tensordot(each, sums, axes=1) for each in weights])


def _curve(
    sample: LanguageSample, right: np.ndarray, chances: np.ndarray, weights: list[np.ndarray], target: float
) -> list[CurvePoint]:
    # Thresholds that people can read, and as many clips between one and the next.
    between = np.quantile(chances[sample.within], np.linspace(0, 1, _CANDIDATES), method="inverted_cdf")
    thresholds = np.unique(np.concatenate([SHOWN, np.floor(between * 100) / 100]))
    group = np.searchsorted(thresholds, chances, side="right") - 1
    at_least = _sums(sample, right, group, len(thresholds))[:, ::-1].cumsum(axis=1)[:, ::-1]
    now, drawn = _estimates(at_least, weights)

    def rate(at: int, part: int, whole: Callable[[np.ndarray], np.ndarray]) -> tuple[Estimate, np.ndarray]:
        draws = 100 * ratio(drawn[:, at, part], whole(drawn))
        return estimate(100 * ratio(now[at, part], whole(now)), draws), draws

    points = []
    for at, threshold in enumerate(thresholds.tolist()):
        cer, draws = rate(at, _EDITS, lambda sums, at=at: sums[..., at, _CHARACTERS])  # type: ignore[misc]
        points.append(
            CurvePoint(
                min_right=threshold,
                clips=int(now[at, _CLIPS]),
                kept=rate(at, _SAMPLES, lambda sums: sums[..., 0, _SAMPLES])[0],
                cer=cer,
                right=rate(at, _RIGHT, lambda sums, at=at: sums[..., at, _CLIPS])[0],  # type: ignore[misc]
                reached=float((draws <= target).mean()),
            )
        )
    return points


def _reliability(
    sample: LanguageSample, right: np.ndarray, chances: np.ndarray, weights: list[np.ndarray]
) -> tuple[Reliability, ...]:
    group = np.clip(np.searchsorted(BINS, chances, side="right") - 1, 0, len(BINS) - 2)
    now, drawn = _estimates(_sums(sample, right, group, len(BINS) - 1), weights)
    return tuple(
        Reliability(
            low=BINS[at],
            high=BINS[at + 1],
            clips=int(now[at, _CLIPS]),
            predicted=float(chances[sample.within & (group == at)].mean()),
            right=estimate(
                100 * ratio(now[at, _RIGHT], now[at, _CLIPS]), 100 * ratio(drawn[:, at, _RIGHT], drawn[:, at, _CLIPS])
            ),
        )
        for at in range(len(BINS) - 1)
        if now[at, _CLIPS]
    )
