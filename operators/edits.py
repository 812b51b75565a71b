"""Edits between two sequences of tokens: how many of which kind, which ones, and the error rate.

    reference, hypothesis: token lists ──jiwer──> Edits (counts), list[Edit] (an alignment to show)
                                       └─rapidfuzz──> error_rate, the Rover's inner loop

jiwer judges: `score`, the trainer's `eval` and everything that shows an alignment count with it. `error_rate` asks
rapidfuzz, which jiwer itself stands on, directly: at nine times the speed, and Rover needs it
(docs/decisions/jiwer.md). Tests hold the two to the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jiwer
from rapidfuzz.distance import Levenshtein

EditKind = Literal["equal", "substitution", "deletion", "insertion"]

_KINDS: dict[str, EditKind] = {
    "equal": "equal",
    "substitute": "substitution",
    "delete": "deletion",
    "insert": "insertion",
}


class Edits(NamedTuple):
    """Edits that turn a reference into a hypothesis, as few as can be."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return the error rate in percent of the reference length; above 100 when there are more edits than reference
        tokens.
        """
        return _rate(self.total, self.reference_length)


class Edit(NamedTuple):
    """An Edit is one step of an alignment, for display: `reference` is "" at an insertion, `hypothesis` is "" at a
    deletion.
    """

    kind: EditKind
    reference: str
    hypothesis: str


class _AsTokens(jiwer.AbstractTransform):
    """jiwer's place for splitting sentences into words: ours come as tokens and stay as they are."""

    def process_list(self, inp: list[list[str]]) -> list[list[str]]:  # type: ignore[override]
        return inp


_AS_TOKENS = _AsTokens()


def _process(reference: Sequence[str], hypothesis: Sequence[str]) -> jiwer.WordOutput:
    return jiwer.process_words([list(reference)], [list(hypothesis)], _AS_TOKENS, _AS_TOKENS)  # type: ignore[list-item]


def _rate(edits: int, reference_length: int) -> float:
    """Percent. An empty reference: 0 against an empty hypothesis, else 100 (all of it is inserted; never a NaN)."""
    if reference_length == 0:
        return 100.0 if edits else 0.0
    return 100 * edits / reference_length  # whole numbers first: 3 in 30 is 10.0 exactly, and within a bound of 10


def edit_counts(reference: Sequence[str], hypothesis: Sequence[str]) -> Edits:
    """Return the fewest edits from reference to hypothesis (Levenshtein, unit costs), split by kind."""
    found = _process(reference, hypothesis)
    return Edits(found.substitutions, found.deletions, found.insertions, len(reference))


def error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Return `edit_counts(...).rate`, without the split by kind.

    Tokens are compared by their 64-bit hash, so a million hours of speech may see a collision about never.
    """
    return _rate(Levenshtein.distance(reference, hypothesis), len(reference))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Edit]:
    """Return step by step how the hypothesis differs from the reference, in order, for marking differences.

    >>> align(["a", "b", "c"], ["a", "x", "c", "d"])[1]
    Edit(kind='substitution', reference='b', hypothesis='x')
    """
    steps: list[Edit] = []
    for chunk in _process(reference, hypothesis).alignments[0]:
        kind = _KINDS[chunk.type]
        said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if kind == "deletion":
            steps += (Edit(kind, token, "") for token in said)
        elif kind == "insertion":
            steps += (Edit(kind, "", token) for token in written)
        else:
            steps += (Edit(kind, *pair) for pair in zip(said, written, strict=True))
    return steps
