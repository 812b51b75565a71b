"""One name per language: whatever a crawl, an engine or a setting calls it, all parts of the project mean the same."""

from __future__ import annotations

import pytest

from model_training.text.tokens import Scheme
from operators.agreement import judge_pair
from operators.asr.whisperx import LANGUAGES
from operators.language import PROMPTED_AS, UNSPACED, canonical, is_unspaced
from operators.text.phones import Phonetiser
from operators.text.spoken import Normaliser

NAMES = {
    "yue": ["zh-HK", "zh_hk", "ZH-hk", "zh-Hant-HK", "zh-MO", "zh-yue", "yue-Hant", "yue", "cantonese", "Cantonese"],
    "zh": ["zh", "cmn", "zho", "chi", "zh-CN", "zh_cn", "zh-Hans", "zh-TW", "zh-Hant", "cmn-Hans-CN", "Mandarin"],
    "en": ["en", "eng", "EN", "en-US", "en_gb", "English", " en "],
    "minnan": ["nan", "minnan", "zh-min-nan", "hokkien"],
    "de": ["de", "deu", "ger", "de-AT", "German"],
    "ja": ["ja", "jpn", "ja-JP", "japanese"],
    "no": ["no", "nb", "nob", "nor"],
    "he": ["he", "iw", "heb"],
    "jw": ["jw", "jv", "jav"],
}


@pytest.mark.parametrize(("language", "code"), [(name, code) for name, codes in NAMES.items() for code in codes])
def test_every_name_of_a_language_is_one_name(language: str, code: str) -> None:
    assert canonical(code) == language


@pytest.mark.parametrize("code", [None, "", " ", "und", "auto", "unknown", "nospeech"])
def test_no_language_is_named(code: str | None) -> None:
    assert canonical(code) is None
    assert is_unspaced(code)


def test_canonical_names_are_fixed_points_and_whispers_are_among_them() -> None:
    assert {canonical(code) for code in LANGUAGES} == LANGUAGES
    assert all(canonical(code) == code for code in (*PROMPTED_AS, *UNSPACED, "tlh", "my-own".partition("-")[0]))


@pytest.mark.parametrize("language", ["yue", "zh", "en"])
def test_spelling_phones_and_tokens_mean_one_language(language: str) -> None:
    """zh-HK was Cantonese for spelling and Mandarin for phones; eng was spelt letter by letter."""
    text = "佢今年23歲 phone 2"
    spoken = Normaliser().spoken(text, language)
    phones = Phonetiser().phones(spoken, language)
    for code in NAMES[language]:
        assert Normaliser().spoken(text, code) == spoken
        assert Phonetiser().phones(spoken, code) == phones
        assert (
            judge_pair("我们走吧", "我们走", code)[0].reference
            == judge_pair("我们走吧", "我们走", language)[0].reference
        )
        assert Scheme().known("language", code) == language
