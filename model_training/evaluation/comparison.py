"""Two models on the same clips: what changed, and whether it is more than chance.

    Answers of A ─┐
                  ├─same set, clip and reference──> pairs by recording ──redraws──> Change: A, B, difference, 95 %
    Answers of B ─┘                                                    └──> clips and words that became better or worse

Both models are drawn on the same recordings, so what is hard for both cancels out: the paired bootstrap of Bisani and
Ney (ICASSP 2004). A difference whose interval holds 0 may be chance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_training.evaluation.answers import Answer
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.metrics import reference_tokens
from model_training.evaluation.words import has_text, steps_of
from operators.edits import edit_counts
from operators.errors import UserError
from operators.resampling import Estimate, estimate, redraws

MOST_CLIPS = 6
MOST_WORDS = 12
FEWEST_VOICES = 6
"""Below it nothing is more than chance: five that all change one way do so by chance once in sixteen times (sign test),
and an interval drawn from so few leaves out 0 as soon as they do.
"""

Variant = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A Change is one number of two models on the same clips, in percent."""

    task: str
    """ "" is the error rate, where less is better; else an attribute's accuracy, where more is."""
    set: str | None
    """None: all sets together."""
    clips: int
    recordings: int
    """Or speakers: what is drawn again."""
    first: float
    second: float
    difference: Estimate
    """second − first, in points; its interval is None below two recordings."""

    @property
    def is_sure(self) -> bool:
        """Say whether the interval leaves no room for no difference, and enough recordings made it."""
        low, high = self.difference.low, self.difference.high
        return self.recordings >= FEWEST_VOICES and low is not None and high is not None and (low > 0 or high < 0)

    @property
    def is_better(self) -> bool:
        return (self.second < self.first) == (self.task == "")

    @property
    def verdict(self) -> str:
        """Return in words what to believe."""
        if self.difference.low is None:
            return "one recording: cannot be told"
        if self.first == self.second:
            return "the same"
        if self.recordings < FEWEST_VOICES:
            return "too few recordings"
        if not self.is_sure:
            return "may be chance"
        return "better" if self.is_better else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedWord:
    word: str
    said: int
    first: int
    """How often it was wrong in the first model."""
    second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedClip:
    first: Answer
    second: Answer
    edits: int
    """second − first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A Comparison says how the second of two models differs from the first at one size of each."""

    names: tuple[str, str]
    variants: tuple[Variant, Variant]
    changes: tuple[Change, ...]
    better: int
    """Clips with fewer errors than the first model made; `worse` with more, `alike` with as many."""
    worse: int
    alike: int
    unpaired: int
    """Clips that only one of the two answered, or with another reference; they are in no number here."""
    words: tuple[ChangedWord, ...]
    clips: tuple[ChangedClip, ...]
    """Most improved first, most spoilt last."""


def compare_all(first: Evaluation, second: Evaluation, seed: int = 0) -> list[Comparison]:
    """Return the comparison of two models at every size and method that both have; else at the largest of each.

    Raises UserError when they have no clip in common.
    """
    here, there = _by_variant(first), _by_variant(second)
    pairs: list[tuple[Variant, Variant]] = [(variant, variant) for variant in here if variant in there]
    pairs = pairs or [(first.main, second.main)]
    sizes = len({variant for pair in pairs for variant in pair}) > 1
    found = []
    for one, other in pairs:
        names = tuple(
            f"{evaluation.model} {variant_name(*variant, len(evaluation.methods) > 1)}" if sizes else evaluation.model
            for evaluation, variant in ((first, one), (second, other))
        )
        found.append(compare(here[one], there[other], names, seed))  # type: ignore[arg-type]
    return found


def variant_name(n_experts: int, method: str, with_method: bool) -> str:
    """Return what a size is called, and with it the method where there are several."""
    size = f"N={n_experts}" if n_experts else "dense"
    return f"{size} {method}" if with_method and method else size


