"""The spoken form: what falls together, what stays apart, and the invariants that hold for any string."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.text.numbers import english_value, han_value, parse_han, reread_english
from operators.text.spoken import Normaliser, evaluation_form, tokens

LANGUAGES = st.sampled_from([None, "zh", "en", "yue", "ja", "de", "ko", "th", "zh-CN", "sichuan"])
PIECES = """
one two twenty hundred thousand and oh a i can't it's gonna um 5 15 2024 1990s 3:30 pm % $5 iphone o clock march may
five nineteen percent point A I A.I. 1/2 5kg °C - / , . ' 3 D
.5 0.5 -5% -5度 10² x³ ⁻ 2½ 2 1/2 ₹500 20€ ₲ ¢ résumé é \u0301 k 300k 401k ø (555) 123-4567 zero and eight half 98年 年
九八 早上
-5~10℃ 5%-10% ^ 三 十五 百 万 点 半 个 二 两 年 嗯 儿 花 女 幺 零 〇 廿 几 米 分 整 著 係 元 负 室 ￥
""".split()  # noqa: SIM905 - sixty lines otherwise
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="0123456789零一二三四五六七八九十百千万亿两点年月日分:：.,%-$￥ abAI'儿嗯啊花女第号个kgm/"),
    st.text(alphabet="0123456789²³⁻½⅓$€₹₲¢^.-~%°度到负零五九万亿点早上下午年著书拿 aké()"),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Mn", "Mc", "Lo", "Nd", "Nl", "No", "Lu", "Sk", "Sc"])),
    st.lists(st.sampled_from(PIECES)).map(" ".join),
    st.lists(st.sampled_from([*PIECES, " "])).map("".join),
)
SPOKEN = Normaliser()


@settings(max_examples=1500, deadline=None)
@given(TEXTS, LANGUAGES)
def test_spoken_is_idempotent_and_never_raises(text: str, language: str | None) -> None:
    once = SPOKEN.spoken(text, language)
    assert SPOKEN.spoken(once, language) == once


@settings(max_examples=500, deadline=None)
@given(TEXTS, LANGUAGES, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_every_setting_is_idempotent(
    text: str, language: str | None, fillers: bool, erhua: bool, numbers: bool, contractions: bool
) -> None:
    normaliser = Normaliser(fillers=fillers, erhua=erhua, numbers=numbers, contractions=contractions)
    once = normaliser.spoken(text, language)
    assert normaliser.spoken(once, language) == once


@settings(max_examples=500, deadline=None)
@given(TEXTS, LANGUAGES)
def test_spoken_form_is_its_tokens(text: str, language: str | None) -> None:
    """Nothing between tokens but single spaces, so a spoken form can be written back from them."""
    spoken = SPOKEN.spoken(text, language)
    assert "".join(tokens(spoken)) == spoken.replace(" ", "")
    assert tokens(" ".join(tokens(spoken))) == tokens(spoken)
    assert "  " not in spoken
    assert spoken == spoken.strip()


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_evaluation_form_is_idempotent(text: str) -> None:
    once = evaluation_form(text)
    assert evaluation_form(once) == once


@settings(max_examples=1000, deadline=None)
@given(st.integers(min_value=1, max_value=10**14))
def test_han_numbers_parse_back(number: int) -> None:
    assert parse_han(han_value(number)) == number


@settings(max_examples=500, deadline=None)
@given(st.integers(min_value=0, max_value=10**8))
def test_digits_and_words_meet(number: int) -> None:
    assert SPOKEN.spoken(f"大约{number}个人", "zh") == SPOKEN.spoken(f"大约{han_value(number)}个人", "zh")
    assert SPOKEN.spoken(f"about {number:,} people", "en") == SPOKEN.spoken(
        f"about {english_value(number)} people", "en"
    )
    assert reread_english(reread_english(english_value(number))) == reread_english(english_value(number))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 9999))
def test_different_numbers_stay_apart(one: int, other: int) -> None:
    same = one == other
    assert (SPOKEN.spoken(f"大约{one}个人", "zh") == SPOKEN.spoken(f"大约{other}个人", "zh")) is same
    assert (SPOKEN.spoken(f"about {one} people", "en") == SPOKEN.spoken(f"about {other} people", "en")) is same


@pytest.mark.parametrize(
    "run", ["四五百", "千万", "七八十", "万一", "五六", "百万", "三百二十四五", "十七八", "零", "一百零"]
)
def test_approximations_and_idioms_are_no_numbers(run: str) -> None:
    assert parse_han(run) is None


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        ("今天 23 度，真热！", "zh", "今天二十三度真热"),
        ("我買了2個ＩＰＨＯＮＥ", "zh", "我买了两个 iphone"),
        ("iPhone 15", "zh", "iphone fifteen"),
        ("iPhone 15", None, "iphone fifteen"),
        ("15", "zh", "十五"),
        ("15", "en", "fifteen"),
        ("-5℃", "zh", "零下五度"),
        ("12.5%", "zh", "百分之十二点五"),
        ("wait...5 people", "en", "wait five people"),
        ("1, 0.5", "en", "one zero point five"),
        ("ten zero point five", "en", "ten zero point five"),
        ("$.50", "en", "fifty cents"),
        ("东风-41", "zh", "东风四十一"),
        ("5到-10度", "zh", "五到零下十度"),
        ("5-10度", "zh", "五到十度"),
        ("正负五度", "zh", "正负五度"),
        ("5%到-3%", "zh", "百分之五到负百分之三"),
        ("400-800-8820", "zh", "四零零八零零八八二零"),
        ("10⁻³", "zh", "十的负三次方"),
        ("10³ and 10⁶", "en", "ten cubed and ten to the power of six"),
        ("x²", "en", "x squared"),
        ("5km²", "zh", "五平方公里"),
        ("5 km²", "en", "five square kilometers"),
        ("10²", "de", "10 2"),
        ("₲500", "en", "five hundred guarani"),
        ("₲500左右", "zh", "five hundred guarani 左右"),
        ("₹5 million", "en", "five million rupees"),
        ("five $10 bills", "en", "five ten dollar bills"),
        ("50¢", "en", "fifty cents"),
        ("10k-20k", "en", "ten thousand to twenty thousand"),
        ("a 401k", "en", "a four hundred one k"),
        ("2⅛ inches", "en", "two and an eighth inches"),
        ("+1 (555) 123-4567", "en", "one five five five one two three four five six seven"),
        ("Łódź café", "zh", "lodz cafe"),
        ("café", "fr", "café"),
        ("七八年 80年代 第98年", "zh", "七八年八十年代第九十八年"),
        ("八点五分", "zh", "八点五分"),
        ("晚上八点五分钟", "zh", "晚上八点五分钟"),
        ("1.2万亿", "zh", "一点二万亿"),
        ("著書 原著書 看著作", "zh", "著书原著书看著作"),
        ("3:30 p.m.", "en", "three thirty pm"),
        ("I can't, um, go", "en", "i can not go"),
        ("John's dogs' toys", "en", "john's dogs toys"),
        ("AT&T and R&D", "en", "at and t and r and d"),
        ("嗯", "zh", ""),
        ("……！？", "zh", ""),
        ("", None, ""),
        ("<|zh|><|NEUTRAL|>你好[Music]", "zh", "你好"),
        ("顯著 編著 看著", "zh", "显著编著看着"),
        ("唔係", "yue", "唔系"),
        ("dreiundzwanzig 23", "de", "dreiundzwanzig 23"),
        ("नमस्ते दुनिया।", "hi", "नमस्ते दुनिया"),
        ("𠮷野家", "zh", "𠮷野家"),
        ("ｶﾞｷﾞ", "ja", "ガギ"),
    ],
)
def test_spoken(text: str, language: str | None, spoken: str) -> None:
    assert SPOKEN.spoken(text, language) == spoken


def test_settings_switch_their_own_rule_off() -> None:
    assert Normaliser(fillers=False).spoken("嗯，好", "zh") == "嗯好"
    assert Normaliser(erhua=False).spoken("花儿", "zh") == "花儿"
    assert Normaliser(numbers=False).spoken("23度", "zh") == "23 度"
    assert Normaliser(contractions=False).spoken("I can't", "en") == "i can't"


def test_normaliser_pickles() -> None:
    copy = pickle.loads(pickle.dumps(Normaliser(erhua=False)))
    assert copy == Normaliser(erhua=False)
    assert copy.spoken("花儿23朵", "zh") == "花儿二十三朵"


def test_long_and_hostile_text_is_bounded() -> None:
    """A transcript is a clip of 30 s at most, but a looping engine writes kilobytes."""
    for text in (
        "1,000," * 3000,
        "一百" * 6000,
        "a i " * 5000,
        "3:30 " * 3000,
        "twenty oh " * 3000,
        "一点二万" * 3000,
        "负五" * 5000,
        "-5到" * 3000,
        "[" * 9000,
        "'" * 9000,
    ):
        assert isinstance(SPOKEN.spoken(text, "zh"), str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我用iphone fifteen", ["我", "用", "iphone", "fifteen"]),
        ("it's john's", ["it's", "john's"]),
        ("𠮷㐀豈", ["𠮷", "㐀", "豈"]),
        ("カメラ", ["カ", "メ", "ラ"]),
        ("안녕 하세요", ["안녕", "하세요"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("你好，世界！", ["你", "好", "世", "界"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_evaluation_form() -> None:
    assert evaluation_form("我買了一部 iPhone，真好！") == "我买了一部 IPHONE 真好"
