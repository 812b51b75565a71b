"""Spoken text -> phones, for PER: two spellings that sound alike must come out alike.

    spoken form ──by script──> Han   ──longest phrase, then character──> pinyin initial + final     Mandarin
                                                                    └──> jyutping onset + rhyme     Cantonese
                               Latin ──word──> CMU phones (english_phones.py)                        English
                               rest  ──> one "phone" per character

Code-switched text is one sequence, each script by its own rule. Polyphones are read in their phrase (银行 hang, 行走
xing) by forward longest match over pypinyin's 47,000 phrases, or ToJyutping's, which is what those packages do
themselves; the match is redone here on tables of finished phones because their general machinery costs ten times as
much per sentence. Tone is part of the final ("ang2") and can be left off. pypinyin is MIT, ToJyutping BSD-2-Clause, the
CMU dictionary BSD.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from operators.language import MANDARIN, SINITIC, canonical
from operators.text.phones_en import pronounce

Phones = tuple[str, ...]

_HAN_AS_CHARACTERS = SINITIC - MANDARIN - {"yue"} | {"ja", "ko", "vi"}
"""Languages that write Han and have no phone set here: a Mandarin reading would make up homophones they do not have."""

_LATIN_AS_ENGLISH = SINITIC | {"en", "ja", "ko"}
"""Languages in whose transcripts Latin letters are English words; elsewhere (fr, de, vi ...) they are their own."""

_RUNS = re.compile(
    "(?P<han>[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
    "|(?P<latin>[A-Za-z\u00c0-\u024f][A-Za-z\u00c0-\u024f\u0300-\u036f'\u2019]*)"
    "|(?P<digits>[0-9]+)"
    "|(?P<other>[^\\s'\u2019])"
)

_ENGLISH_WORDS = re.compile("[a-z' ]*")

_DIGITS_HAN = "零一二三四五六七八九"
_DIGITS_ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_WORDS_KEPT = 200_000
"""Words whose phones are remembered. The words of a language repeat; what is seen once must not fill the memory."""


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """Phones of characters and phrases, and how long the phrases are that begin with a character (longest first)."""

    phones: dict[str, Phones]
    lengths: dict[str, tuple[int, ...]]

    def read(self, text: str) -> Iterator[str]:
        """Phones of a run of Han by forward longest match; a character that the lexicon lacks stands for itself."""
        start = 0
        while start < len(text):
            first = text[start]
            for length in self.lengths.get(first, ()):
                found = self.phones.get(text[start : start + length])
                # a slice cut short by the end of the text is a shorter phrase, so advance by what was there
                if found is not None:
                    yield from found
                    start = min(start + length, len(text))
                    break
            else:
                yield from self.phones.get(first, (first,))
                start += 1


def _lexicon(entries: dict[str, Phones]) -> _Lexicon:
    lengths: dict[str, set[int]] = {}
    for phrase in entries:
        if len(phrase) > 1:
            lengths.setdefault(phrase[0], set()).add(len(phrase))
    return _Lexicon(entries, {first: tuple(sorted(found, reverse=True)) for first, found in lengths.items()})


@functools.cache
def _mandarin(tones: bool) -> _Lexicon:
    """pypinyin's characters and phrases as initials and finals (about 0.4 s to build, 40 MB; once per process)."""
    from pypinyin.constants import PHRASES_DICT, PINYIN_DICT
    from pypinyin.contrib.tone_convert import to_finals, to_finals_tone3, to_initials, to_normal, to_tone3

    @functools.cache
    def syllable(pinyin: str) -> Phones:
        initial = to_initials(pinyin, strict=True)
        final = (
            to_finals_tone3(pinyin, strict=True, neutral_tone_with_five=True)
            if tones
            else to_finals(pinyin, strict=True)
        )
        if not final:  # a nasal is a whole syllable: 嗯 n2, 噷 hm
            return (to_tone3(pinyin, neutral_tone_with_five=True) if tones else to_normal(pinyin),)
        return (initial, final) if initial else (final,)

    entries = {chr(code): syllable(readings.split(",")[0]) for code, readings in PINYIN_DICT.items()}
    for phrase, readings in PHRASES_DICT.items():
        entries[phrase] = tuple(phone for reading in readings for phone in syllable(reading[0]))
    return _lexicon(entries)


