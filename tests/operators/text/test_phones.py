"""Text to phones: what sounds alike is alike, what does not is not, whatever the script."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypinyin import Style, lazy_pinyin
from rapidfuzz.distance import Levenshtein

from operators.text.phones import Phonetiser
from operators.text.phones_en import cmu_dictionary, guess, letter_to_sound

PHONES = Phonetiser().phones


def distance(first: str, second: str, language: str | None) -> float:
    """Share of phones that differ, of the longer side."""
    return Levenshtein.normalized_distance(PHONES(first, language), PHONES(second, language))


@pytest.mark.parametrize(
    ("first", "second", "language"),
    [
        ("他在哪里", "她在哪里", "zh"),
        ("意义", "异议", "zh"),
        ("权利", "权力", "zh"),
        ("再见", "再见", None),
        ("我哋去银行", "我地去銀行", "yue"),
        ("colour", "color", "en"),
        ("their house", "there house", "en"),
        ("grey", "gray", "en"),
        ("sara", "sarah", "en"),
        ("café", "cafe", "en"),
        ("it’s", "it's", "en"),
        ("we've", "weave", "en"),
    ],
)
def test_homophones_have_the_same_phones(first: str, second: str, language: str | None) -> None:
    assert PHONES(first, language) == PHONES(second, language) != []


@pytest.mark.parametrize(
    ("first", "second", "language"),
    [
        ("买", "卖", "zh"),
        ("四", "十", "zh"),
        ("睡觉", "水饺", "zh"),
        ("can", "can't", "en"),
        ("买", "卖", "yue"),
        ("ship", "sheep", "en"),
    ],
)
def test_words_that_sound_different_differ(first: str, second: str, language: str) -> None:
    assert distance(first, second, language) > 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("qwenlin", "quenlin"),
        ("catherine", "katherine"),
        ("smartwatches", "smart watches"),
        ("organise", "organize"),
        ("xiaoming", "xiao ming"),
    ],
)
def test_spellings_of_one_unknown_word_come_out_close(first: str, second: str) -> None:
    assert distance(first, second, "en") <= 0.25


def test_polyphones_are_read_in_their_phrase() -> None:
    assert PHONES("银行", "zh") == ["in2", "h", "ang2"]
    assert PHONES("行走", "zh") == ["x", "ing2", "z", "ou3"]
    assert PHONES("长大", "zh")[:2] == ["zh", "ang3"]
    assert PHONES("长度", "zh")[:2] == ["ch", "ang2"]
    assert PHONES("音乐会", "zh")[1] == "ve4"


def test_tone_can_be_left_off() -> None:
    toneless = Phonetiser(tones=False).phones
    assert PHONES("买", "zh") != PHONES("卖", "zh")
    assert toneless("买嗯", "zh") == toneless("卖嗯", "zh") == ["m", "ai", "n"]
    assert toneless("我哋", "yue") == ["ng", "o", "d", "ei"]


def test_cantonese_is_read_as_jyutping_in_either_script() -> None:
    assert PHONES("佢去銀行", "yue") == ["k", "eoi5", "h", "eoi3", "ng", "an4", "h", "ong4"]
    assert PHONES("边度", "yue") == PHONES("邊度", "zh-yue") == ["b", "in1", "d", "ou6"]


def test_code_switching_is_one_sequence_by_script() -> None:
    assert PHONES("打开 wifi 吧", "zh") == PHONES("打开", "zh") + PHONES("wifi", "en") + PHONES("吧", "zh")
    assert PHONES("去 office", "yue") == PHONES("去", "yue") + PHONES("office", "en")


def test_where_no_phone_set_exists_a_phone_is_a_character() -> None:
    assert PHONES("привет мир", "ru") == list("приветмир")
    assert PHONES("今日は", "ja") == list("今日は")
    assert PHONES("bonjour", "fr") == list("bonjour")
    assert PHONES("汝好", "nan") == list("汝好")


def test_digits_are_read_one_by_one() -> None:
    assert PHONES("12", "zh") == PHONES("一二", "zh")
    assert PHONES("mp3", "en") == PHONES("mp three", "en")


def test_a_word_without_vowels_is_spelt() -> None:
    assert PHONES("dvds", "en") == [*PHONES("dvd", "en"), "Z"]
    assert PHONES("xqz", "en") == ["EH", "K", "S", "K", "Y", "UW", "Z", "IY"]


def test_empty_text_has_no_phones() -> None:
    assert PHONES("", "zh") == PHONES(" ", "en") == PHONES("'", None) == []


def test_unknown_characters_are_kept_as_themselves() -> None:
    assert PHONES("\U00031350好", "zh")[-2:] == ["h", "ao3"]
    assert len(PHONES("\U0003fff0", "zh")) == 1


SENTENCES = [
    "我们在银行办理了贷款然后行走在长长的街道上",
    "音乐会上他快乐地弹奏了一首古老的乐曲",
    "重要的事情要重新说三遍因为重量很重",
    "他着急地等着公交车却睡着了",
    "这个都市的人都会说普通话",
    "我觉得还行吧要不咱们还书去",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_mandarin_equals_pypinyin(sentence: str) -> None:
    initials = lazy_pinyin(sentence, style=Style.INITIALS)
    finals = lazy_pinyin(sentence, style=Style.FINALS_TONE3, neutral_tone_with_five=True)
    expected = [phone for pair in zip(initials, finals, strict=True) for phone in pair if phone]
    assert PHONES(sentence, "zh") == expected


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="一不行长乐重银走大度都会中国人民的了在", min_size=1, max_size=12))
def test_every_mandarin_syllable_equals_pypinyin_once_a_phrase_cannot_run_off_the_end(text: str) -> None:
    # pypinyin splits a tail that only begins a phrase into characters, so the text ends in one that begins none
    text += "吗。"
    initials = lazy_pinyin(text, style=Style.INITIALS)
    finals = lazy_pinyin(text, style=Style.FINALS_TONE3, neutral_tone_with_five=True)
    expected = [phone for pair in zip(initials[:-1], finals[:-1], strict=True) for phone in pair if phone]
    assert PHONES(text[:-1], "zh") == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.sampled_from([None, "zh", "yue", "en", "ja", "fr", "ZH-cn"]))
def test_any_text_has_phones_and_they_are_never_empty_strings(text: str, language: str | None) -> None:
    phones = PHONES(text, language)
    assert all(phones)
    if any(character.isalnum() for character in text):
        assert phones


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=12), max_size=6))
def test_words_are_read_one_by_one(words: list[str]) -> None:
    assert PHONES(" ".join(words), "en") == [phone for word in words for phone in PHONES(word, "en")]
    assert PHONES(" ".join([*words, "好"]), "en") == [*PHONES(" ".join(words), "en"), "h", "ao3"]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=15))
def test_every_spelling_has_a_sound(word: str) -> None:
    phones = PHONES(word, "en")
    assert phones
    assert set(phones) <= KNOWN


KNOWN = {phone for phones in cmu_dictionary().values() for phone in phones}


def test_the_dictionary_has_the_39_cmu_phones_and_no_stress() -> None:
    assert len(KNOWN) == 39
    assert not any(character.isdigit() for phone in KNOWN for character in phone)


def test_guesses_at_words_held_out_of_the_dictionary_are_close() -> None:
    words = dict(cmu_dictionary())
    candidates = [word for word in words if word.isalpha() and word.isascii() and len(word) > 3]
    wrong_by_rule = wrong = total = 0
    for word in random.Random(0).sample(candidates, 2000):
        phones = words.pop(word)
        wrong += Levenshtein.distance(phones, guess(word, words))
        wrong_by_rule += Levenshtein.distance(phones, letter_to_sound(word))
        words[word] = phones
        total += len(phones)
    assert wrong_by_rule / total < 0.20
    assert wrong / total < 0.15


def test_the_decoder_that_carries_the_dictionary_is_not_imported() -> None:
    code = "import sys; from operators.text.phones import Phonetiser; "
    code += "assert Phonetiser().phones('hello', 'en'); assert 'pocketsphinx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_phonetiser_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Phonetiser(tones=False))).phones("买", "zh") == ["m", "ai"]
