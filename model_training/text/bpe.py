"""Byte-pair encoding over characters: learn merges from counted words, apply them to a word.

    words with counts ──learn_merges──> merges, most frequent first ──split_word──> pieces of any word

Sennrich et al. 2016. Ties go to the pair whose symbols are older (alphabet in code-point order, then merges in turn),
which is what the `tokenizers` library does, so the same corpus gives the same merges here and there.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

BOUNDARY = "▁"
Merge = tuple[str, str]
_RAREST = 2
"""A pair seen once is a spelling, not a unit."""


def learn_merges(words: Mapping[tuple[str, ...], int], count: int) -> list[Merge]:
    """Return the merges that make `count` new pieces, fewer when no pair is left that occurs twice.

    `words` maps symbols to occurrences.
    """
    names = sorted({symbol for word in words for symbol in word})
    number = {name: index for index, name in enumerate(names)}
    spelt = [[number[symbol] for symbol in word] for word in words]
    weights = list(words.values())
    pairs: Counter[tuple[int, int]] = Counter()
    where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for index, word in enumerate(spelt):
        for pair in pairwise(word):
            pairs[pair] += weights[index]
            where[pair].add(index)
    heap = [(-total, pair) for pair, total in pairs.items()]
    heapq.heapify(heap)
    merges: list[Merge] = []
    limit = len(names) + count
    while len(names) < limit and heap:
        negative, pair = heapq.heappop(heap)
        total = pairs[pair]
        if -negative != total:  # counted before an overlapping merge took some
            if total > 0:
                heapq.heappush(heap, (-total, pair))
            continue
        if total < _RAREST:
            break
        left, right = pair
        joined = names[left] + names[right]
        new = number.setdefault(joined, len(names))
        if new == len(names):
            names.append(joined)
        merges.append((names[left], names[right]))
        changed: set[tuple[int, int]] = set()
        for index in where.pop(pair):
            word, weight = spelt[index], weights[index]
            for old in pairwise(word):
                pairs[old] -= weight
            word = spelt[index] = _merge(word, left, right, new)
            for fresh in pairwise(word):
                pairs[fresh] += weight
                where[fresh].add(index)
                if new in fresh:
                    changed.add(fresh)
        del pairs[pair]
        for fresh in changed:
            heapq.heappush(heap, (-pairs[fresh], fresh))
    return merges


def split_word(symbols: Sequence[str], rank: Mapping[Merge, int]) -> list[str]:
    """Return the pieces of a word: always the pair whose merge is the earliest is joined, from the left."""
    pieces = list(symbols)
    while len(pieces) > 1:
        ranked = [(rank[pair], place) for place, pair in enumerate(pairwise(pieces)) if pair in rank]
        if not ranked:
            break
        place = min(ranked)[1]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def _merge(word: list[int], left: int, right: int, new: int) -> list[int]:
    out: list[int] = []
    place = 0
    while place < len(word):
        if word[place] == left and place + 1 < len(word) and word[place + 1] == right:
            out.append(new)
            place += 2
        else:
            out.append(word[place])
            place += 1
    return out
