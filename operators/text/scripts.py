"""Scripts and marks: what is a letter, what is a token, and one way to write each character.

    raw text ──clean──> tags and sounds nobody said gone, widths folded (NFKC), 10² -> 10^2, 2½ -> 2 1/2
             ──tokens──> one per Han, kana, Thai, Lao, Burmese or Khmer character, else one per word with its signs
             ──join──> one text again

Every script passes through here, so no pattern below names a letter by an ASCII range: a border is a border between
letters with their marks, whatever the alphabet.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib.resources import files
from typing import Any

HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""The inside of a character class: Han of every block."""

_UNSPACED = rf"{HAN}\u3041-\u312f\u31a0-\u31ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARK_BLOCKS = (range(0x300, 0x1F000), range(0xE0100, 0xE01F0))

CURRENCY_SIGNS = r"$£¥\u0e3f\u20a0-\u20cf"
"""The inside of a character class: the signs that are read as a currency beside a number."""

EVERY_CURRENCY_SIGN = frozenset("$£¥\u0e3f") | frozenset(map(chr, range(0x20A0, 0x20D0)))


def _mark_class() -> str:
    """Combining marks as a character class: Python's \\w leaves them out, and Hindi or Thai words are full of them."""
    ranges: list[list[int]] = []
    for block in _MARK_BLOCKS:
        for code in block:
            if unicodedata.category(chr(code))[0] == "M":
                if ranges and ranges[-1][1] == code - 1:
                    ranges[-1][1] = code
                else:
                    ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


_MARK = _mark_class()
_LETTER = rf"(?:(?![{_UNSPACED}])[^\W_][{_MARK}]*)"
# What is said and is no letter stays. With its number or letter: -5 10^2 1,000 3:30 1/2 C# A+ C++ R&D; beside a number,
# as a token of its own: $ % ° ≥. A dash after a letter is silent (COVID-19), except after 是 and its like.
_SIGN = rf"[{CURRENCY_SIGNS}%‰°±≤≥≈≠×÷=<>#*]"
_LONE_SIGN = rf"{_SIGN}(?=\s?[-+]?\d)|(?:(?<=\d)|(?<=\d\s))(?:°[CFcf]\b|{_SIGN})"
_SIGN_BEFORE = rf"(?:(?:(?<![\w%°,.)])|(?<=[是为到至于]))[-+](?=[{CURRENCY_SIGNS}]?\d)|(?<!\w)(?:@(?=\w)|#(?=[^\W\d])))"
_SIGN_WITHIN = r"(?:'|(?<=\d)[.,:/-](?=\d)|(?<=\w)\^-?(?=\d)|[&@](?=\w)|(?<=\d)[+](?=\d))"
_SIGN_AFTER = rf"(?:(?<=[^\W_])(?:\+\+|[+#])(?!(?![{_UNSPACED}])\w))"
_TOKEN = re.compile(
    rf"[{_UNSPACED}][{_MARK}]*|{_SIGN_BEFORE}?{_LETTER}+(?:{_SIGN_WITHIN}{_LETTER}+)*{_SIGN_AFTER}?|{_LONE_SIGN}"
)

_HAS_HAN = re.compile(f"[{HAN}]")
_HAS_KANA = re.compile(r"[\u3041-\u30ff]")
_PLAIN = re.compile(r"[\u4e00-\u9fff]*|[a-z]+(?:'[a-z]+)*(?: [a-z]+(?:'[a-z]+)*)*")

