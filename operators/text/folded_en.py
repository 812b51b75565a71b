"""The Latin parts of a folded form: what two right transcripts of English may differ in, brought together.

    spoken words ─fillers─> ─contractions opened─> ─one spelling─> ─numbers read one way─> folded, numbers
    two folded texts ─open_clitics─> ─respace─> he's is "he is" or "he has" as the other has it; sea water is seawater

What needs both texts stands last: 's and 'd open in two ways, and whether two words are one compound is seen only
beside the other text. A compound must also sound like its parts (operators.text.phones): "now here" is not "nowhere".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from rapidfuzz.distance import Levenshtein

from operators.text.english import MONTHS
from operators.text.numbers_en import MAY_BE_A_NUMBER, english_value, ordinal_english, reread
from operators.text.scripts import table

_FILLER = re.compile(r"u+h+|u+m+|e+r+m?|u+hm|h+m+|m{2,}|a+h+")
_CLITICS = {"n't": ("not",), "'re": ("are",), "'ve": ("have",), "'ll": ("will",), "'m": ("am",)}
_OPEN_TWO_WAYS = {"'s": ("is", "has", "us", "does"), "'d": ("would", "had", "did")}
_ORDINAL_DAYS = {english_value(day): ordinal_english(day) for day in range(1, 32)}
_PLAIN_MONTHS = frozenset(MONTHS) - {"march", "may"}  # these two are words of their own
_MOST_PARTS = 4
_MOST_LETTERS = 8


@lru_cache(maxsize=1)
def _spelling() -> dict[str, tuple[str, ...]]:
    """Word -> the words it is compared as: one spelling, reduced forms open."""
    found = {row[0]: tuple(word for part in row[1:] for word in part.split("_")) for row in table("spelling_en.txt")}
    return found | {row[0]: tuple(row[1:]) for row in table("reduced_en.txt")}


@lru_cache(maxsize=1 << 16)
def _compared_as(word: str) -> tuple[str, ...]:
    """ "can't" -> can not, "colours'" -> colors, "they'll" -> they will; "he's" stays, see `open_clitics`."""
    spelling = _spelling()
    if word in spelling:
        return spelling[word]
    if "'" in word:
        clitic = "n't" if word.endswith("n't") else word[word.rindex("'") :]
        head = word.removesuffix(clitic)
        if head and clitic in _CLITICS:
            return (*_compared_as(head), *_CLITICS[clitic])
        if head and clitic in _OPEN_TWO_WAYS:
            opened = _compared_as(head)
            return (*opened[:-1], opened[-1] + clitic)
    return (word,)


@lru_cache(maxsize=1 << 16)
def is_filler(word: str) -> bool:
    """Return whether it is um, uh, er, hmm, ah; "oh", "yeah" and "mhm" are words and stay."""
    return _FILLER.fullmatch(word) is not None


def fold(text: str, *, fillers: bool, names: frozenset[str] = frozenset()) -> tuple[list[str], list[str]]:
    """Return the folded words of a run of lower-case Latin words, and its numbers in order.

    `names` are words that were written in capitals: ER and UM are then no fillers.
    """
    words: list[str] = []
    for word in text.split():
        if not (fillers and is_filler(word) and word not in names):
            words += _compared_as(word)
    words = _phrases(words)
    if not MAY_BE_A_NUMBER.search(text):
        return words, []
    return reread(_ordinal_days(words))


_PHRASES = (
    (("per", "cent"), ("percent",)),
    (("wi", "fi"), ("wifi",)),
    (("o'clock",), ()),
    (("oclock",), ()),
    (("negative",), ("minus",)),
)


def _phrases(words: list[str]) -> list[str]:
    for phrase, instead in _PHRASES:
        if phrase[0] in words:
            size = len(phrase)
            at = 0
            while at <= len(words) - size:
                if tuple(words[at : at + size]) == phrase:
                    words[at : at + size] = instead
                at += 1
    return words


def _ordinal_days(words: list[str]) -> list[str]:
    """july four -> july fourth: a day behind its month is said either way."""
    out: list[str] = []
    at = 0
    while at < len(words):
        out.append(words[at])
        at += 1
        if out[-1] in _PLAIN_MONTHS:
            for size in (2, 1):
                day = _ORDINAL_DAYS.get(" ".join(words[at : at + size]))
                if day and words[at + size : at + size + 1] not in (["hundred"], ["thousand"], ["oh"]):
                    out += day.split()
                    at += size
                    break
    return out


def open_clitics(words: Sequence[str], other: Sequence[str]) -> list[str]:
    """Return the words with 's and 'd opened as the other text has them: he's is "he has" beside "he has"."""
    if not any(word[-2:] in _OPEN_TWO_WAYS for word in words):
        return list(words)
    pairs = set(pairwise(other))
    out: list[str] = []
    for word in words:
        head, clitic = word[:-2], word[-2:]
        opened = next((verb for verb in _OPEN_TWO_WAYS.get(clitic, ()) if (head, verb) in pairs), None)
        if opened is None or word in other:
            out.append(word)
        else:
            out += (head, opened)
    return out


def respace(
    words: Sequence[str], other: Sequence[str], sounds: Callable[[str], Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Return both texts with words that one of them writes apart written together: sea water, to morrow, ph d."""
    together: set[tuple[str, ...]] = set()
    for mine, theirs in ((words, other), (other, words)):
        known = set(theirs)
        for at, word in enumerate(mine):
            if word in known:
                continue
            # A word that the other text lacks, alone or with a neighbour, may be some of its words in a row.
            for way in {(word,), tuple(mine[at : at + 2]), tuple(mine[max(at - 1, 0) : at + 1])}:
                for their_way in _in_a_row("".join(way), theirs):
                    # Ways that begin or end alike say nothing that their shorter parts do not.
                    if way[0] != their_way[0] and way[-1] != their_way[-1] and _sound_alike(way, their_way, sounds):
                        together |= {way, their_way}
    if not together:
        return list(words), list(other)
    return _written_together(words, together), _written_together(other, together)


def _in_a_row(joined: str, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Words that are `joined` without the blanks between them: at most four, eight if they are letters."""
    for at, word in enumerate(words):
        if joined.startswith(word):
            length, end = len(word), at + 1
            while length < len(joined) and end < len(words) and joined.startswith(words[end], length):
                length, end = length + len(words[end]), end + 1
            way = tuple(words[at:end])
            if length == len(joined) and (len(way) <= _MOST_PARTS or all(len(part) == 1 for part in way)):
                yield way


def _sound_alike(one: tuple[str, ...], other: tuple[str, ...], sounds: Callable[[str], Sequence[str]]) -> bool:
    if any(all(len(word) == 1 for word in way) for way in (one, other)):
        return True  # letters, spelt apart
    phones = [[phone for word in way for phone in sounds(word)] for way in (one, other)]
    return Levenshtein.distance(*phones) <= 1  # "to" is weaker in "tomorrow"


def _written_together(words: Sequence[str], together: set[tuple[str, ...]]) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(words):
        for size in range(min(_MOST_LETTERS, len(words) - at), 0, -1):
            if tuple(words[at : at + size]) in together:
                break
        out.append("".join(words[at : at + max(size, 1)]))
        at += max(size, 1)
    return out
