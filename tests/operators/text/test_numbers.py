"""Numbers as words and back: every reading of a number is that number, and of no other one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.agreement import judge_pair
from operators.text.folded import Folder
from operators.text.numbers_en import english_value, readings_english, reread
from operators.text.numbers_zh import han_value, parse_han, readings_han

FOLDER = Folder()
NUMBERS = st.one_of(st.integers(0, 9999), st.integers(0, 10**6), st.integers(0, 10**15))
BEFORE = "when we came back to the old house in the evening we saw that there were about "
AFTER = " of them waiting in the corridor behind the kitchen door and nobody said a word to us"
HAN_BEFORE, HAN_AFTER = "我们昨天晚上回到老房子的时候看见走廊里面大约有", "人在厨房门口等着谁也不说话大家都觉得奇怪"


@settings(max_examples=500, deadline=None)
@given(st.integers(min_value=1, max_value=10**15))
def test_han_numbers_parse_back(number: int) -> None:
    assert parse_han(han_value(number)) == number


@pytest.mark.parametrize(
    "run",
    ["四五百", "千万", "七八十", "万一", "五六", "百万", "三百二十四五", "十七八", "零", "一百零", "五十两", "三百两"],
)
def test_approximations_idioms_and_silver_are_no_numbers(run: str) -> None:
    assert parse_han(run) is None


@settings(max_examples=200, deadline=None)
@given(NUMBERS)
def test_every_english_reading_is_the_number(number: int) -> None:
    digits = str(number)
    for words in readings_english(digits):
        found = reread(words.split())[1]
        assert found in ([digits], [",".join(digits)]), words
        assert judge_pair(f"{BEFORE}{digits}{AFTER}", f"{BEFORE}{words}{AFTER}", "en")[1].kept, words


@settings(max_examples=200, deadline=None)
@given(NUMBERS)
def test_every_han_reading_is_the_number(number: int) -> None:
    for words in readings_han(str(number), "约有", "人"):
        assert judge_pair(f"{HAN_BEFORE}{number}{HAN_AFTER}", f"{HAN_BEFORE}{words}{HAN_AFTER}", "zh")[1].kept, words


@settings(max_examples=200, deadline=None)
@given(NUMBERS, NUMBERS)
def test_numbers_that_differ_never_agree_in_a_long_clip(one: int, other: int) -> None:
    if one == other or 1 in (one, other):  # a lone one may be an article
        return
    english, chinese = set(readings_english(str(one))), set(readings_han(str(one), "约有", "人"))
    for words in readings_english(str(other)):
        if words not in english:
            for form in (str(one), f"{one:,}", readings_english(str(one))[0]):
                assert not judge_pair(f"{BEFORE}{form}{AFTER}", f"{BEFORE}{words}{AFTER}", "en")[1].kept, (form, words)
    for words in readings_han(str(other), "约有", "人"):
        if words not in chinese:
            pair = f"{HAN_BEFORE}{one}{HAN_AFTER}", f"{HAN_BEFORE}{words}{HAN_AFTER}"
            assert not judge_pair(*pair, "zh")[1].kept, words


@pytest.mark.parametrize(
    ("spelt", "digits"),
    [
        ("two thousand and five", "2005"),
        ("twenty oh five", "2005"),
        ("nineteen ninety nine", "1999"),
        ("seven thirty seven", "737"),
        ("double oh seven", "007"),
        ("seventy sixty one one hundred sixty five", "7061165"),
        ("one eight hundred five five five one two three four", "18005551234"),
        ("minus five", "-5"),
        ("point five", "0.5"),
        ("two point oh point one", "2.0.1"),
        ("one point five million", "1.5m"),
        ("two and a half", "2+1/2"),
        ("twenty first", "21th"),
        ("five quadrillion", "5000000000000000"),
        ("one two", "1,2"),
        ("twelve", "12"),
    ],
)
def test_reread(spelt: str, digits: str) -> None:
    assert reread(spelt.split())[1] == [digits]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**8))
def test_rereading_is_idempotent(number: int) -> None:
    once = reread(english_value(number).split())
    assert reread(once[0]) == once