_TAG = re.compile(r"<\|[^|<>]*\|>|\[[^\[\]]{0,40}\]|[♩-♯]")
_BRACKETED = re.compile(r"\(([^()]{1,40})\)|（([^（）]{1,40})）|【([^【】]{1,40})】|\*([^*]{1,40})\*")
_DROPPED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff™®©]"
)
_ONE_SIGN = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'", "²": "2", "³": "3", "−": "-", "⁄": "/", "∶": ":"}
    | {"‐": "-", "‑": "-"}
)
# NFKC makes 10² into 102 and 2½ into 21⁄2: a power gets its ^ and a fraction its space first. m² stays m2, a unit.
_POWER = re.compile(r"(?:(?<=[0-9)])|(?<=(?<![^\W\d_])[A-LN-Za-ln-z]))(?=⁻?[⁰¹²³⁴-⁹])")
_VULGAR = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")
_RAISED = re.compile("[²³¹⁰⁴-⁹¼½¾⅐-⅞]")
_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
# 著 is 着 in Taiwan and Hong Kong spelling; OpenCC's tw2s also breaks 显著 in text that was simplified all along.
_ASPECT_ZHE = re.compile(r"(?<![名显土原编专巨昭合译论卓拙遗])著(?![名作者书称述录于有])")
# 著书 and 著录 are words, unless what stands before is something one does with a book or a recording: 拿著書, 聽著錄音.
_ASPECT_ZHE_BOOK = re.compile("(?<=[拿看读抱带背捧翻念教握提拎挎夹摆放堆听开跟])著(?=[书录])")


def table(name: str) -> list[list[str]]:
    """Return the rows of a data file of `operators/text/tables`: words between blanks, `#` begins a comment."""
    lines = (files("operators.text") / "tables" / name).read_text(encoding="utf-8").splitlines()
    return [row.split() for line in lines if (row := line.partition("#")[0].strip())]


def tokens(text: str) -> list[str]:
    """Return the mixed tokens of a text: one per Han, kana, Thai, Lao, Burmese or Khmer character, one per word
    elsewhere.

    An apostrophe inside a word belongs to it, and so do the signs of a number. Hangul is written with spaces, so a
    token is a word there. Punctuation is no token. A spoken form in Chinese or English holds neither digits nor signs.
    """
    return _TOKEN.findall(text)


def join(parts: list[str]) -> str:
    """Return tokens as one text: a space wherever a word that is no Han character begins or ends beside another."""
    out: list[str] = []
    unspaced = True
    for part in parts:
        first = part[0]
        alone = "\u2fff" < first < "\uac00" or first >= "\U00020000" or "\uf900" <= first <= "\ufaff"
        if out and not (alone and unspaced):
            out.append(" ")
        out.append(part)
        unspaced = alone
    return "".join(out)


def clean(text: str) -> str:
    """Return the text without tags, sounds that nobody said and control characters, its widths folded (NFKC)."""
    if _PLAIN.fullmatch(text):
        return text
    text = _BRACKETED.sub(_without_sound, _TAG.sub(" ", text))
    if _RAISED.search(text):
        text = _VULGAR.sub(" ", _POWER.sub("^", text))
    text = unicodedata.normalize("NFKC", _DROPPED.sub("", text).translate(_ONE_SIGN))
    return _DROPPED.sub("", text).translate(_ONE_SIGN)


@lru_cache(maxsize=1)
def _sounds() -> frozenset[str]:
    return frozenset(word for row in table("sounds.txt") for word in row)


def _without_sound(match: re.Match[str]) -> str:
    """(laughs), （掌声） and *coughs* say what was heard besides words; any other bracket holds words."""
    words = next(group for group in match.groups() if group is not None).lower().split()
    return " " if words and all(word in _sounds() for word in words) else match.group()


def has_han(text: str) -> bool:
    return _HAS_HAN.search(text) is not None


def has_kana(text: str) -> bool:
    return _HAS_KANA.search(text) is not None


@lru_cache(maxsize=1)
def _simplifier() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


def simplify(text: str) -> str:
    """Return traditional Han as simplified, by phrases where one character has two forms (乾隆, 干净). OpenCC, t2s."""
    text = str(_simplifier().convert(text))
    return _ASPECT_ZHE_BOOK.sub("着", _ASPECT_ZHE.sub("着", text)) if "著" in text else text


def _plain_letters() -> dict[int, str]:
    """Accented Latin letters and the letters they are written as without: é -> e, ø -> o, æ -> ae."""
    plain = {code: unicodedata.normalize("NFD", chr(code))[0] for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00))}
    plain = {code: letter for code, letter in plain.items() if letter.isascii()}
    return plain | str.maketrans(
        {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE"}
    )


_PLAIN_LETTERS = _plain_letters()


def without_accents(text: str) -> str:
    """Return the text with accented Latin letters written plainly: in English an accent is house style (résumé)."""
    return text.translate(_PLAIN_LETTERS) if not text.isascii() and _ACCENTED.search(text) else text
