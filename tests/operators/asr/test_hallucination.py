"""Hallucination rules must catch what engines invent and spare what people say: every rule is tested both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.asr.hallucination import (
    EMPTY_ASR,
    LOOP,
    LOW_LOGPROB,
    REASONS,
    STOCK_PHRASE,
    TOO_FAST,
    TOO_SLOW,
    HallucinationRules,
    RateLimits,
    check,
)
from operators.errors import UserError

RULES = HallucinationRules()


def reason(
    text: str, seconds: float = 5.0, language: str | None = "zh", avg_logprob: float | None = -0.3
) -> str | None:
    rejection = check(text, seconds, language, avg_logprob, RULES)
    assert rejection is None or (rejection.stage == "transcribe" and rejection.reason in REASONS and rejection.detail)
    return rejection.reason if rejection else None


@pytest.mark.parametrize("text", ["", "   ", "。。。", "...", "!?", "\u200b"])
def test_nothing_heard(text: str) -> None:
    assert reason(text) == EMPTY_ASR


@pytest.mark.parametrize(
    "text",
    [
        "谢谢观看",
        "謝謝觀看",
        "感谢您的观看，谢谢观看！",
        "谢谢大家收看",
        "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
        "請不吝點贊 訂閱 轉發 打賞支持明鏡與點點欄目",
        "明镜需要您的支持 欢迎订阅明镜",
        "字幕由Amara.org社区提供",
        "中文字幕由 Amara.org 社群提供",
        "字幕 by 索兰娅",
        "中文字幕志愿者 杨茜茜",
        "優優獨播劇場——YoYo Television Series Exclusive",
        "作詞・作曲・編曲 李宗盛",
        "多謝您收睇時局新聞,再會!",
        "Thank you for watching.",
        "Thanks for watching!",
        "Thank you so much for watching, please subscribe to my channel.",
        "Please like, comment and subscribe!",
        "Don't forget to subscribe.",
        "I'll see you in the next video.",
        "Subtitles by the Amara.org community",
        "ご視聴ありがとうございました",
        "[Music]",
        "(upbeat music)",
        "【掌声】",
        "*laughs*",
        "♪♪♪",
        "♪ [音乐] ♪",
        "谢谢观看，嗯",  # nearly the whole transcript
    ],
)
def test_stock_phrases_that_are_the_whole_transcript(text: str) -> None:
    assert reason(text, seconds=3.0) == STOCK_PHRASE


@pytest.mark.parametrize(
    "text",
    [
        "谢谢",
        "谢谢大家",
        "谢谢你的帮助",
        "感谢大家今天来参加我们的会议",
        "很多人谢谢观看之后就关掉了视频",
        "请大家关注我们的新产品发布会",
        "点赞的人比转发的人多",
        "字幕组的同学今天都来了",
        "他订阅了三份报纸",
        "Thank you.",
        "Thank you very much for coming here today.",
        "People like watching the birds.",
        "Subscribers are paying ten dollars a month.",
        "I was watching the game, thanks for asking.",
        "The music was loud and then there was applause.",
        "(three years later) we met again in Paris",
    ],
)
def test_the_same_words_in_real_speech_are_spared(text: str) -> None:
    assert reason(text, seconds=3.0) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("我们" * 20, 20.0),
        ("今天天气很好" * 6, 15.0),
        ("然后呢我就跟他说 " + "好的" * 20, 15.0),
        ("的" * 40, 20.0),
        ("I'm going to go. " * 8, 20.0),
        ("the " * 30, 20.0),
        ("So we have " + "a little bit of " * 10, 20.0),
        ("哈" * 80, 20.0),  # nobody laughs eighty times in one clip
        ("1." * 100, 30.0),
        ("o" * 100, 10.0),
        ("ขอบคุณครับ" * 20, 30.0),
    ],
)
def test_loops(text: str, seconds: float) -> None:
    assert reason(text, seconds) == LOOP


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("哈哈哈哈", 2.0),
        ("哈" * 20, 6.0),
        ("对对对", 2.0),
        ("对对对对对对，你说得对", 3.0),
        ("no no no", 2.0),
        ("No, no, no, no, no, no, no, no!", 4.0),
        ("天天开心", 2.0),
        ("祝你天天开心天天开心天天开心", 4.0),
        ("加油加油加油加油加油", 3.0),
        ("好的好的好的好的", 3.0),
        ("一二三四五六七八九十", 5.0),
        ("一二三四一二三四一二三四一二三四", 6.0),
        ("一二三四二二三四三二三四四二三四", 6.0),
        ("one two three four one two three four one two three four one two three four", 10.0),
        ("我的电话是一三八八八八八八八八八", 5.0),
        ("13888888888", 5.0),
        ("our number is 555 555 5555", 5.0),
        ("十点十分十秒", 3.0),
        ("重要的事情说三遍重要的事情说三遍重要的事情说三遍", 8.0),
        ("啦啦啦啦啦啦啦啦啦啦啦啦啦啦啦啦啦啦", 6.0),
        ("妈妈骂马吗", 2.0),
        ("吃葡萄不吐葡萄皮不吃葡萄倒吐葡萄皮", 5.0),
        ("四是四十是十十四是十四四十是四十", 5.0),
        ("row row row your boat gently down the stream merrily merrily merrily merrily life is but a dream", 12.0),
        ("haha hahaha hahahahaha", 3.0),
    ],
)
def test_real_repetition_is_spared(text: str, seconds: float) -> None:
    assert reason(text, seconds) is None


def test_speech_rates() -> None:
    sentence = "今天我们来讨论一下关于明年工作计划的几个重要问题"
    assert reason(sentence, 5.0) is None
    assert reason(sentence, 2.0) == TOO_FAST
    assert reason(sentence, 60.0) == TOO_SLOW
    english = "today we are going to talk about the plan for next year"
    assert reason(english, 4.0, "en") is None
    assert reason(english, 1.5, "en") == TOO_FAST
    assert reason("you", 8.0, "en") == TOO_SLOW
    assert reason("好", 2.0) is None
    assert reason("13800138000", 8.0, "en") is None  # one word on paper, eleven aloud
    mixed = "我们今天开会 " * 2 + "we have a meeting today " * 2
    assert reason(mixed, 6.0) is None
    assert reason(mixed, 2.0) == TOO_FAST  # neither half alone is


def test_rate_limits_follow_the_language_and_are_settings() -> None:
    text = "không có gì quý hơn độc lập tự do các bạn ạ"
    assert check(text, 1.5, "vi", None, RULES) is None
    assert check(text, 1.5, "en", None, RULES).reason == TOO_FAST
    slow = HallucinationRules(rates={"en": RateLimits(max_words_per_second=1.0)})
    assert check("one day we met again", 3.0, "en-GB", None, slow).reason == TOO_FAST
    assert check("one day we met again", 3.0, "fr", None, slow) is None
    off = HallucinationRules(rates={"default": RateLimits(min_words_per_second=0.0, max_words_per_second=float("inf"))})
    assert check("word", 1000.0, "en", None, off) is None
    assert check("one day we met again", 0.1, "en", None, off) is None


def test_log_probability() -> None:
    assert reason("今天天气很好", avg_logprob=-0.99) is None
    assert reason("今天天气很好", avg_logprob=-1.01) == LOW_LOGPROB
    assert reason("今天天气很好", avg_logprob=None) is None
    assert reason("今天天气很好", avg_logprob=float("nan")) == LOW_LOGPROB


def test_thresholds_are_settings() -> None:
    chant = "加油" * 7
    assert check(chant, 5.0, "zh", None, RULES) is None
    assert check(chant, 5.0, "zh", None, HallucinationRules(min_looped_tokens=8)).reason == LOOP
    assert check("谢谢观看今天的节目到此结束了", 5.0, "zh", None, RULES) is None
    assert (
        check("谢谢观看今天的节目到此结束了", 5.0, "zh", None, HallucinationRules(min_stock_share=0.2)).reason
        == STOCK_PHRASE
    )
    with pytest.raises(UserError, match="max_repeats"):
        HallucinationRules(max_repeats=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_avg_logprob": "abc"},
        {"min_avg_logprob": None},
        {"min_avg_logprob": float("nan")},
        {"max_repeats": "3"},
        {"max_repeats": True},
        {"min_stock_share": [1]},
        {"rates": None},
        {"rates": 3},
        {"rates": {"zh": 3}},
        {"rates": {"zh": RateLimits(max_han_per_second="fast")}},  # type: ignore[arg-type]
    ],
)
def test_a_threshold_that_is_no_number_is_refused_before_any_clip_is_heard(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))) as error:
        HallucinationRules(**wrong)
    assert "\n" not in str(error.value)


def test_infinity_switches_the_rule_for_loops_off() -> None:
    for off in ({"max_repeats": float("inf")}, {"min_looped_tokens": float("inf")}):
        assert check("加油" * 12, 10.0, "zh", None, RULES).reason == LOOP
        assert check("加油" * 12, 10.0, "zh", None, HallucinationRules(**off)) is None


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60),
    st.floats(0.0, 60.0),
    st.sampled_from([None, "zh", "en", "ja"]),
    st.one_of(st.none(), st.floats()),
)
def test_any_text_gets_an_answer_and_the_same_one_twice(
    text: str, seconds: float, language: str | None, logprob: float | None
) -> None:
    first = check(text, seconds, language, logprob, RULES)
    assert first == check(text, seconds, language, logprob, RULES)
    assert first is None or first.reason in REASONS


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("我你他们来去山水风云天地人"), min_size=1, max_size=8, unique=True),
    st.text(alphabet="春夏秋冬东西南北", max_size=10),
    st.integers(2, 12),
)
def test_a_loop_is_found_by_its_repeats_wherever_it_starts(unit: list[str], before: str, repeats: int) -> None:
    text = before + "".join(unit) * repeats
    is_loop = repeats > RULES.max_repeats and len(unit) * (repeats - 1) >= RULES.min_looped_tokens
    rejection = check(text, len(text) / 4, "zh", None, RULES)
    assert (rejection is not None and rejection.reason == LOOP) == is_loop
