"""Rows of a vocabulary by the text of their tokens: what both have is taken, what is new starts from a mean.

    their tokens, our tokens ──match──> Rows: for each of ours, a row of theirs or the rows whose mean it starts from

A new dialect starts from the mean of the dialects and languages there, a new sound from that of the sounds, a new
character or word piece from that of all text units: what a new token shares with its kind is known on the first step.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SPECIAL = re.compile(r"<(\w+):[^>]*>")
_TENSOR = re.compile(
    r"(ctc|embedding_ctc|speaker_head\.out|((reverse_)?decoder|extra_(reverse_)?decoders\.\d+)\.(embedding|out))"
    r"\.(weight|bias)"
)


def has_rows(name: str) -> bool:
    """Say whether a tensor of the model has a row for every token."""
    return _TENSOR.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows say from which rows of another vocabulary each row of ours is made."""

    sources: tuple[tuple[int, ...], ...]
    """for each of our tokens the ids there: one, or those to take the mean of"""
    new: tuple[str, ...]
    """our tokens that the other vocabulary lacks"""
    left: tuple[str, ...]
    """tokens there that ours lacks"""

    @property
    def same(self) -> bool:
        return not self.new and not self.left

    def of(self, theirs: Tensor) -> Tensor:
        """Return our rows (V, ...) of their tensor (V', ...)."""
        taken = theirs[[ids[0] for ids in self.sources]].clone()
        for place, ids in enumerate(self.sources):
            if len(ids) > 1:
                taken[place] = theirs[torch.tensor(ids)].mean(0)
        return taken


def match(theirs: Sequence[str], ours: Sequence[str], same_as: Mapping[str, str] | None = None) -> Rows:
    """Return how our vocabulary is made of theirs. `same_as` names tokens of ours that are written otherwise there."""
    place = {token: number for number, token in enumerate(theirs)}
    kinds: dict[str, list[int]] = defaultdict(list)
    for token, number in place.items():
        kinds[_kind(token)].append(number)
    text = tuple(kinds["text"]) or tuple(range(len(theirs)))
    sources: list[tuple[int, ...]] = []
    new, used = [], set()
    for token in ours:
        found = place.get(token, place.get((same_as or {}).get(token, "")))
        if found is None:
            new.append(token)
            sources.append(tuple(kinds.get(_kind(token), text)))
        else:
            used.add(found)
            sources.append((found,))
    left = tuple(token for token, number in place.items() if number not in used)
    return Rows(tuple(sources), tuple(new), left)


def _kind(token: str) -> str:
    special = _SPECIAL.fullmatch(token)
    if special is not None:
        return special[1]
    return "control" if re.fullmatch(r"<.+>", token) else "text"
