"""What changed from one run to the next: settings, versions, and clips that went elsewhere.

ledgers ──clip ids, outcomes, labels──> columns of each run ──join on the clip id──> Change
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from operators.names import Names, first_places, keys
from operators.storage.base import Store
from pipeline import ledger
from pipeline.report.compare.records import Change, ComparedRun, Difference, Move

KEPT = "kept"


def find_change(before: ComparedRun, after: ComparedRun) -> Change:
    """Return what changed from one run to the other. Raises UserError when a ledger cannot be read."""
    outcomes = Names()
    outcomes.code(KEPT)
    old, new = _clips(before.store, outcomes), _clips(after.store, outcomes)
    place = first_places(np.concatenate([old.keys, new.keys]))[len(old.keys) :]
    in_new = np.flatnonzero(place < len(old.keys))
    in_old = place[in_new]
    was, now = old.outcome[in_old], new.outcome[in_new]
    kept = (was == 0) & (now == 0)
    names = list(outcomes)
    moves = []
    pairs, which = np.unique(np.stack([was, now], axis=1), axis=0, return_inverse=True)
    for number, (a, b) in enumerate(pairs.tolist()):
        if a != b:
            mine = which.ravel() == number
            moves.append(Move(names[a], names[b], int(mine.sum()), int(new.samples[in_new][mine].sum())))
    return Change(
        before=before.name,
        after=after.name,
        settings=_differences(before.settings, after.settings),
        versions=_differences(before.versions, after.versions),
        shared=len(in_new),
        same=int((was == now).sum()),
        relabelled=int((old.label[in_old] != new.label[in_new])[kept].sum()),
        only_before=len(old.keys) - len(in_new),
        only_after=len(new.keys) - len(in_new),
        moves=tuple(sorted(moves, key=lambda move: (-move.samples, move.before, move.after))),
    )


def _differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[Difference, ...]:
    both = sorted(before.keys() | after.keys())
    return tuple(Difference(key, before.get(key), after.get(key)) for key in both if before.get(key) != after.get(key))


@dataclass(frozen=True, slots=True)
class _Clips:
    """These columns hold every clip of a run, kept or not, in some forty bytes each."""

    keys: np.ndarray
    """uint64 [N, 2]: of the clip id"""
    outcome: np.ndarray
    """int32 [N]"""
    samples: np.ndarray
    """int64 [N]"""
    label: np.ndarray
    """uint64 [N]: of the label's text"""


def _clips(store: Store, outcomes: Names) -> _Clips:
    parts = list(_clip_parts(store, outcomes))
    return _Clips(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _clip_parts(store: Store, outcomes: Names) -> Iterator[tuple[np.ndarray, ...]]:
    for table in ledger.ledgers(store, ("clip_id", "start", "end", "outcome", "stage", "reason", "label")):
        clips = table.filter(pc.is_valid(table["clip_id"]))
        cause = pc.binary_join_element_wise(pc.fill_null(clips["stage"], ""), pc.fill_null(clips["reason"], ""), ": ")
        outcome = pc.if_else(pc.equal(clips["outcome"], KEPT), KEPT, cause)
        yield (
            keys(clips["clip_id"].to_pylist()),
            outcomes.codes(outcome).to_numpy(),
            pc.subtract(clips["end"], clips["start"]).to_numpy(),
            keys(text or "" for text in clips["label"].to_pylist())[:, 0],
        )
