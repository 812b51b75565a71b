"""The words that come out wrong most often, what they are taken for, and what is written that nobody said.

    Answers ──reference, hypothesis as they are compared──align──> steps ──count──> WrongWords

A word is a token as error rates count it: one Han character, or one word of other scripts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from model_training.evaluation.answers import Answer
from model_training.evaluation.metrics import reference_tokens
from operators.edits import Edit, align

MOST = 20
_HEARD = 3


@dataclass(frozen=True, slots=True)
class WrongWord:
    """A WrongWord was said so often, came out wrong so often, and as these words; "" is as nothing."""

    word: str
    said: int
    wrong: int
    heard_as: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class WrongWords:
    wrong: tuple[WrongWord, ...]
    """Most often wrong first."""
    inserted: tuple[tuple[str, int], ...]
    """Words that were written where nothing was said, and how often."""


def steps_of(answer: Answer) -> list[Edit]:
    """Return how the hypothesis differs from the reference, token by token, as the error rate counts it."""
    return align(
        reference_tokens(answer.reference or "", answer.language), reference_tokens(answer.hypothesis, answer.language)
    )


def has_text(answer: Answer) -> bool:
    """Say whether the answer counts in the error rate."""
    return bool(reference_tokens(answer.reference or "", answer.language))


def wrong_words(answers: Iterable[Answer], most: int = MOST) -> WrongWords:
    """Return the words most often wrong in some answers of one model at one size, at most so many."""
    said: Counter[str] = Counter()
    taken: defaultdict[str, Counter[str]] = defaultdict(Counter)
    inserted: Counter[str] = Counter()
    for answer in filter(has_text, answers):
        for step in steps_of(answer):
            if step.kind == "insertion":
                inserted[step.hypothesis] += 1
                continue
            said[step.reference] += 1
            if step.kind != "equal":
                taken[step.reference][step.hypothesis] += 1
    wrong = [WrongWord(word, said[word], heard.total(), _first(heard, _HEARD)) for word, heard in taken.items()]
    wrong.sort(key=lambda one: (-one.wrong, one.said, one.word))
    return WrongWords(tuple(wrong[:most]), _first(inserted, most))


def _first(counts: Counter[str], most: int) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])
