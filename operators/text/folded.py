"""The folded form: what two right transcripts of one speech may differ in, folded away. Only for comparing.

    two written texts ─spoken, each beside the other─> ─fold─> ─what needs both─> Compared: both forms, numbers
                                    folded_zh.py, folded_en.py

Folded away are fillers, 儿化, 二 and 两, spelling variants, open, closed and hyphenated compounds, contractions,
letters spelt apart or not, and how a number is read. In a language without rules of its own only case, width and
punctuation are. Equal folded forms mean that the same words were said; numbers are also told apart on their own, as in
a long clip a wrong one is a small share of the words. Nothing here ever becomes a label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from operators.text import folded_en, folded_zh
from operators.text.phones_en import pronounce
from operators.text.scripts import has_han, join, tokens, without_accents
from operators.text.spoken import Normaliser, Rules, text_rules

_LATIN_RUN = re.compile(
    r"[a-z\u00c0-\u024f\u1e00-\u1eff'](?:[a-z\u00c0-\u024f\u1e00-\u1eff' ]*[a-z\u00c0-\u024f\u1e00-\u1eff'])?"
)
_DIGITS = re.compile(r"\d+(?:[.,:/]\d+)*")
_CAPITALS = re.compile(r"\b[A-Z]{2,}\b")
_HAS_LATIN = re.compile("[a-z]")


class Form(NamedTuple):
    """A Form is one transcript, ready to be compared."""

    spoken: str
    folded: str
    numbers: tuple[str, ...]
    """in order, each as the string of its digits or the words of its one reading; "1" is weak: it may be an article."""


class Compared(NamedTuple):
    """A Compared is two transcripts, each brought to its forms beside the other."""

    first: Form
    second: Form

    def numbers_agree(self, language: str | None) -> bool:
        """Return whether both hold the same numbers in the same order. A one that only one of them has may be an
        article (有一个人, "a thing"). In a language without rules a number may be a word on one side, so the digits of
        one text must only be among those of the other.
        """
        one, other = self.first.numbers, self.second.numbers
        if one == other:
            return True
        if text_rules(language) == "other":
            shorter, longer = sorted((one, other), key=len)
            rest = iter(longer)
            return all(number in rest for number in shorter)  # in order
        return [number for number in one if number != "1"] == [number for number in other if number != "1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A Folder brings two transcripts to forms that can be compared. It holds settings only."""

    fillers: bool = True
    """fold 嗯 啊 呃 um uh away."""
    erhua: bool = True
    """fold the 儿 of 儿化 away (花儿 is 花)."""
    normaliser: Normaliser = field(default_factory=Normaliser)

    def compare(self, first: str, second: str, language: str | None, *, always_fold: bool = False) -> Compared:
        """Return both written transcripts in spoken and folded form, with their numbers. Spoken forms that are equal
        need no folding, and are given as folded unless `always_fold`.
        """
        rules = text_rules(language)
        spoken = self.normaliser.spoken(first, language, second), self.normaliser.spoken(second, language, first)
        if spoken[0] == spoken[1] and not always_fold:
            form = Form(spoken[0], spoken[0], ())
            return Compared(form, form)
        names = frozenset[str]()
        if rules != "other" and not (first.isupper() or second.isupper()):
            names = frozenset(word.lower() for text in (first, second) for word in _CAPITALS.findall(text))
        one, other = (self._fold(text, rules, names) for text in spoken)
        if rules != "other" and one.folded != other.folded and _HAS_LATIN.search(one.folded):
            return Compared(*_beside(one, other))
        return Compared(one, other)

    def folded(self, text: str, language: str | None) -> str:
        """Return the folded form of one written transcript on its own."""
        return self._fold(self.normaliser.spoken(text, language), text_rules(language), frozenset()).folded

    def _fold(self, spoken: str, rules: Rules, names: frozenset[str]) -> Form:
        if rules == "other":
            return Form(spoken, spoken.casefold(), tuple(_DIGITS.findall(spoken)))
        text = without_accents(spoken).casefold() if rules else spoken.casefold()
        if not has_han(text):
            words, numbers = folded_en.fold(text, fillers=self.fillers, names=names)
            return Form(spoken, " ".join(words), tuple(numbers))
        from_latin: list[str] = []

        def fold_latin(match: re.Match[str]) -> str:
            words, numbers = folded_en.fold(match.group(), fillers=self.fillers, names=names)
            from_latin.extend(numbers)
            return " ".join(words)

        text = folded_zh.fold(text, cantonese=rules == "yue", fillers=self.fillers, erhua=self.erhua and rules != "ja")
        if _HAS_LATIN.search(text):
            text = join(tokens(_LATIN_RUN.sub(fold_latin, text)))
        return Form(spoken, text, (*folded_zh.numbers(text), *from_latin))


def _beside(one: Form, other: Form) -> tuple[Form, Form]:
    """Both with what only the other text can tell: what 's stands for, which words are one compound."""
    first, second = (form.folded.split() if form.folded.isascii() else tokens(form.folded) for form in (one, other))
    first, second = folded_en.open_clitics(first, second), folded_en.open_clitics(second, first)
    if first != second:
        first, second = _respaced(first, second)
    return one._replace(folded=join(first)), other._replace(folded=join(second))


def _respaced(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], list[str]]:
    latin = [word if _HAS_LATIN.match(word) else "" for word in first]
    if "" not in latin and all(map(_HAS_LATIN.match, second)):
        return folded_en.respace(first, second, pronounce)
    # Han stand between the words: they part compounds, and stay as they are.
    return folded_en.respace(first, second, lambda word: pronounce(word) if word.isascii() else (word,))
