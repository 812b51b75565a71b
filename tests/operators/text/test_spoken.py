"""The spoken form: nothing that is said is lost, nothing that differs is merged, and the invariants that hold for any
string.
"""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.text.scripts import table
from operators.text.spoken import Normaliser, evaluation_form, tokens

LANGUAGES = st.sampled_from([None, "zh", "en", "yue", "ja", "de", "ko", "th", "zh-CN", "sichuan"])
PIECES = """
one two twenty hundred thousand and oh a i can't it's gonna um 5 15 2024 1990s 3:30 pm % $5 iphone o clock march may
five nineteen percent point A I A.I. 1/2 5kg °C - / , . ' 3 D dr st. St. mr No. Ave. II XIV Henry & @ # C# A+ +
.5 0.5 -5% -5度 10² x³ ⁻ 2½ 2 1/2 ₹500 20€ ₲ ¢ résumé é \u0301 k 300k 401k ø (555) 123-4567 zero and eight half 98年 年
九八 早上 (laughs) （掌声） 1,234 7-5-0 2.0.1 10^2 ≥ ± a@b.com www.x.org/a
-5~10℃ 5%-10% ^ 三 十五 百 万 点 半 个 二 两 年 嗯 儿 花 女 幺 零 〇 廿 几 米 分 整 著 係 元 负 室 ￥
""".split()  # noqa: SIM905 - sixty lines otherwise
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="0123456789零一二三四五六七八九十百千万亿两点年月日分:：.,%-$￥ abAI'儿嗯啊花女第号个kgm/"),
    st.text(alphabet="0123456789²³⁻½⅓$€₹₲¢^.-~%°度到负零五九万亿点早上下午年著书拿 aké()+#&@=<>"),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Mn", "Mc", "Lo", "Nd", "Nl", "No", "Lu", "Sk", "Sc"])),
    st.lists(st.sampled_from(PIECES)).map(" ".join),
    st.lists(st.sampled_from([*PIECES, " "])).map("".join),
)
SPOKEN = Normaliser()


def test_a_unit_of_letters_is_read_in_any_case() -> None:
    for row in table("units_zh.txt"):
        if len(row[0]) > 1:
            for sign in (row[0], row[0].lower(), row[0].upper(), row[0].swapcase()):
                said = SPOKEN.spoken(f"用了3{sign}呢", "zh").replace(" ", "")
                assert said == f"用了三{row[1].lower()}呢", sign


@settings(max_examples=1200, deadline=None)
@given(TEXTS, LANGUAGES)
def test_spoken_is_idempotent_and_never_raises(text: str, language: str | None) -> None:
    once = SPOKEN.spoken(text, language)
    assert SPOKEN.spoken(once, language) == once


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, LANGUAGES)
def test_beside_another_text_it_is_as_stable(text: str, other: str, language: str | None) -> None:
    once = SPOKEN.spoken(text, language, other)
    assert SPOKEN.spoken(once, language) == SPOKEN.spoken(once, language, other) == once


