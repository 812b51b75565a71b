"""ROVER: the transcript that most of several engines heard, word by word.

    spoken forms ──tokens──> aligned one by one into a word transition network ──vote per slot──> one transcript

    J. G. Fiscus, "A post-processing system to yield reduced word error rates: Recognizer Output Voting Error Reduction
    (ROVER)", ASRU 1997; voting by frequency of occurrence (its alpha = 1: our engines' confidences are not comparable).

The network is a row of slots; a slot holds one token per engine so far, or None where that engine has nothing. The
first engine makes the row, each further one is aligned to it at least cost: a token costs nothing in a slot where any
engine said it, otherwise 1; passing over a slot costs 1 unless some engine passed over it too; a new slot costs 1. Per
slot the most frequent token wins, None included; of equals, the one whose engine comes first, so two engines always
give the first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from operators.text.spoken import tokens

Slot = list[str | None]

_UNSPACED = "\u3000-\uabff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACE_BETWEEN_UNSPACED = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")


def vote(transcripts: Sequence[str]) -> str:
    """Return one spoken form out of several, in engine order. Empty transcripts vote too: for silence.

    Raises ValueError when there is none.
    """
    if not transcripts:
        raise ValueError("nobody votes")
    if all(transcript == transcripts[0] for transcript in transcripts):
        return transcripts[0]
    winners = vote_tokens([tokens(transcript) for transcript in transcripts])
    return _SPACE_BETWEEN_UNSPACED.sub("", " ".join(winners))  # spaced as a spoken form is


def vote_tokens(hypotheses: Sequence[Sequence[str]]) -> list[str]:
    """Return the winning tokens; `hypotheses` are token lists in engine order, at least one."""
    network: list[Slot] = [[token] for token in hypotheses[0]]
    for voters, hypothesis in enumerate(hypotheses[1:], start=1):
        network = _merge(network, hypothesis, voters)
    winners = (max(slot, key=slot.count) for slot in network)  # max takes the first of equals: engine order
    return [token for token in winners if token is not None]


def _merge(network: list[Slot], hypothesis: Sequence[str], voters: int) -> list[Slot]:
    """The network with one more engine's tokens aligned into it. `voters` engines are in it already."""
    spoken = [set(slot) for slot in network]
    rows, columns = len(network), len(hypothesis)
    cost = [list(range(columns + 1))]  # cost[i][j]: the first i slots against the first j tokens
    for i in range(rows):
        skip = None not in spoken[i]
        above, row = cost[i], [cost[i][0] + skip]
        for j in range(columns):
            match = above[j] + (hypothesis[j] not in spoken[i])
            row.append(min(match, above[j + 1] + skip, row[j] + 1))
        cost.append(row)

    merged: list[Slot] = []
    i, j = rows, columns
    while i or j:  # walk back; of equal ways a match, then a skipped slot, then a new one
        here = cost[i][j]
        if i and j and here == cost[i - 1][j - 1] + (hypothesis[j - 1] not in spoken[i - 1]):
            i, j = i - 1, j - 1
            merged.append([*network[i], hypothesis[j]])
        elif i and here == cost[i - 1][j] + (None not in spoken[i - 1]):
            i -= 1
            merged.append([*network[i], None])
        else:
            j -= 1
            merged.append([None] * voters + [hypothesis[j]])
    merged.reverse()
    return merged