@functools.cache
def _cantonese(tones: bool) -> Callable[[str], list[str]]:
    """A reader of Han runs as jyutping onsets and rhymes. ToJyutping's own longest match is quick enough as it is."""
    from ToJyutping import get_jyutping_list

    @functools.cache
    def syllable(jyutping: str) -> Phones:
        parts = re.fullmatch("(ng|gw|kw|[bpmfdtnlgkhwzcsj])?(.+?)([1-6])", jyutping)
        if parts is None:
            raise ValueError(f"not jyutping: {jyutping!r}")
        onset, rhyme, tone = parts.groups()
        return tuple(part for part in (onset, rhyme + tone if tones else rhyme) if part)

    def read(text: str) -> list[str]:
        phones: list[str] = []
        for character, jyutping in get_jyutping_list(text):
            phones += syllable(jyutping) if jyutping else (character,)
        return phones

    return read


@functools.lru_cache(maxsize=_WORDS_KEPT)
def _english(word: str) -> Phones:
    plain = unicodedata.normalize("NFKD", word.replace("\u2019", "'")).lower()
    # what no decomposition reaches (ø, ł) has no CMU phone and stays a character
    parts = re.findall("[a-z']+|[^a-z'\u0300-\u036f]", re.sub("[\u0300-\u036f]", "", plain))
    phones: list[str] = []
    for part in parts:
        phones += pronounce(part.strip("'")) if part[0] in "'abcdefghijklmnopqrstuvwxyz" else (part,)
    return tuple(phones)


class Phonetiser:
    """A Phonetiser turns text into phones. Cheap to build, picklable; dictionaries load at first need, once per
    process.
    """

    def __init__(self, *, tones: bool = True) -> None:
        self.tones = tones

    def phones(self, text: str, language: str | None) -> list[str]:
        """Return the phones of a spoken form (see `operators.text.spoken`), in order; [] for a text without letters.

        `language` is a code such as "zh", "zh-CN", "yue", "en" or None when unknown, which reads Han as Mandarin and
        Latin as English. Digits, which a spoken form does not have, are read one by one in the language. Marks that are
        not letters count as themselves, so nothing the tokens show is missing from the phones.
        """
        primary = canonical(language)
        phones: list[str] = []
        if _ENGLISH_WORDS.fullmatch(text) and (primary is None or primary in _LATIN_AS_ENGLISH):
            for word in text.split():  # the common case, twice as quick as looking for runs
                phones += _english(word)
            return phones
        for run in _RUNS.finditer(text):
            kind, piece = run.lastgroup, run.group()
            if kind == "han":
                phones += self._han(piece, primary)
            elif kind == "latin":
                phones += _english(piece) if primary is None or primary in _LATIN_AS_ENGLISH else piece
            elif kind == "digits":
                phones += self._digits(piece, primary)
            else:
                phones.append(piece)
        return phones

    def _han(self, run: str, language: str | None) -> list[str] | Iterator[str]:
        if language in _HAN_AS_CHARACTERS:
            return list(run)
        return _cantonese(self.tones)(run) if language == "yue" else _mandarin(self.tones).read(run)

    def _digits(self, run: str, language: str | None) -> list[str] | Iterator[str]:
        if language == "yue" or language in MANDARIN:
            return self._han("".join(_DIGITS_HAN[int(digit)] for digit in run), language)
        if language is None or language in _LATIN_AS_ENGLISH:
            return (phone for digit in run for phone in pronounce(_DIGITS_ENGLISH[int(digit)]))
        return list(run)
