"""Measuring agreement, judging it, and voting; both readings of the rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.agreement import (
    EMPTY_ASR,
    EMPTY_COPILOT,
    NUMBERS,
    PER,
    REASONS,
    WER,
    WER_AND_PER,
    AgreementJudge,
    AgreementRule,
    judge_pair,
    reject,
)
from operators.clip import Agreement, Hypothesis
from operators.errors import UserError
from operators.rover import vote, vote_tokens
from operators.text.spoken import Normaliser, tokens

TOKENS = st.lists(st.sampled_from(["我", "你", "the", "a", "x"]), max_size=12)


# measure


def heard(text: str, engine: str = "engine") -> Hypothesis:
    return Hypothesis(engine=engine, text=text)


def measure(
    asr: str, *copilots: str, language: str = "zh", seconds: float = 4.0, rules: AgreementRule | None = None
) -> Agreement:
    return AgreementJudge(rules).measure(heard(asr), [heard(copilot) for copilot in copilots], language, seconds)


def test_measure_scores_folded_forms_and_keeps_spoken_ones() -> None:
    agreement = measure("嗯，今天 23 度。", "今天二十三度")
    assert (agreement.wer, agreement.per) == (0.0, 0.0)
    assert (agreement.asr_norm, agreement.copilot_norm) == ("嗯今天二十三度", "今天二十三度")


def test_measure_reads_numbers_as_they_are_said() -> None:
    agreement = measure("今天 23 度。", "今天二十三度")
    assert (agreement.wer, agreement.per) == (0.0, 0.0)
    assert agreement.asr_norm == agreement.copilot_norm == "今天二十三度"
    assert agreement.tokens_per_second == 6 / 4


def test_a_homophone_costs_words_but_no_phones() -> None:
    agreement = measure("他今天没有来学校上课", "她今天没有来学校上课")
    assert agreement.wer == 10.0
    assert agreement.per == 0.0


def test_tones_count_unless_switched_off() -> None:
    assert measure("我要买花", "我要卖花").per > 0
    assert measure("我要买花", "我要卖花", rules=AgreementRule(tones=False)).per == 0.0


def test_the_reference_is_the_copilot_for_chinese_and_the_asr_elsewhere() -> None:
    chinese, english = measure("我们走吧", "我们走"), measure("let us go now", "let us go", language="en")
    assert (chinese.reference, chinese.wer) == ("copilot", pytest.approx(100 / 3))
    assert (english.reference, english.wer) == ("asr", 25.0)
    assert measure("我们走吧", "我们走", language="zh-CN").reference == "copilot"
    switched = AgreementRule(reference={"zh": "asr", "default": "copilot"})
    assert measure("我们走吧", "我们走", rules=switched).wer == 25.0
    assert measure("let us go", "let us go now", language="en", rules=switched).wer == 25.0


def test_of_several_copilots_the_nearest_counts_and_of_equals_the_first() -> None:
    agreement = measure("今天天气很好", "昨天天气不好", "今天天气很好", "今天天气很好啊")
    assert (agreement.wer, agreement.copilot_norm) == (0.0, "今天天气很好")
    tied = measure("今天天气很好", "今天天气不好", "今天天气不好")
    assert tied == measure("今天天气很好", "今天天气不好")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="他她它买卖天气ab ", max_size=8), min_size=2, max_size=4),
    st.text(alphabet="他她它买卖天气ab ", max_size=8),
)
def test_one_more_copilot_never_loses_a_clip_that_agrees(copilots: list[str], asr: str) -> None:
    all_of_them, fewer = measure(asr, *copilots), measure(asr, *copilots[:-1])
    assert all_of_them.wer + all_of_them.per <= fewer.wer + fewer.per


def test_measuring_without_a_copilot_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no copilot"):
        measure("你好")


# judge


def agreement_of(wer: float, per: float, asr: str = "好", copilot: str = "好") -> Agreement:
    return Agreement(wer=wer, per=per, asr_norm=asr, copilot_norm=copilot, reference="asr", tokens_per_second=3.0)


@pytest.mark.parametrize(
    ("wer", "per", "either", "both"),
    [
        (0.0, 0.0, None, None),
        (10.0, 5.0, None, None),
        (10.01, 5.0, WER, None),
        (10.0, 5.01, PER, None),
        (10.01, 5.01, WER_AND_PER, WER_AND_PER),
        (400.0, 0.0, WER, None),
    ],
)
def test_both_readings_of_the_rule(wer: float, per: float, either: str | None, both: str | None) -> None:
    for drop_when, expected in (("either", either), ("both", both)):
        rejection = reject(agreement_of(wer, per), AgreementRule(drop_when=drop_when))
        assert (rejection.reason if rejection else None) == expected
        assert rejection is None or (rejection.stage == "rover" and rejection.reason in REASONS and rejection.detail)


def test_nothing_heard_is_a_reason_of_its_own() -> None:
    assert judge_pair("。", "你好", "zh")[1].rejection.reason == EMPTY_ASR
    assert judge_pair("你好", "", "zh")[1].rejection.reason == EMPTY_COPILOT
    assert judge_pair("", "", "zh")[1].rejection.reason == EMPTY_ASR
    for text in ("", "你好"):  # whatever the bounds, also where the rate alone would pass
        _, verdict = judge_pair(text, "", "zh", AgreementRule(max_wer=1000, max_per=1000, drop_when="both"))
        assert not verdict.kept


def test_the_label_follows_language_and_setting() -> None:
    chinese = ("今天天气真的非常好我们去他家", "今天天气真的非常好我们去她家", "zh")
    english = (
        "We have all seen the big grey cat sitting there",
        "we have all seen the big gray cat sitting their",
        "en",
    )
    loose = AgreementRule(max_wer=15, label_form="written")
    assert judge_pair(*chinese, loose)[1].label == chinese[1]
    assert judge_pair(*chinese, replace(loose, label={"default": "asr"}))[1].label == chinese[0]
    assert judge_pair(*english, loose)[1].label == english[0]
    assert judge_pair(*english, replace(loose, label={"en": "copilot"}))[1].label.endswith("their")
    assert judge_pair(*english, replace(loose, label_form="spoken"))[1].label == Normaliser().spoken(english[0], "en")


def test_judging_again_with_other_bounds_needs_nothing_but_the_agreement() -> None:
    hypotheses = [heard("他今天没有来学校上课了"), heard("她今天没有来学校上客了")]
    agreement = AgreementJudge().measure(hypotheses[0], hypotheses[1:], "zh", 3.0)
    assert not AgreementJudge().judge(agreement, hypotheses, "zh").kept
    loose = AgreementRule(max_wer=20)
    again = AgreementJudge(loose).judge(agreement, hypotheses, "zh")
    measured = AgreementJudge(loose).measure(hypotheses[0], hypotheses[1:], "zh", 3.0)
    assert again == AgreementJudge(loose).judge(measured, hypotheses, "zh")
    assert again.label == "她今天没有来学校上客了"


LONG = "经过连续多天的紧张施工这座长约六百米的大桥终于在国庆节之前的{}号顺利通车"


@pytest.mark.parametrize(
    ("one", "other", "same"), [("17", "十七", True), ("17", "十一", False), ("二十", "二十三", False)]
)
def test_numbers_that_differ_disagree_however_long_the_clip(one: str, other: str, same: bool) -> None:
    agreement, verdict = judge_pair(LONG.format(one), LONG.format(other), "zh")
    assert agreement.numbers_agree is same
    assert verdict.kept is same
    assert verdict.rejection is None or verdict.rejection.reason == NUMBERS
    assert judge_pair(LONG.format(one), LONG.format(other), "zh", AgreementRule(numbers="counted"))[1].kept


def test_a_copilot_with_the_same_numbers_counts_before_one_that_is_nearer() -> None:
    asr, nearer, farther = LONG.format("17"), LONG.format("十一"), LONG.format("十七").replace("顺利", "胜利")
    agreement = measure(asr, nearer, farther)
    assert agreement.numbers_agree
    assert agreement.copilot_norm == farther


def test_what_is_folded_away_stays_in_the_label() -> None:
    agreement, verdict = judge_pair("Um, we can't see the sea-water.", "we cannot see the seawater", "en")
    assert (agreement.wer, agreement.per) == (0.0, 0.0)
    assert verdict.label == "um we can't see the sea water"


def test_two_fillers_that_differ_agree_on_nothing() -> None:
    assert not judge_pair("嗯", "啊", "zh")[1].kept


def test_three_engines_vote_for_the_label() -> None:
    hypotheses = [heard("我们今天去公园看花吧"), heard("我们今天去工园看花吧"), heard("我们今天去公园看画吧")]
    rover = AgreementJudge(AgreementRule(max_wer=20, max_per=20))
    agreement = rover.measure(hypotheses[0], hypotheses[1:], "zh", 3.0)
    assert rover.judge(agreement, hypotheses, "zh").label == "我们今天去公园看花吧"


@pytest.mark.parametrize(
    "settings_",
    [
        {"max_wer": -1},
        {"max_per": float("nan")},
        {"drop_when": "never"},
        {"label_form": "raw"},
        {"reference": {"zh": "whisper"}},
        {"label": {"default": ""}},
    ],
)
def test_bad_rules_are_the_users_to_fix(settings_: dict) -> None:
    with pytest.raises(UserError, match=r"rover\."):
        AgreementRule(**settings_)


# vote


@settings(max_examples=300, deadline=None)
@given(TOKENS, TOKENS)
def test_two_equal_engines_outvote_a_third_wherever_it_stands(agreed: list[str], other: list[str]) -> None:
    assert vote_tokens([agreed, agreed, other]) == agreed
    assert vote_tokens([agreed, other, agreed]) == agreed
    assert vote_tokens([other, agreed, agreed]) == agreed


@settings(max_examples=200, deadline=None)
@given(TOKENS, TOKENS)
def test_of_two_engines_the_first_wins(first: list[str], second: list[str]) -> None:
    assert vote_tokens([first, second]) == vote_tokens([first]) == first


@settings(max_examples=200, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=5))
def test_a_vote_only_says_what_an_engine_said_and_is_deterministic(hypotheses: list[list[str]]) -> None:
    winner = vote_tokens(hypotheses)
    assert set(winner) <= {token for hypothesis in hypotheses for token in hypothesis}
    assert len(winner) <= sum(map(len, hypotheses))
    assert vote_tokens([list(hypothesis) for hypothesis in hypotheses]) == winner


def test_each_word_is_voted_on_its_own() -> None:
    # no engine is right everywhere, each word has a majority
    assert vote_tokens([["a", "b", "X", "d"], ["a", "Y", "c", "d"], ["Z", "b", "c", "d"]]) == ["a", "b", "c", "d"]
    # a word that most engines did not hear goes, one that most heard comes
    assert vote_tokens([["a", "b", "c"], ["a", "c"], ["a", "c"]]) == ["a", "c"]
    assert vote_tokens([["a", "c"], ["a", "b", "c"], ["a", "b", "c"]]) == ["a", "b", "c"]


def test_a_vote_over_text_is_spaced_like_a_spoken_form() -> None:
    engines = ["我用 iphone fifteen 打电话", "我用 iphone 打电话", "我用 iphone fifteen 大电话"]
    assert vote(engines) == "我用 iphone fifteen 打电话"
    assert vote(["好", "", ""]) == ""


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="我们走ab cd'あア한글 3", max_size=12), st.text(alphabet="我们走ab", max_size=5))
def test_a_majority_label_is_its_spoken_form_to_the_character(text: str, other: str) -> None:
    spoken = Normaliser().spoken(text, "zh")
    assert vote([spoken, Normaliser().spoken(other, "zh"), spoken]) == spoken


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="we'll go to the café 3 naïve OK.", max_size=30))
def test_tokens_of_an_ascii_spoken_form_are_its_words(text: str) -> None:
    spoken = Normaliser().spoken(text, "en")  # Rover relies on it
    assert not spoken.isascii() or tokens(spoken) == spoken.split()


def test_nobody_to_vote_is_a_bug() -> None:
    with pytest.raises(ValueError, match="nobody"):
        vote([])