@settings(max_examples=400, deadline=None)
@given(TEXTS, LANGUAGES)
def test_spoken_form_is_its_tokens(text: str, language: str | None) -> None:
    """Nothing between tokens but single spaces, so a spoken form can be written back from them."""
    spoken = SPOKEN.spoken(text, language)
    assert "".join(tokens(spoken)).replace(" ", "") == spoken.replace(" ", "")
    assert tokens(" ".join(tokens(spoken))) == tokens(spoken)
    assert "  " not in spoken
    assert spoken == spoken.strip()


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_evaluation_form_is_idempotent(text: str) -> None:
    once = evaluation_form(text)
    assert evaluation_form(once) == once


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        # the signs that labels used to lose
        ("$12.50", "en", "twelve dollars and fifty cents"),
        ("-5 degrees", "en", "minus five degrees"),
        ("2½ cups", "en", "two and a half cups"),
        ("10²", "en", "ten squared"),
        ("a ≥60 score", "en", "a greater than or equal to sixty score"),
        ("C# and C++, an A+", "en", "c sharp and c plus plus an a plus"),
        ("≥60分", "zh", "大于等于六十分"),
        ("余额是-200", "zh", "余额是负二百"),
        # words that folding used to take out of labels
        ("五十两银子", "zh", "五十两银子"),
        ("七七八八", "zh", "七七八八"),
        ("重点整治", "zh", "重点整治"),
        ("托儿所", "zh", "托儿所"),
        ("嗯，花儿", "zh", "嗯花儿"),
        ("go to the ER", "en", "go to the er"),
        ("I can't, um, go", "en", "i can't um go"),
        ("the grey colour", "en", "the grey colour"),
        ("résumé", "en", "résumé"),
        # letters of every alphabet
        ("für fünf 5", "de", "für fünf 5"),
        ("für fünf", "en", "für fünf"),
        ("más años", "es", "más años"),
        ("não há", "pt", "não há"),
        ("Tôi có một cái bàn", "vi", "tôi có một cái bàn"),
        ("Straße", "de", "straße"),
        ("नमस्ते दुनिया।", "hi", "नमस्ते दुनिया"),
        ("ｶﾞｷﾞ", "ja", "ガギ"),
        # a language without rules keeps its digits, and their signs
        ("Es sind -5 Grad, 12,50 €.", "de", "es sind -5 grad 12,50 €"),
        ("10²", "de", "10^2"),
        ("5%", "fr", "5 %"),
        # numbers as they are said
        ("今天 23 度，真热！", "zh", "今天二十三度真热"),
        ("我買了2個ＩＰＨＯＮＥ", "zh", "我买了两个 iphone"),
        ("13:10:36", "zh", "十三点十分三十六秒"),
        ("3:30", "zh", "三点三十分"),
        ("1000亿", "zh", "一千亿"),
        ("-5℃", "zh", "零下五度"),
        ("12.5%", "zh", "百分之十二点五"),
        ("东风-41", "zh", "东风四十一"),
        ("5到-10度", "zh", "五到零下十度"),
        ("5%到-3%", "zh", "百分之五到负百分之三"),
        ("400-800-8820", "zh", "四零零八零零八八二零"),
        ("10⁻³", "zh", "十的负三次方"),
        ("10³ and 10⁶", "en", "ten cubed and ten to the power of six"),
        ("5 km²", "en", "five square kilometers"),
        ("₲500", "en", "five hundred guarani"),
        ("five $10 bills", "en", "five ten dollar bills"),
        ("10k-20k", "en", "ten thousand to twenty thousand"),
        ("+1 (555) 123-4567", "en", "one five five five one two three four five six seven"),
        ("300,000,000,000", "en", "three hundred billion"),
        ("$250,000", "en", "two hundred fifty thousand dollars"),
        ("3,541 km", "en", "three thousand five hundred forty one kilometers"),
        ("12,345", "zh", "一万两千三百四十五"),
        ("World War II", "en", "world war two"),
        ("Dr. Lee of Ocean Dr.", "en", "doctor lee of ocean drive"),
        ("bob@example.com", "en", "bob at example dot com"),
        ("version 2.0.1", "en", "version two point zero point one"),
        # nothing that nobody said
        ("<|zh|><|NEUTRAL|>你好[Music]（掌声）", "zh", "你好"),
        ("(laughs) Well (my dear) *coughs*", "en", "well my dear"),
        ("……！？", "zh", ""),
        ("", None, ""),
        ("顯著 編著 看著", "zh", "显著编著看着"),
        ("唔係", "yue", "唔系"),
    ],
)
def test_spoken(text: str, language: str | None, spoken: str) -> None:
    assert SPOKEN.spoken(text, language) == spoken


@pytest.mark.parametrize(
    ("text", "language", "beside", "spoken"),
    [
        ("65kg", "zh", "六十五千克", "六十五千克"),
        ("65kg", "zh", "六十五公斤", "六十五公斤"),
        ("100%", "zh", "百分百", "百分百"),
        ("19年", "zh", "一九年", "一九年"),
        ("3:30", "zh", "三点半", "三点半"),
        ("1-2线", "zh", "一二线", "一二线"),
        ("住了2层", "zh", "住了二层", "住了二层"),
        ("iPhone 15", "zh", "iphone十五", "iphone 十五"),
        ("$4.99", "en", "four ninety-nine", "four ninety nine"),
        ("737", "en", "seven thirty seven", "seven thirty seven"),
        ("007", "en", "double oh seven", "double oh seven"),
        ("4 July", "en", "july fourth", "july fourth"),
        ("3-1", "en", "three to one", "three to one"),
        ("a 12 oz can", "en", "a twelve ounce can", "a twelve ounce can"),
        ("105", "en", "a hundred and five", "a hundred and five"),
        ("15", "en", "fifty", "fifteen"),
        ("23度", "zh", "二十四度", "二十三度"),
        ("余额-200", "zh", "余额负二百", "余额负二百"),
        ("歼-20", "zh", "歼二十", "歼二十"),
    ],
)
def test_a_sign_with_several_readings_is_read_as_the_other_engine_spelt_it(
    text: str, language: str, beside: str, spoken: str
) -> None:
    assert SPOKEN.spoken(text, language, beside) == spoken


def test_han_may_stay_in_the_script_of_the_engine() -> None:
    assert Normaliser(han="written").spoken("我買了2個", "zh") == "我買了两個"
    assert pickle.loads(pickle.dumps(Normaliser(han="written"))) == Normaliser(han="written")


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
        "(" * 9000,
        "'" * 9000,
        "a." * 5000,
        "1-" * 5000,
    ):
        assert isinstance(SPOKEN.spoken(text, "zh"), str)
        assert isinstance(SPOKEN.spoken(text, "en"), str)


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
        ("-5 Grad, 12,50€ und 5%.", ["-5", "Grad", "12,50", "€", "und", "5", "%"]),
        ("C#, C++ & R&D", ["C#", "C++", "R&D"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_evaluation_form() -> None:
    assert evaluation_form("我買了一部 iPhone，真好！") == "我买了一部 IPHONE 真好"
    assert evaluation_form("It was -5, for $12.50!") == "IT WAS -5 FOR $ 12.50"
    assert evaluation_form("10²") != evaluation_form("102")
