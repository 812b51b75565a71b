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

__all__ = ["RULES_VERSION", "Normaliser", "evaluation_form", "text_rules", "tokens"]

RULES_VERSION = 2
"""Of the rules of this package, from written text to folded form and numbers. A change that moves any form raises it:
it stands in the fingerprint of a run and in every ledger, so no run mixes labels of two sets of rules."""

Rules = Literal["zh", "yue", "ja", "en", "other", ""]

_HAS_LATIN = re.compile("[A-Za-z]")
_PLAIN_ENGLISH = re.compile(r"[a-z]+(?:'[a-z]+)*(?: [a-z]+(?:'[a-z]+)*)*")
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
        text = clean(text)
        if rules == "en" and _PLAIN_ENGLISH.fullmatch(text):  # most of what a copilot writes
            return english.write(text, "")
        # Words may bring rules of their own (an abbreviation in an address), so they run until nothing changes.
        for _ in range(_MAX_PASSES):
            done = self._one_pass(text, rules, beside)
            if done == text:
                break
            text = done
        return text

    def _one_pass(self, text: str, rules: Rules, beside: str) -> str:
        han = has_han(text)
        if han and rules != "ja" and self.han == "simplified":
            text = simplify(text)
        if rules != "other":
            # "iPhone 14" alone is read in Chinese where the other engine wrote 十四.
            if _in_han(text, rules, han or (rules in ("zh", "yue") and has_han(beside))):
                heard = chinese.beside_form(simplify(beside) if self.han == "simplified" else beside) if beside else ""
                text = chinese.write(text, heard, cantonese=rules == "yue")
            else:
                text = english.write(text, english.beside_form(beside) if beside else "")
        return join(tokens(unicodedata.normalize("NFKC", text.lower())))


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


def evaluation_form(text: str) -> str:
    """Return the form test sets are scored in: Han simplified, Latin upper case, punctuation dropped, signs that are
    said kept with their number or letter (-5, $12.50, C#).

    TouchASP, "Multilingual Speech Recognition".
    """
    return join(tokens(unicodedata.normalize("NFKC", simplify(clean(text)).upper())))
