"""How likely a label is right, and what becomes of one that is not likely enough."""

from __future__ import annotations

import pytest

from operators.agreement import AgreementJudge, AgreementRule
from operators.clip import Agreement, Hypothesis, Verdict
from operators.confidence import EVIDENCE, Calibration, evidence

CERTAIN = Hypothesis(engine="asr", text="good morning everybody", language="en", language_prob=0.9, avg_logprob=-0.2)
DOUBTFUL = Hypothesis(engine="asr", text="good morning everybody", language="en", language_prob=0.9, avg_logprob=-0.8)
CALIBRATED = AgreementRule(calibration={"en": Calibration(min_right=60.0, intercept=2.0, avg_logprob=4.0)})
"""Log-odds of 1.2 (77 %) for the first, -1.2 (23 %) for the second."""


def verdict_on(asr: Hypothesis, rule: AgreementRule, copilot: str = "", language: str = "en") -> Verdict:
    judge = AgreementJudge(rule)
    both = [asr, Hypothesis(engine="copilot", text=copilot or asr.text)]
    return judge.judge(judge.measure(asr, both[1:], language, seconds=2.0), both, language)


def test_a_label_that_is_too_likely_wrong_is_rejected_though_engines_agree() -> None:
    assert verdict_on(CERTAIN, CALIBRATED).kept
    rejection = verdict_on(DOUBTFUL, CALIBRATED).rejection
    assert rejection is not None
    assert (rejection.stage, rejection.reason) == ("rover", "low_confidence")
    assert rejection.detail == "right with a probability of 23.1 %, and 60 % is asked for"


def test_a_calibration_is_of_one_language_and_comes_after_the_limits() -> None:
    assert verdict_on(DOUBTFUL, CALIBRATED, language="fr").kept
    rejection = verdict_on(DOUBTFUL, CALIBRATED, copilot="something else altogether").rejection
    assert rejection is not None
    assert rejection.reason == "wer_and_per"


def test_a_minimum_that_is_met_exactly_is_met() -> None:
    always = AgreementRule(calibration={"en": Calibration(min_right=50.0)})
    assert verdict_on(DOUBTFUL, always).kept, "no coefficient: even odds"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("chapter 7", 1.0), ("twenty one of them", 1.0), ("the canteen", 0.0), ("nineteen", 1.0),
        ("everyone is often there", 0.0),
        ("二十三号", 1.0), ("我们一起去", 0.0), ("第５章", 1.0),
    ],
)  # fmt: skip
def test_numbers_are_seen_in_every_form(text: str, number: float) -> None:
    agreement = Agreement(wer=0.0, per=0.0, asr_norm="", copilot_norm="", reference="asr", tokens_per_second=1.0)
    assert evidence(agreement, [Hypothesis(engine="asr", text=text)])["numbers"] == number


def test_what_an_engine_does_not_give_counts_as_nothing() -> None:
    agreement = Agreement(wer=250.0, per=3.0, asr_norm="a b", copilot_norm="a", reference="asr", tokens_per_second=2.0)
    found = evidence(agreement, [Hypothesis(engine="asr", text="a b"), Hypothesis(engine="copilot", text="a")])
    assert tuple(found) == EVIDENCE
    assert (found["wer"], found["per"]) == (100.0, 3.0)
    assert (found["avg_logprob"], found["language_prob"]) == (0.0, 0.0)
    assert (found["tokens_per_second"], found["tokens_per_second_squared"]) == (2.0, 4.0)
