"""A calibration finds what errors depend on, reaches its target on recordings it never saw, and says when it cannot."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from operators.agreement import AgreementJudge, AgreementRule
from operators.confidence import EVIDENCE, Calibration
from operators.text.spoken import Normaliser
from pipeline.calibrate.choose import Calibrated, NotCalibrated, calibrate
from pipeline.calibrate.fit import fit, held_out, probabilities
from pipeline.calibrate.samples import LanguageSample, collect
from pipeline.score.clips import agreement, hypotheses
from pipeline.score.truth import Tolerance, read_truth
from tests.pipeline.calibrate.checked_runs import Drawn, checked_run
from tests.support.synthetic_run import table

RULE = AgreementRule()


def sampled(rows: list[dict[str, Any]], truth: bytes, rule: AgreementRule = RULE) -> dict[str, LanguageSample]:
    return collect([table(rows)], read_truth(truth, "t"), Tolerance(), rule, Normaliser())


def calibrated(rows: list[dict[str, Any]], truth: bytes, target: float = 2.0, **more: Any) -> Calibrated:
    ((language, sample),) = sampled(rows, truth).items()
    return calibrate(language, sample, target=target, **({"bound": 5.0, "seed": 0} | more))


@pytest.fixture(scope="module")
def checked() -> tuple[list[dict[str, Any]], bytes]:
    return checked_run()


@pytest.fixture(scope="module")
def found(checked: tuple[list[dict[str, Any]], bytes]) -> Calibrated:
    return calibrated(*checked)


def test_it_finds_what_errors_depend_on(found: Calibrated, checked: tuple[list[dict[str, Any]], bytes]) -> None:
    """Errors depend on the log-probability alone: of all coefficients by standard deviation that is the largest."""
    weights = weights_of(found, *checked)
    assert found.calibration.avg_logprob > 0
    assert max(weights, key=lambda name: weights[name]) == "avg_logprob"
    assert weights["avg_logprob"] > 5 * max(weight for name, weight in weights.items() if name != "avg_logprob")


def weights_of(found: Calibrated, rows: list[dict[str, Any]], truth: bytes) -> dict[str, float]:
    """The size of each coefficient in log-odds per standard deviation of what it stands for."""
    (sample,) = sampled(rows, truth).values()
    deviations = zip(EVIDENCE, sample.evidence.std(axis=0), strict=True)
    return {name: abs(getattr(found.calibration, name)) * deviation for name, deviation in deviations}


def test_the_target_holds_on_recordings_that_nobody_checked(found: Calibrated) -> None:
    rows, truth = checked_run(seed=1, recordings=80)
    before, after = cer_and_share(rows, truth, RULE, rule_of(found))
    assert before[0] > 8, "without a calibration the labels are bad: this test tests nothing"
    assert after[0] <= 2.0
    assert after[1] > 0.45, "good labels are five ninths of the time"


def rule_of(found: Calibrated) -> AgreementRule:
    return replace(RULE, calibration={found.language: found.calibration})


def cer_and_share(rows: list[dict[str, Any]], truth: bytes, *rules: AgreementRule) -> list[tuple[float, float]]:
    """Per rule: the character error rate of what the judge keeps, and the share of what the limits alone keep."""
    (sample,) = sampled(rows, truth).values()
    ordered = sorted(rows, key=lambda row: (row["recording_id"], row["start"]))
    found = []
    for judge in map(AgreementJudge, rules):
        kept = np.array([judge.judge(agreement(row), hypotheses(row), row["language"]).kept for row in ordered])
        error_rate = 100 * sample.edits[kept].sum() / sample.characters[kept].sum()
        found.append((float(error_rate), float(sample.samples[kept].sum() / sample.samples[sample.within].sum())))
    return found


def test_what_is_said_of_held_out_recordings_is_what_happens_there(found: Calibrated) -> None:
    rows, truth = checked_run(seed=2, recordings=80)
    ((cer, share),) = cer_and_share(rows, truth, rule_of(found))
    low, high = found.chosen.cer.low, found.chosen.cer.high
    assert low is not None
    assert high is not None
    assert low / 2 <= cer <= high * 1.5
    assert 100 * share == pytest.approx(found.chosen.kept.value, abs=5)


def test_a_stricter_target_keeps_less(checked: tuple[list[dict[str, Any]], bytes], found: Calibrated) -> None:
    strict = calibrated(*checked, target=0.8)
    assert strict.chosen.min_right > found.chosen.min_right
    assert (strict.chosen.kept.value or 0) < (found.chosen.kept.value or 0)
    kept = [point.kept.value or 0 for point in found.curve]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 100


def test_probabilities_hold_where_the_law_is_the_models() -> None:
    """Right with log-odds 6 + 8 · avg_logprob, to the draw: the fit gives the law back, and its bins are right."""
    generator = np.random.default_rng(0)
    evidence = np.zeros((6000, len(EVIDENCE)))
    evidence[:, 2] = generator.uniform(-1.5, 0, len(evidence))
    right = generator.random(len(evidence)) < 1 / (1 + np.exp(-(6 + 8 * evidence[:, 2])))
    made = fit(evidence, right)
    assert made.intercept == pytest.approx(6, rel=0.1)
    assert made.avg_logprob == pytest.approx(8, rel=0.1)
    assert made.wer == made.numbers == 0, "what does not vary says nothing"
    chances = held_out(evidence, right, np.arange(len(evidence)) // 50, tuple(map(str, range(120))))
    for low in np.arange(0, 1, 0.2):
        own = (low <= chances) & (chances < low + 0.2)
        assert right[own].mean() == pytest.approx(chances[own].mean(), abs=0.06)


def test_the_fit_is_the_least_loss() -> None:
    """Against a slow search: no coefficient moved by a little makes the penalised likelihood larger."""
    generator = np.random.default_rng(1)
    evidence = generator.normal(size=(200, len(EVIDENCE)))
    right = evidence[:, 0] + generator.normal(size=200) > 0
    made = fit(evidence, right)
    mean, deviation = evidence.mean(axis=0), evidence.std(axis=0)
    weights = np.array([getattr(made, name) for name in EVIDENCE]) * deviation
    start = made.intercept + float(np.array([getattr(made, name) for name in EVIDENCE]) @ mean)

    def loss(intercept: float, weights: np.ndarray) -> float:
        odds = intercept + ((evidence - mean) / deviation) @ weights
        return float(np.logaddexp(0, np.where(right, -odds, odds)).sum() + (weights**2).sum() / 2)

    least = loss(start, weights)
    for at in range(len(EVIDENCE)):
        for by in (-0.01, 0.01):
            assert loss(start, weights + by * np.eye(len(EVIDENCE))[at]) > least
    assert min(loss(start - 0.01, weights), loss(start + 0.01, weights)) > least


def test_separable_labels_have_finite_coefficients() -> None:
    evidence = np.zeros((100, len(EVIDENCE)))
    evidence[:, 0] = np.arange(100)
    made = fit(evidence, evidence[:, 0] < 50)
    assert np.isfinite([made.intercept, made.wer]).all()
    chances = probabilities(made, evidence)
    assert (np.diff(chances) < 0).all()


def test_a_probability_is_one_whatever_the_coefficients() -> None:
    evidence = dict.fromkeys(EVIDENCE, 100.0)
    assert Calibration(wer=1e6).probability(evidence) == 1.0
    assert 0 <= Calibration(wer=-1e6).probability(evidence) < 1e-300


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (lambda drawn: 0.3 if drawn.words_per_second > 3 else 0.001, "tokens_per_second"),
        (lambda drawn: 0.3 if drawn.language_prob < 0.75 else 0.001, "language_prob"),
        (lambda drawn: 0.3 if drawn.number else 0.001, "numbers"),
        (lambda drawn: 0.3 if not 2 < drawn.words_per_second < 3.5 else 0.001, "tokens_per_second_squared"),
    ],
)
def test_other_laws_are_found_as_well(law: Any, name: str) -> None:
    run = checked_run(law)
    made = calibrated(*run, target=4.0)
    weights = weights_of(made, *run)
    first, second = sorted(weights, key=lambda each: -weights[each])[:2]
    rate = {"tokens_per_second", "tokens_per_second_squared"}  # they go together
    assert {first, second} == rate if name in rate else first == name
    (before, _), (after, _) = cer_and_share(*checked_run(law, seed=1, recordings=80), RULE, rule_of(made))
    assert before > 5
    assert after <= 4.0


def test_the_order_of_clips_and_ledgers_decides_nothing(
    checked: tuple[list[dict[str, Any]], bytes], found: Calibrated
) -> None:
    rows, truth = checked
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    assert calibrated(shuffled, truth) == found
    half = {row["recording_id"] for row in rows[: len(rows) // 2]}
    parts = [[row for row in rows if (row["recording_id"] in half) is first] for first in (False, True)]
    (sample,) = collect(map(table, parts), read_truth(truth, "t"), Tolerance(), RULE, Normaliser()).values()
    assert calibrate("en", sample, target=2.0, bound=5.0, seed=0) == found


def test_a_calibrated_run_is_calibrated_alike(checked: tuple[list[dict[str, Any]], bytes], found: Calibrated) -> None:
    """Its rejections of low confidence are clips with labels, as they were before."""
    rows, truth = checked
    judge = AgreementJudge(rule_of(found))
    again = []
    for row in rows:
        rejection = judge.judge(agreement(row), hypotheses(row), row["language"]).rejection
        gone = {"outcome": "rejected", "stage": "rover", "label": None}
        again.append(row if rejection is None else row | gone | {"reason": rejection.reason})
    assert {row.get("reason") for row in again} == {None, "wer_and_per", "low_confidence"}
    ((language, sample),) = sampled(again, truth, rule_of(found)).items()
    assert calibrate(language, sample, target=2.0, bound=5.0, seed=0) == found


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"recordings": 4}, ["too little truth, 100 clips of 4 recordings", "at least 50 clips of 5 recordings"]),
        ({"recordings": 8, "clips": 5}, ["too little truth, 40 clips of 8 recordings"]),
        ({"disagreeing": 1.0}, ["only 0 of 1,000 clips are within the limits"]),
        ({"error_rate": lambda drawn: 0.0}, ["only 0 of 1,000 labels are wrong"]),
        ({"error_rate": lambda drawn: 1.0}, ["of 1,000 labels are right"]),
        ({"error_rate": lambda drawn: 0.1}, ["no threshold reaches", "2 % for sure", "the best is", "--target-cer"]),
    ],
)
def test_what_cannot_be_is_said_in_one_line(run: Any, words: list[str]) -> None:
    with pytest.raises(NotCalibrated) as why:
        calibrated(*checked_run(**run))
    assert "\n" not in str(why.value)
    for word in words:
        assert word in str(why.value)


def test_labels_that_are_good_enough_are_all_kept() -> None:
    def rare(drawn: Drawn) -> float:
        return 0.05 if drawn.avg_logprob < -0.8 else 0.001

    made = calibrated(*checked_run(rare))
    assert made.calibration.min_right == 0
    assert made.chosen.kept.value == 100


def test_chinese_is_judged_by_its_own_coefficients() -> None:
    english, chinese = checked_run(name="en"), checked_run(language="zh", name="zh", seed=3)
    truth = english[1] + chinese[1]
    samples = sampled([*english[0], *chinese[0]], truth)
    assert list(samples) == ["en", "zh"]
    made = calibrate("zh", samples["zh"], target=2.0, bound=5.0, seed=0)
    assert made == calibrated(*chinese), "what English has decides nothing"
