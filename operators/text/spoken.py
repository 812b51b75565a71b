"""The spoken form: the same words as a speaker says them, nothing lost and nothing merged. It is the label.

    written text ─clean─> one width, no tags ─han: simplified─> ─numbers and signs to words (english.py, chinese.py)─>
                 ─lower case, punctuation gone─> spoken form ─tokens─> WER, label length, training units
    any text ─evaluation_form─> Han simplified, Latin upper case (what test sets are scored in)

Fillers, 儿, contractions and spellings stay as they were written: only a comparison may unify them
(operators.text.folded), and what it unifies never becomes a label. A number that was written in digits has several
readings; `beside` is what another engine wrote of the same speech, and the reading that it spelt out is taken.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from operators.language import SINITIC, canonical
from operators.text import chinese, english
from operators.text.scripts import clean, has_han, has_kana, join, simplify, tokens

__all__ = ["RULES_VERSION", "Normaliser", "evaluation_form", "text_rules", "tokens", "training_form"]

RULES_VERSION = 3
"""Of the rules of this package, from written text to folded form and numbers. A change that moves any form raises it:
it stands in the fingerprint of a run and in every ledger, so no run mixes labels of two sets of rules."""

Rules = Literal["zh", "yue", "ja", "en", "other", ""]

_HAS_LATIN = re.compile("[A-Za-z]")
_HAS_DIGIT = re.compile("[0-9]")
_NO_WORD = re.compile(r"[^a-z0-9']+")
_LOOSE_APOSTROPHE = re.compile(r"(?<![a-z0-9])'+|'+(?![a-z0-9])|'{2,}")
_HAN_MARKS = re.compile(r"[，。！？、；：,.!?\s]+")
_HAN_ONLY = re.compile(r"[\u4e00-\u9fff]*")
# No rule has anything to do in such a text again.
_SAID = re.compile(r"[\u4e00-\u9fff]*|[a-z]+(?:'[a-z]+)*(?: [a-z]+(?:'[a-z]+)*)*")
_MAX_PASSES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """A Normaliser turns a transcript into its spoken form. It holds settings only: cheap to build, picklable."""

    han: Literal["simplified", "written"] = "simplified"
    """the script of Han in the spoken form: simplified, or as the engine wrote it."""

    def spoken(self, text: str, language: str | None, beside: str = "") -> str:
        """Return the spoken form of `text`: lower case, no punctuation, Han unspaced, one space between other words.

        `language` is a code such as zh, en, yue or ja (None: unknown); `beside` what another engine wrote of the same
        speech. Numbers follow the script around them, the language only where there is none. In a language without
        rules of its own, numbers keep their digits and signs. Idempotent, and defined for every string; text without
        any word gives "".
        """
        rules = text_rules(language)
        text, beside = clean(text), clean(beside)
        # Words may bring rules of their own (a dot that parts two numbers goes), so they run until nothing changes.
        for _ in range(_MAX_PASSES):
            done = self._one_pass(text, rules, beside)
            if done == text or (_SAID.fullmatch(done) and not english.has_abbreviation(done)):
                return done
            text = done
        return text

    def _one_pass(self, text: str, rules: Rules, beside: str) -> str:
        han = has_han(text)
        if han and rules != "ja" and self.han == "simplified":
            text = simplify(text)
        if rules != "other":
            # "iPhone 14" alone is read in Chinese where the other engine wrote 十四.
            own = _in_han(text, rules, han)
            if own or _in_han(text, rules, rules in ("zh", "yue") and has_han(beside)):
                text = chinese.write(text, beside, cantonese=rules == "yue")
                if not own:  # only its numbers are the other engine's
                    text = english.spell_abbreviations(text, beside)
            else:
                text = english.write(text, beside)
            plain = _without_marks(text)
            if plain is not None:
                return plain
        return join(tokens(unicodedata.normalize("NFKC", text.lower())))


def _without_marks(text: str) -> str | None:
    """`join(tokens(text))` in a fifth of the time, for texts of Han alone and of ASCII words; None for any other."""
    if text.isascii():
        text = _NO_WORD.sub(" ", text.lower())
        if "'" in text:
            text = _LOOSE_APOSTROPHE.sub(" ", text)
        return None if _HAS_DIGIT.search(text) else " ".join(text.split())
    text = _HAN_MARKS.sub("", text)
    return text if _HAN_ONLY.fullmatch(text) else None


def _in_han(text: str, rules: Rules, han: bool) -> bool:
    """Are the numbers of this text said in Chinese? So say the script around them, else the language."""
    if han or (rules == "ja" and has_kana(text)):
        return True
    if rules not in ("zh", "yue", "ja"):
        return has_kana(text)
    return _HAS_LATIN.search(chinese.drop_units(text)) is None


def text_rules(language: str | None) -> Rules:
    """Return which rules a language has: zh, yue, ja, en, "" when it is not known, "other" when it has none."""
    code = canonical(language)
    if code is None:
        return ""
    own: dict[str, Rules] = {"yue": "yue", "en": "en", "ja": "ja"}
    return own.get(code) or ("zh" if code in SINITIC else "other")


def training_form(text: str, language: str | None = None) -> str:
    """Return a label as the trainer's units spell it: upper case, no punctuation, every sign that is said still there.

    A sign stays as it is ($ 12.50, -5, C#) where its words can still be told from it; else it becomes words (Henry
    VIII, example.com, St. Paul, which upper case without punctuation would lose). So the spoken form of this form is
    that of the text, but for ß, whose upper case is SS.
    """
    plain = join(tokens(unicodedata.normalize("NFKC", clean(text).upper())))
    if not _MAY_BE_LOST.search(text):
        return plain
    said = _AS_WRITTEN.spoken(text, language)
    if _AS_WRITTEN.spoken(plain, language).casefold() == said.casefold():
        return plain
    return unicodedata.normalize("NFKC", said.upper())


_AS_WRITTEN = Normaliser(han="written")
# Digits and signs, dots of addresses and abbreviations, letters that may be a Roman numeral.
_MAY_BE_LOST = re.compile(r"[^\w\s,!?;:'\"，。！？；：、…“”‘’（）()《》-]|\d|\b[IVXLC]+\b")


def evaluation_form(text: str) -> str:
    """Return the form test sets are scored in: Han simplified, Latin upper case, punctuation dropped, signs that are
    said kept with their number or letter (-5, $12.50, C#).

    TouchASP, "Multilingual Speech Recognition".
    """
    return join(tokens(unicodedata.normalize("NFKC", simplify(clean(text)).upper())))
