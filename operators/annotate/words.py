"""Word times: the words of a label, what two aligners agree on, and how far times are from the truth.

    label ──words_of──> words ──two Aligners──> Word ... each ──agreed_words──> those placed alike
    stretches inside words ──spread──> words that reach to their neighbours and to pauses
    truth, times ──shifts──> Shifts: mean shift in ms, shares within 100 and 200 ms

One aligner is right on clean speech and lost in noise (docs/benchmarks/curation.md), and does not know which; two that
differ in everything seldom go wrong alike, and hardly ever twice in a row. So a word keeps its times where two agree on
it and on a word beside it, and loses them elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from operators.clip import SAMPLE_RATE, Word
from operators.text.scripts import tokens

_TAG = re.compile(r"<[^<>]*>")
_WINDOW, _HOP = SAMPLE_RATE // 40, SAMPLE_RATE // 100
_SHORTEST_PAUSE = 8
"""hops of quiet that part two words: a stop consonant is closed for less."""


def words_of(text: str) -> list[str]:
    """Return the words that have times: each Han, kana or Thai character, each word elsewhere. Punctuation and tags
    such as <event:dog> are none.
    """
    return tokens(_TAG.sub(" ", text))


def spread(cores: Sequence[tuple[int, int]], pcm: np.ndarray) -> list[tuple[int, int]]:
    """Return where words begin and end, from stretches that surely lie inside them, as CTC and attention give them.

    cores: half-open, in samples, in order. Of the audio between two cores the quiet part, where it lasts 80 ms and
    more, is a pause and belongs to neither; without a pause the words part at the quietest point. Before the first and
    behind the last core a word reaches to where the sound does.
    """
    if not cores or not len(pcm):
        return list(cores)
    level = _level_db(pcm)
    # Loud is what words are, however little of the clip they fill.
    at = [min(hop, len(level) - 1) for core in cores for hop in range(core[0] // _HOP, core[1] // _HOP + 1)]
    floor, loud = float(np.percentile(level, 10)), float(np.percentile(level[at], 75))
    quiet = level < max(floor + (loud - floor) / 4, loud - 35)
    edges = [0, *(edge for core in cores for edge in core), len(pcm)]
    ends: list[int] = []
    for place in range(len(cores) + 1):
        first, last = edges[2 * place], max(edges[2 * place], edges[2 * place + 1])
        hops = range(first // _HOP, min(max(first // _HOP, last // _HOP), len(level)))
        pause = _longest_run(quiet, hops)
        if place == 0:
            ends += [first, last if len(hops) == 0 else _begin_of_sound(quiet, hops) * _HOP]
        elif place == len(cores):
            ends += [first if len(hops) == 0 else min(_end_of_sound(quiet, hops) * _HOP, len(pcm)), last]
        elif len(pause) >= _SHORTEST_PAUSE:
            ends += [max(first, pause.start * _HOP), min(last, pause.stop * _HOP)]
        else:
            middle = first if len(hops) == 0 else (hops.start + int(level[hops.start : hops.stop].argmin())) * _HOP
            ends += [min(max(middle, first), last)] * 2
    return [(min(ends[2 * place + 1], core[0]), max(ends[2 * place + 2], core[1])) for place, core in enumerate(cores)]


def _level_db(pcm: np.ndarray) -> np.ndarray:
    """Return the level of 25 ms around each hop of 10 ms."""
    padded = np.pad(np.square(pcm, dtype=np.float64), (_WINDOW // 2, _WINDOW // 2 + _HOP))
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    starts = np.arange(-(-len(pcm) // _HOP)) * _HOP
    level: np.ndarray = 10 * np.log10(np.maximum(sums[starts + _WINDOW] - sums[starts], 1.0))
    return level


def _longest_run(quiet: np.ndarray, hops: range) -> range:
    best, begin = range(0), hops.start
    for hop in hops:
        if not quiet[hop]:
            begin = hop + 1
        elif hop + 1 - begin > len(best):
            best = range(begin, hop + 1)
    return best


def _begin_of_sound(quiet: np.ndarray, hops: range) -> int:
    """Return the hop from which on nothing is quiet for long, up to the end of `hops`."""
    begin = hops.stop
    for hop in reversed(hops):
        if not quiet[hop]:
            begin = hop
        elif begin - hop >= _SHORTEST_PAUSE:
            break
    return begin


def _end_of_sound(quiet: np.ndarray, hops: range) -> int:
    end = hops.start
    for hop in hops:
        if not quiet[hop]:
            end = hop + 1
        elif hop + 1 - end >= _SHORTEST_PAUSE:
            break
    return end


def agreed_words(
    alignments: Sequence[tuple[Word, ...] | None], tolerance_seconds: float = 0.2
) -> tuple[Word, ...] | None:
    """Return the words that two aligners place alike, in order; None where fewer than two aligned the clip at all.

    Alike is both start and end within `tolerance_seconds`, and not of this word alone: the word before it or behind it,
    of those that the two placed, is placed alike too. Two that are lost in noise meet now and then at a word, seldom at
    two in a row. A word that lasts longer than it can be spoken lies about something else, whoever agrees on it. Of
    those who agree, the one that stands first gives the times: put the finest aligner first. A word that only one
    aligner placed is left out.
    """
    given = [alignment for alignment in alignments if alignment is not None]
    if len(given) < 2:
        return None
    longest = max(given, key=len)
    columns = [_placed(longest, alignment) for alignment in given]
    most = round(tolerance_seconds * SAMPLE_RATE)
    kept: list[Word | None] = [None] * len(longest)
    for one, other in combinations(columns, 2):  # in the order of the aligners
        for place in _alike(one, other, most):
            kept[place] = kept[place] or one[place]
    return tuple(word for word in kept if word is not None)


def _alike(one: Sequence[Word | None], other: Sequence[Word | None], most: int) -> list[int]:
    """Return the places of the words that lie at most so many samples apart, and next to another that does."""
    both = [(place, a, b) for place, (a, b) in enumerate(zip(one, other, strict=True)) if a and b]
    near = [
        abs(a.start - b.start) <= most and abs(a.end - b.end) <= most and a.end - a.start <= _longest_word(a.text)
        for _, a, b in both
    ]
    edged = [False, *near, False]
    alone = len(one) == 1  # the clip's only word has nothing beside it
    return [
        place for at, (place, _, _) in enumerate(both, 1) if edged[at] and (alone or edged[at - 1] or edged[at + 1])
    ]


def _longest_word(text: str) -> int:
    """Return how long a word may last, in samples: a second, and a longer one a tenth of it for each letter."""
    return max(SAMPLE_RATE, len(text) * SAMPLE_RATE // 10)


def _placed(longest: Sequence[Word], alignment: Sequence[Word]) -> list[Word | None]:
    """Return the alignment's word for each of the longest one, None for what it left out because it could not place it.

    Of words alike it is the nearest in time, which only an aligner that is wrong anyway can confuse.
    """
    if [word.text for word in longest] == [word.text for word in alignment]:
        return list(alignment)
    placed: list[Word | None] = [None] * len(longest)
    at = 0
    for word in alignment:
        alike = [place for place in range(at, len(longest)) if longest[place].text == word.text]
        if alike:
            at = min(alike, key=lambda place: abs(longest[place].start - word.start))
            placed[at] = word
            at += 1
    return placed


@dataclass(frozen=True, slots=True)
class Shifts:
    """Shifts say how far times of words lie from the truth, starts and ends counted alike."""

    edges: int
    """starts and ends that were compared"""
    mean_ms: float
    within_100_ms: float
    """share, 0-1"""
    within_200_ms: float


def shifts(pairs: Iterable[tuple[int, int]]) -> Shifts:
    """Return how far edges lie from the truth: (found, true) each, in samples. Of no edge, all numbers are 0."""
    found = np.array([abs(one - other) for one, other in pairs], np.float64) / SAMPLE_RATE * 1000
    if not len(found):
        return Shifts(0, 0.0, 0.0, 0.0)
    return Shifts(len(found), float(found.mean()), float((found <= 100).mean()), float((found <= 200).mean()))
