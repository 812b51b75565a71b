"""The folded form: what falls together in a comparison, what stays apart, and that every script is safe."""

from __future__ import annotations

import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.agreement import judge_pair
from operators.text.folded import Folder
from operators.text.spoken import Normaliser
from tests.operators.text.test_spoken import LANGUAGES, TEXTS

FOLDER = Folder()

# Words as people of each language write them, marks and all: none may be joined, cut or changed.
WORDS = {
    "de": "für fünf Äpfel größer schöne Straße über e-mail", "fr": "été où cœur ça déjà naïve l'école à",
    "es": "más años niño él tú pingüino y o", "pt": "não há coração avô é à",
    "it": "perché è più città o e", "vi": "tôi có một cái bàn ở đâu đã",
    "tr": "ışık çok güzel şey İzmir ve", "pl": "żółć łódź się w z i", "cs": "příliš žluťoučký kůň a v",
    "el": "Ελλάδα είναι ωραία ο η", "ru": "ёлка съел й в с и", "uk": "їжак є ґанок і у",
    "hi": "नमस्ते दुनिया में है", "th": "สวัสดี น้ำ ก็", "ar": "السلام عليكم و في", "he": "שלום עולם ב",
    "fa": "سلام دنیا و", "ja": "カメラ が 東京 です", "ko": "안녕 하세요 나 는", "sv": "år ö på i å",
    "da": "øl å på æble i", "no": "å ære på i", "fi": "hän ääni yö ja", "hu": "őz űr ő és a",
    "ro": "și ța în a", "hr": "šuma đak ž i u", "lt": "žąsis ū ir", "lv": "ķēde ē un", "et": "öö õun ja",
    "is": "þú ð á í", "nl": "één coördinatie o u", "ca": "l·lusió ç i a", "cy": "tŷ ŵyn y a",
    "ta": "தமிழ் மொழி", "bn": "বাংলা ভাষা", "ka": "საქართველო და", "hy": "հայ եվ", "am": "ሰላም ነው",
    "km": "ខ្មែរ", "my": "မြန်မာ",
}  # fmt: skip


def words_of(language: str) -> list[str]:
    """In the one form that width and case have, a hyphen parting two words."""
    text = unicodedata.normalize("NFKC", WORDS[language])
    return text.replace("-", " ").replace("·", " ").split()


@pytest.mark.parametrize("language", sorted(set(WORDS) - {"ja", "th", "km", "my"}))
def test_folding_touches_case_width_and_punctuation_only(language: str) -> None:
    words = words_of(language)
    assert Normaliser().spoken(WORDS[language], language).split() == [word.lower() for word in words]
    assert FOLDER.folded(WORDS[language], language).split() == [word.lower().casefold() for word in words]


@pytest.mark.parametrize("language", ["ja", "th", "km", "my"])
def test_scripts_without_spaces_keep_every_character(language: str) -> None:
    for form in (Normaliser().spoken(WORDS[language], language), FOLDER.folded(WORDS[language], language)):
        assert form.replace(" ", "") == "".join(words_of(language))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(set(WORDS) - {"ja", "th", "km", "my"})), st.data())
def test_words_of_a_language_stay_words(language: str, data: st.DataObject) -> None:
    words = data.draw(st.lists(st.sampled_from(words_of(language)), min_size=1))
    spoken = Normaliser().spoken(", ".join(words) + ".", language)
    assert spoken.split() == [word.lower() for word in words]
    assert judge_pair(f"¡{' '.join(words)}!", spoken, language)[1].kept


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS, LANGUAGES)
def test_comparing_never_raises_and_is_fair_to_both(one: str, other: str, language: str | None) -> None:
    forward, back = FOLDER.compare(one, other, language), FOLDER.compare(other, one, language)
    assert (forward.first, forward.second) == (back.second, back.first)
    assert forward.numbers_agree(language) == back.numbers_agree(language)
    same = FOLDER.compare(one, one, language)
    assert same.first == same.second
    assert same.numbers_agree(language)


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("嗯，我觉得可以", "我觉得可以", "zh"),
        ("花儿都开了", "花都开了", "zh"),
        ("二百个", "两百个", "zh"),
        ("想像力", "想象力", "zh"),
        ("係咁㗎", "係咁架", "yue"),
        ("I, um, can't go", "i cannot go", "en"),
        ("the sea-water", "the seawater", "en"),
        ("He's gone", "he has gone", "en"),
        ("He's going", "he is going", "en"),
        ("the grey colour", "the gray color", "en"),
        ("a PhD", "a p h d", "en"),
        ("two thousand and five", "twenty oh five", "en"),
    ],
)
def test_what_two_right_transcripts_differ_in_falls_together(one: str, other: str, language: str) -> None:
    compared = FOLDER.compare(one, other, language)
    assert compared.first.folded == compared.second.folded


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("二层", "两层", "zh"),
        ("幸运儿", "幸运", "zh"),
        ("托儿所", "托所", "zh"),
        ("重点整治", "重点治", "zh"),
        ("五十两银子", "五十二银子", "zh"),
        ("这一点三十年前", "这一点半年前", "zh"),
        ("十三点十分三十六秒", "十三点十三分十六秒", "zh"),
        ("≥60", "60", "zh"),
        ("C#", "C", "en"),
        ("A+", "A", "en"),
        ("2.0.1", "two zero one", "en"),
        ("we are now here", "we are nowhere", "en"),
        ("the dog's tail", "the dog tail", "en"),
        ("go to the ER now", "go to the now", "en"),
        ("one two", "twelve", "en"),
        ("schön", "schon", "de"),
    ],
)
def test_what_was_said_differently_stays_apart(one: str, other: str, language: str) -> None:
    compared = FOLDER.compare(one, other, language)
    assert compared.first.folded != compared.second.folded


def test_settings_switch_their_own_rule_off() -> None:
    assert Folder(fillers=False).folded("嗯，好", "zh") == "嗯好"
    assert Folder(erhua=False).folded("花儿", "zh") == "花儿"
    assert pickle.loads(pickle.dumps(Folder(erhua=False))) == Folder(erhua=False)
