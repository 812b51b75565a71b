"""A regularised logistic regression, and the probabilities that it gives to recordings it has not seen.

    evidence, right ──standardise──ridge, Newton──> Calibration (coefficients per natural unit)
                    └─recordings in ten parts: fitted on nine, applied to the tenth──> held-out probabilities

Ridge regression for a binary outcome: le Cessie and van Houwelingen, "Ridge Estimators in Logistic Regression", Applied
Statistics 41(1), 1992.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from operators.confidence import EVIDENCE, Calibration

PENALTY = 1.0
"""of half the squared coefficients per standard deviation: a prior that few of them are beyond 2."""
FOLDS = 10
_DIGITS = 6
"""significant digits of a coefficient: more would be the arithmetic's, not the sample's."""
_STEPS = 100


def fit(evidence: np.ndarray, right: np.ndarray) -> Calibration:
    """Return the coefficients that make what was right most likely. evidence [clips, EVIDENCE], right bool [clips].

    What does not vary has the coefficient 0. Raises ValueError without clips of both kinds.
    """
    if not right.any() or right.all():
        raise ValueError("nothing to tell apart: labels are all right, or all wrong")
    mean, deviation = evidence.mean(axis=0), evidence.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(1, np.abs(mean))
    scale = np.where(varies, deviation, 1.0)
    x = np.concatenate([np.ones((len(evidence), 1)), np.where(varies, (evidence - mean) / scale, 0.0)], axis=1)
    penalty = np.full(x.shape[1], PENALTY)
    penalty[0] = 0.0  # the share of right labels is known as well as it is
    y = right.astype(float)
    weights = np.zeros(x.shape[1])
    loss = _loss(x, y, weights, penalty)
    for _ in range(_STEPS):
        chance = _sigmoid(x @ weights)
        gradient = x.T @ (chance - y) + penalty * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        while _loss(x, y, weights - step, penalty) > loss and np.abs(step).max() > 1e-12:
            step /= 2  # Newton's step may go too far where the curve is flat
        weights = weights - step
        loss = _loss(x, y, weights, penalty)
        if np.abs(step).max() < 1e-9:
            break
    slopes = np.where(varies, weights[1:] / scale, 0.0)
    intercept = weights[0] - float(slopes @ mean)
    return Calibration(
        intercept=_rounded(intercept), **{name: _rounded(slope) for name, slope in zip(EVIDENCE, slopes, strict=True)}
    )


def _loss(x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: np.ndarray) -> float:
    odds = x @ weights
    return float(np.logaddexp(0, odds).sum() - y @ odds + (penalty * weights * weights).sum() / 2)


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") + 0.0  # no -0.0


def probabilities(calibration: Calibration, evidence: np.ndarray) -> np.ndarray:
    """Return how likely each label is right, 0 to 1, [clips]: what `Calibration.probability` gives one by one."""
    return np.array([calibration.probability(dict(zip(EVIDENCE, row, strict=True))) for row in evidence.tolist()])


def held_out(evidence: np.ndarray, right: np.ndarray, place: np.ndarray, recordings: tuple[str, ...]) -> np.ndarray:
    """Return how likely each label is right, [clips], by coefficients of other recordings only.

    place: of each clip's recording in `recordings`. Clips of one recording share voice and room, so they stay together.
    """
    by_hash = sorted(range(len(recordings)), key=lambda at: sha256(recordings[at].encode()).digest())
    part = np.zeros(len(recordings), np.int64)
    part[by_hash] = np.arange(len(recordings)) % FOLDS
    found = np.zeros(len(right))
    for fold in range(min(FOLDS, len(recordings))):
        own = part[place] == fold
        others = right[~own]
        if others.any() and not others.all():
            found[own] = probabilities(fit(evidence[~own], others), evidence[own])
        else:  # all alike elsewhere: that is all that the other recordings say
            found[own] = others.mean() if len(others) else 0.0
    return found
