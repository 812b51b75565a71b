"""How right annotators are, and the labels that they agree on, by a truth that says what a speaker and a sound are.

    ledgers of an annotated run ─┐
    truth's attributes ──────────┴─count─> per recording and annotator ──redraws──> accuracy and yield, with intervals

A clip's truth is what all segments in it say alike, else what its recording says; a kind of which neither says anything
is not scored. The labels that hold are scored beside the annotators, as "agreed": a manifest's word is among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.annotate.annotator import tidy
from operators.clip import KINDS, Span
from operators.resampling import Estimate, estimate, ratio, redraws
from pipeline.report.annotations import ATTRIBUTE_COLUMN
from pipeline.score.clips import recordings_with_truth
from pipeline.score.truth import Tolerance, TrueRecording, Truth

ATTRIBUTE_COLUMNS = ("recording_id", "uri", "start", "end", "opinions", *ATTRIBUTE_COLUMN.values())
"""What is read of a ledger."""
AGREED = "agreed"

_CLIPS, _ANSWERED, _RIGHT = range(3)
_Counts = dict[tuple[str, str], dict[str, np.ndarray]]
"""(kind, annotator) -> recording -> int64 [clips, answered, right]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeScore:
    """An AttributeScore says how often one annotator, or what all agree on, answers and is right about a kind. Shares
    are percent, with their 95 % interval over recordings.
    """

    kind: str
    annotator: str
    """its name in the ledger, or AGREED."""
    clips: int
    """whose truth is known."""
    answered: int
    right: int
    accuracy: Estimate
    """right, of the answered."""
    answers: Estimate
    """answered, of the clips: the yield."""


def score_attributes(
    tables: Iterable[pa.Table], truth: Truth, tolerance: Tolerance, seed: int = 0
) -> tuple[AttributeScore, ...]:
    """Return the scores of every kind that the truth knows and anybody answered, what annotators agree on last.

    `tables` are ledgers with ATTRIBUTE_COLUMNS; clips that nobody was asked about are not scored.
    """
    counts: _Counts = {}
    for table in tables:
        clips = table.filter(pc.is_valid(table["opinions"]))
        found = recordings_with_truth(clips, truth)
        for row in clips.to_pylist():
            if recording := found.get(row["recording_id"]):
                _count(row, true_labels(recording, Span(row["start"], row["end"]), tolerance), counts)
    answered = {kind for (kind, _), own in counts.items() if any(each[_ANSWERED] for each in own.values())}
    order = sorted(counts, key=lambda key: (KINDS.index(key[0]), key[1] == AGREED, key[1]))
    return tuple(_score(kind, annotator, counts, seed) for kind, annotator in order if kind in answered)


def true_labels(recording: TrueRecording, span: Span, tolerance: Tolerance) -> dict[str, tuple[str, ...]]:
    """Return what is true of a stretch of a recording, by kind: a label, or events in the order of their names."""
    inside = [
        segment
        for segment in recording.near(span)
        if (segment.span & span or Span(0, 0)).samples > min(tolerance.edge, segment.span.samples // 2)
    ]
    known: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        said = [dict(segment.labels).get(kind) for segment in inside]
        labels = [each for each in said if each is not None]
        whole = dict(recording.labels).get(kind)
        if labels and len(labels) == len(inside):
            if kind == "events":
                known[kind] = tuple(sorted({event for each in labels for event in each}))
            elif len(set(labels)) == 1:
                known[kind] = labels[0]
        elif not labels and whole is not None:
            known[kind] = whole
    return known


def _count(row: Mapping[str, Any], truth: Mapping[str, tuple[str, ...]], counts: _Counts) -> None:
    for kind, right in truth.items():
        answers = {each["annotator"]: tuple(each["labels"]) for each in row["opinions"] if each["kind"] == kind}
        agreed = _labels(kind, row[ATTRIBUTE_COLUMN[kind]])
        for annotator, said in {**answers, AGREED: agreed}.items():
            by_recording = counts.setdefault((kind, annotator), {})
            own = by_recording.setdefault(row["recording_id"], np.zeros(3, np.int64))
            own += (1, said is not None, said == right)


def _labels(kind: str, agreed: Any) -> tuple[str, ...] | None:
    if agreed is None:
        return None
    return tuple(sorted(agreed)) if isinstance(agreed, list) else (tidy(kind, str(agreed)),)


def _score(kind: str, annotator: str, counts: _Counts, seed: int) -> AttributeScore:
    # All annotators are asked about all clips, so the clips are those of the agreed labels, answered or not.
    asked, own = counts[kind, AGREED], counts[kind, annotator]
    nothing = np.zeros(3, np.int64)
    rows = np.stack([np.append(asked[name][:1], own.get(name, nothing)[1:]) for name in sorted(asked)])
    total = rows.sum(0)
    drawn = [times @ rows for times in redraws(len(rows), np.random.default_rng(seed))]
    sums = np.concatenate(drawn) if drawn else np.zeros((0, 3))

    def share(part: int, whole: int) -> Estimate:
        return estimate(100 * ratio(total[part], total[whole]), 100 * ratio(sums[:, part], sums[:, whole]))

    return AttributeScore(
        kind=kind,
        annotator=annotator,
        clips=int(total[_CLIPS]),
        answered=int(total[_ANSWERED]),
        right=int(total[_RIGHT]),
        accuracy=share(_RIGHT, _ANSWERED),
        answers=share(_ANSWERED, _CLIPS),
    )
