"""Transcripts made comparable: the spoken form both engines' texts go through before scoring, and its tokens.

    raw transcript ─clean─> NFKC ─one script─> symbols and digits to words ─> numbers read one way ─> fillers, 儿化
                  ─> letters joined, punctuation dropped ─ until nothing changes ─> spoken form ─tokens─> WER
    any text ─evaluation_form─> Han simplified, Latin upper case (what test sets are scored in)

Two texts that can be the same words said aloud should have one spoken form; two that cannot should not. The public
table tests/data/rover_pairs.tsv is the judge. Nothing here repairs an engine's hallucinated loops: they must disagree.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from operators.language import SINITIC, canonical
from operators.text import chinese as text_zh
from operators.text import english as text_en
from operators.text.chinese import HAN
from operators.text.numbers import CURRENCY_SIGNS, MEASURES, ORDINAL_NEIGHBOURS, reread_english

# Scripts written without spaces: a token is one character with its marks. Kana has no word boundary to count by.
_UNSPACED = rf"{HAN}\u3041-\u312f\u31a0-\u31ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARK_BLOCKS = (range(0x300, 0x1F000), range(0xE0100, 0xE01F0))


def _mark_class() -> str:
    """Combining marks as a regular-expression class: Python's \\w leaves them out, and Hindi or Thai words are full of
    them.
    """
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
_TOKEN = re.compile(rf"[{_UNSPACED}][{_MARK}]*|{_LETTER}+(?:'{_LETTER}+)*")

_HAS_HAN = re.compile(f"[{HAN}]")
_HAS_KANA = re.compile(r"[\u3041-\u30ff]")
_HAS_LATIN = re.compile("[A-Za-z]")
_HAS_DIGIT = re.compile("[0-9]")
_PLAIN = re.compile(r"[\u4e00-\u9fff]*")

_TAG = re.compile(r"<\|[^|<>]*\|>|\[[^\[\]]{0,40}\]")
_DROPPED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff™®©]"
)
_APOSTROPHES = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'", "²": "2", "³": "3", "−": "-", "⁄": "/", "∶": ":"}
)
# NFKC makes 10² into 102 and 2½ into 21⁄2: a power gets its ^ and a fraction its space first. m² stays m2, a unit.
_POWER = re.compile(r"(?:(?<=[0-9)])|(?<=(?<![A-Za-z])[A-LN-Za-ln-z]))(?=⁻?[⁰¹²³⁴-⁹])")
_VULGAR = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")
_RAISED = re.compile("[²³¹⁰⁴-⁹¼½¾⅐-⅞]")
_SIGN = re.compile(f"[{CURRENCY_SIGNS}]")
_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_POINT_FIRST = re.compile(r"(?<![A-Za-z\d_.])\.(?=\d)")
_SIGN_LAST = re.compile(
    rf"(?<![\d.{CURRENCY_SIGNS}])(?<![{CURRENCY_SIGNS}] )(\d+(?:\.\d+)?"
    rf"(?:\s?(?:(?:thousand|million|billion|trillion|bn|[kKmMB])\b|[万亿]+))?)\s?([{CURRENCY_SIGNS}])(?!\s?[\d.])"
)
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_DIGITS = re.compile(r"(\d+)(?:\.(\d+))?(?!\.\d)|\d+")
_MULTIPLIED = re.compile(r"(?<![\d.])\d{1,4}(?=[百千万亿])")
_DOMAIN = re.compile(
    r"(?<=\bwww)\.(?=\w)|(?<=[A-Za-z0-9])\.(?=(?:com|org|net|edu|gov|cn|io|ai|tv)(?![A-Za-z0-9]))", re.A
)
_LETTER_RUN = re.compile(r"(?<![A-Za-z0-9'])[A-Za-z](?:[ .-][A-Za-z])+(?![A-Za-z0-9'])")


def _plain_letters() -> dict[int, str]:
    """Accented Latin letters and the letters they are written as without: é -> e, ø -> o, æ -> ae."""
    plain = {code: unicodedata.normalize("NFD", chr(code))[0] for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00))}
    plain = {code: letter for code, letter in plain.items() if letter.isascii()}
    return plain | str.maketrans(
        {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE"}
    )


_PLAIN_LETTERS = _plain_letters()

_MAX_PASSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """Turns a transcript into its spoken form. Holds settings only: cheap to build, picklable, safe to share."""

    fillers: bool = True
    """drop 嗯 啊 呃 um uh."""
    erhua: bool = True
    """drop the 儿 of 儿化 (花儿 -> 花)."""
    numbers: bool = True
    """write digits as words and read spelt numbers one way."""
    contractions: bool = True
    """open English contractions and reduced forms, one spelling for British and American."""

    def spoken(self, text: str, language: str | None) -> str:
        """The spoken form of `text`: lower case, no punctuation, Han simplified and unspaced, one space between other
        words.

        `language` is a code such as zh, en, yue or ja (None: unknown). Numbers follow the script around them, the
        language only where there is none. Idempotent, and defined for every string; text without any word gives "".
        """
        tongue = _tongue(language)
        text = _clean(text)
        # Rules feed one another (a dropped filler joins two numerals), so they run until they agree.
        for _ in range(_MAX_PASSES):
            done = self._one_pass(text, tongue)
            if done == text:
                break
            text = done
        return text

    def _one_pass(self, text: str, tongue: str) -> str:
        # In English an accent is house style (résumé, resume); in other languages it is spelling.
        if tongue in ("en", "zh", "yue") and not text.isascii() and _ACCENTED.search(text):
            text = text.translate(_PLAIN_LETTERS)
        han = _HAS_HAN.search(text) is not None
        latin = _HAS_LATIN.search(text) is not None
        if han and tongue != "ja":
            text = text_zh.one_script(text, cantonese=tongue == "yue")
        if self.numbers:
            if _HAS_DIGIT.search(text):
                text = _write_digits(text, tongue, han=han or _HAS_KANA.search(text) is not None, latin=latin)
            if han and tongue != "other":
                text = text_zh.reread_numbers(text)
        text = _DOMAIN.sub(" dot " if not han else "点", text) if "." in text else text
        if latin:
            text = _LETTER_RUN.sub(_join_letters_among_han if han else _join_letters, text)
            if "++" in text:
                text = re.sub(r"(?<=[A-Za-z])\+\+", "加加" if han else " plus plus", text)
        text = text.casefold()
        if tongue != "other" and _HAS_LATIN.search(text):
            if "&" in text:
                text = text.replace("&", " and ")
            text = text_en.respell(text, contractions=self.contractions, fillers=self.fillers)
            if self.numbers:
                text = reread_english(text_en.write_romans(text.replace("-", " ")))
        text = _join(_TOKEN.findall(unicodedata.normalize("NFKC", text)))
        if han and tongue != "other":
            if self.fillers:
                text = text_zh.strip_fillers(text)
            if self.erhua and tongue not in ("yue", "ja"):
                text = text_zh.strip_erhua(text)
        return text


def tokens(text: str) -> list[str]:
    """Mixed tokens of a spoken form: one per Han, kana, Thai, Lao, Burmese or Khmer character, one per word elsewhere.

    An apostrophe inside a word belongs to it. Hangul is written with spaces, so a token is a word there. Punctuation
    and symbols are no tokens.
    """
    return _TOKEN.findall(text)


def evaluation_form(text: str) -> str:
    """The form test sets are scored in: Han simplified, Latin upper case, punctuation dropped.

    TouchASP, "Multilingual Speech Recognition".
    """
    return _join(_TOKEN.findall(unicodedata.normalize("NFKC", text_zh.simplify(_clean(text)).upper())))


def _tongue(language: str | None) -> str:
    """The set of rules for a language code: zh, yue, ja, en, "" when unknown, "other" for languages whose numbers we
    leave.
    """
    code = canonical(language)
    if code is None or code in ("yue", "en", "ja"):
        return code or ""
    return "zh" if code in SINITIC else "other"


def _clean(text: str) -> str:
    """Tags, control characters and marks without sound gone, widths and compatibility forms folded (NFKC)."""
    if _PLAIN.fullmatch(text):
        return text
    if _RAISED.search(text):
        text = _VULGAR.sub(" ", _POWER.sub("^", text))
    text = unicodedata.normalize("NFKC", _DROPPED.sub("", _TAG.sub(" ", text)).translate(_APOSTROPHES))
    return _DROPPED.sub("", text).translate(_APOSTROPHES)


def _write_digits(text: str, tongue: str, *, han: bool, latin: bool) -> str:
    """Arabic numbers and the symbols around them to words, each in the language of the script beside it."""
    text = _GROUPED.sub(lambda match: match.group().replace(",", ""), text)
    if tongue == "other":
        return text
    if "." in text:
        text = _POINT_FIRST.sub("0.", text)
    if _SIGN.search(text):
        text = _SIGN_LAST.sub(r"\2\1", text)
    if tongue in ("zh", "yue", "ja") and latin and not han:
        latin = _HAS_LATIN.search(text_zh.drop_units(text)) is not None
    default = "zh" if han or (tongue in ("zh", "yue", "ja") and not latin) else "en"
    if default == "zh":
        text = text_zh.write_symbols(text, cantonese=tongue == "yue")
        text = _MULTIPLIED.sub(lambda match: text_zh.write_number(match.group(), None, "", ""), text)
    else:
        text = text_en.write_symbols(text)

    def write(match: re.Match[str]) -> str:
        whole, fraction = match[1] or match.group(), match[2]
        before, after = text[max(0, match.start() - 6) : match.start()], text[match.end() : match.end() + 3]
        if default == "en" or _is_english_number(before, after):
            return text_en.write_number(whole, fraction)
        return text_zh.write_number(whole, fraction, before, after)

    return _DIGITS.sub(write, text)


def _is_english_number(before: str, after: str) -> bool:
    """In a sentence with Han: does the number belong to the Latin word before it (iPhone 15), or after it (3
    apples)?
    """
    if re.search(r"[A-Za-z][ -]?$", before):
        return not re.match(rf"\s?[{MEASURES}{ORDINAL_NEIGHBOURS}]", after)
    return re.match(r" [A-Za-z]{2}", after) is not None


def _join_letters(match: re.Match[str]) -> str:
    """A I -> AI, U.S. -> US; but "i a" and "a a" among English words are words ("am I a ...")."""
    letters = _join_letters_among_han(match)
    return letters if letters.lower() == "ai" or set(letters) - set("aiAI") else match.group()


def _join_letters_among_han(match: re.Match[str]) -> str:
    return "".join(re.findall("[A-Za-z]", match.group()))


def _join(parts: list[str]) -> str:
    """Tokens as one text: a space wherever a word that is no Han character begins or ends beside another word."""
    out: list[str] = []
    unspaced = True
    for part in parts:
        alone = (
            (part[0] > "\u2fff" and part[0] < "\uac00") or part[0] >= "\U00020000" or "\uf900" <= part[0] <= "\ufaff"
        )
        if out and not (alone and unspaced):
            out.append(" ")
        out.append(part)
        unspaced = alone
    return "".join(out)