def compare(first: Sequence[Answer], second: Sequence[Answer], names: tuple[str, str], seed: int = 0) -> Comparison:
    """Return how some answers differ from others to the same clips. Raises UserError when no clip is in both."""
    others = {(answer.set, answer.clip_id): answer for answer in second}
    pairs = [
        (answer, other)
        for answer in first
        if (other := others.get((answer.set, answer.clip_id))) is not None and answer.reference == other.reference
    ]
    if not pairs:
        raise UserError(f"{names[0]} and {names[1]} have no clip in common: evaluate both on the same sets")
    texts = [(a, b, _errors(a), _errors(b)) for a, b in pairs if has_text(a)]
    changes = _changes("", [(a, eb[1], ea[0], eb[0]) for a, _, ea, eb in texts], seed)
    for task in dict.fromkeys(task for a, b in pairs for task in a.truths if task in b.truths):
        asked = [(a, b) for a, b in pairs if task in a.truths and task in b.truths]
        rows = [(a, 1, a.labels.get(task) == a.truths[task], b.labels.get(task) == b.truths[task]) for a, b in asked]
        changes += _changes(task, rows, seed)
    ranked = sorted(texts, key=lambda each: (each[3][0] - each[2][0], each[0].set, each[0].clip_id))
    differences = [ChangedClip(first=a, second=b, edits=eb[0] - ea[0]) for a, b, ea, eb in ranked]
    improved = [each for each in differences if each.edits < 0][:MOST_CLIPS]
    spoilt = [each for each in differences if each.edits > 0][-MOST_CLIPS:]
    return Comparison(
        names=names,
        variants=(pairs[0][0].variant, pairs[0][1].variant),
        changes=tuple(changes),
        better=sum(each.edits < 0 for each in differences),
        worse=sum(each.edits > 0 for each in differences),
        alike=sum(each.edits == 0 for each in differences),
        unpaired=len(first) + len(second) - 2 * len(pairs),
        words=_changed_words([(a, b) for a, b, *_ in texts]),
        clips=(*improved, *spoilt),
    )


def _by_variant(evaluation: Evaluation) -> dict[Variant, list[Answer]]:
    found: defaultdict[Variant, list[Answer]] = defaultdict(list)
    for answer in evaluation.answers:
        found[answer.variant].append(answer)
    return dict(found)


def _errors(answer: Answer) -> tuple[int, int]:
    edits = edit_counts(
        reference_tokens(answer.reference or "", answer.language), reference_tokens(answer.hypothesis, answer.language)
    )
    return edits.total, edits.reference_length


def _changes(task: str, rows: Sequence[tuple[Answer, int, int, int]], seed: int) -> list[Change]:
    """Return the change of each set, and of all where they are several. Rows: clip, its tokens or 1, counts of both."""
    sets = list(dict.fromkeys(answer.set for answer, *_ in rows))
    if task and len(sets) > 1:  # one line for each attribute: a set often has a single label
        return [_change(task, None, rows, seed)]
    found = [_change(task, name, [row for row in rows if row[0].set == name], seed) for name in sets]
    return found + ([_change(task, None, rows, seed)] if len(sets) > 1 else [])


def _change(task: str, name: str | None, rows: Sequence[tuple[Answer, int, int, int]], seed: int) -> Change:
    sums: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for answer, *counts in rows:
        sums[answer.voice] += counts
    by_voice = np.stack([sums[voice] for voice in sorted(sums)])
    whole, first, second = by_voice.sum(axis=0)
    drawn = [weights @ by_voice for weights in redraws(len(by_voice), np.random.default_rng(seed))]
    differences = np.zeros(0)
    if drawn:
        sums_D3 = np.concatenate(drawn)
        differences = 100 * (sums_D3[:, 2] - sums_D3[:, 1]) / sums_D3[:, 0]
    return Change(
        task=task,
        set=name,
        clips=len(rows),
        recordings=len(by_voice),
        first=float(100 * first / whole),
        second=float(100 * second / whole),
        difference=estimate(100 * (second - first) / whole, differences),
    )


def _changed_words(pairs: Sequence[tuple[Answer, Answer]]) -> tuple[ChangedWord, ...]:
    """Return the words whose errors changed the most, most improved first."""
    said: Counter[str] = Counter()
    wrong: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for pair in pairs:
        for at, answer in enumerate(pair):
            for step in steps_of(answer):
                if step.kind != "insertion":
                    said[step.reference] += at == 0
                    wrong[at][step.reference] += step.kind != "equal"
    moved = {word: wrong[1][word] - wrong[0][word] for word in said if wrong[1][word] != wrong[0][word]}
    improved, spoilt = (_most(moved, sign) for sign in (-1, 1))
    return tuple(
        ChangedWord(word=word, said=said[word], first=wrong[0][word], second=wrong[1][word])
        for word in (*improved, *reversed(spoilt))
    )


def _most(moved: Mapping[str, int], sign: int) -> list[str]:
    there = [word for word, by in moved.items() if by * sign > 0]
    return sorted(there, key=lambda word: (-moved[word] * sign, word))[:MOST_WORDS]
