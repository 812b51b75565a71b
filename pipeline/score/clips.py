"""The clips of a ledger beside what was really said in them: what every comparison with a truth begins with.

ledger ──recordings_with_truth──placed_clips──> PlacedClip: its row, its truth, or why it has none
row ──Labels──> the label that it has, or would have had
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from operators.agreement import LOW_CONFIDENCE, AgreementJudge, AgreementRule, reject
from operators.clip import Agreement, Hypothesis, Span
from operators.text.folded import Folder
from operators.text.spoken import Normaliser
from pipeline.report.retention import AGREEMENT_REASONS
from pipeline.score.truth import Placement, Tolerance, TrueRecording, Truth, align

SCORE_COLUMNS = (
    "domain", "recording_id", "uri", "start", "end", "outcome", "reason", "clip_id", "language", "hypotheses",
    "asr_norm", "copilot_norm", "reference", "wer", "per", "tokens_per_second", "numbers_agree", "label",
)  # fmt: skip
"""What a comparison needs of a ledger."""

DECIDED = (*AGREEMENT_REASONS, LOW_CONFIDENCE)
"""Reasons of clips that reached the agreement rule with two transcripts: they would have a label under another rule."""


@dataclass(frozen=True, slots=True)
class PlacedClip:
    """A PlacedClip is a clip of a recording with a truth: `truth` is its text, as written, where it is "scored"."""

    row: dict[str, Any]
    span: Span
    placement: Placement | Literal["unheard"]
    truth: str
    language: str
    """the truth's, or else the clip's own; "" where neither is known."""


def recordings_with_truth(clips: pa.Table, truth: Truth) -> dict[str, TrueRecording]:
    """Return the truth of the recordings of a ledger's clips by recording_id, of those that have one."""
    names = clips.group_by(["recording_id", "uri"], use_threads=False).aggregate([]).to_pylist()
    found = {name["recording_id"]: truth.find(name["recording_id"], name["uri"]) for name in names}
    return {name: recording for name, recording in found.items() if recording is not None}


def placed_clips(table: pa.Table, found: Mapping[str, TrueRecording], tolerance: Tolerance) -> Iterator[PlacedClip]:
    """Yield the clips of one whole ledger whose recordings are in `found`, recording by recording, by start."""
    rows = table.filter(pc.is_in(table["recording_id"], pa.array(list(found), pa.string())))
    by_recording: dict[str, list[dict[str, Any]]] = {name: [] for name in found}
    for row in rows.sort_by("start").to_pylist():
        by_recording[row["recording_id"]].append(row)
    for name, recording in found.items():
        for row, quiet in _with_quiet(by_recording[name]):
            span, language = Span(row["start"], row["end"]), recording.language or row["language"] or ""
            if row["hypotheses"]:
                yield PlacedClip(row, span, *align(recording, span, quiet, tolerance), language)
            else:
                yield PlacedClip(row, span, "unheard", "", language)


def _with_quiet(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Span]]:
    """Yield the clips among a recording's rows (by start), each with its span and the non-speech right around it."""
    rows = [row for row in rows if row["start"] < row["end"]]
    for at, row in enumerate(rows):
        if row["outcome"] not in ("kept", "rejected"):
            continue
        first = last = at
        while first and rows[first - 1]["outcome"] == "non_speech" and rows[first - 1]["end"] == rows[first]["start"]:
            first -= 1
        while (
            last + 1 < len(rows)
            and rows[last + 1]["outcome"] == "non_speech"
            and rows[last + 1]["start"] == rows[last]["end"]
        ):
            last += 1
        yield row, Span(rows[first]["start"], rows[last]["end"])


def hypotheses(row: Mapping[str, Any]) -> tuple[Hypothesis, ...]:
    """Return what the engines heard in a clip: the ASR, then the copilots."""
    return tuple(Hypothesis(**hypothesis) for hypothesis in row["hypotheses"])


def agreement(row: Mapping[str, Any]) -> Agreement:
    """Return what was measured of a clip that two engines heard."""
    return Agreement(**{name: row[name] for name in Agreement.__dataclass_fields__})


class Labels:
    """Labels are the texts that clips have, or would have under limits that everything meets.

    rule, normaliser: the run's own.
    """

    def __init__(self, rule: AgreementRule, normaliser: Normaliser) -> None:
        self._rule = rule
        # What label would a clip have under limits that everything meets? What `redecide` would write.
        lenient = replace(rule, max_wer=float("inf"), max_per=float("inf"), numbers="counted", calibration={})
        self._lenient = AgreementJudge(lenient, Folder(normaliser=normaliser))
        unlimited = replace(rule, max_wer=float("inf"), max_per=float("inf"))
        self._unlimited = AgreementJudge(unlimited, Folder(normaliser=normaliser))

    def label(self, row: Mapping[str, Any], heard: Sequence[Hypothesis]) -> str | None:
        """Return the clip's label or, where the agreement rule alone took it away, the one it would have had."""
        if row["outcome"] == "kept":
            return str(row["label"])
        if row["reason"] not in DECIDED:
            return None
        return self._lenient.judge(agreement(row), heard, row["language"]).label

    def limits_decide(self, row: Mapping[str, Any], heard: Sequence[Hypothesis]) -> bool:
        """Return whether a clip that the agreement rule judged is kept where its limits are wide enough: neither other
        numbers nor a calibration stand against it.
        """
        return row["outcome"] == "kept" or self._unlimited.judge(agreement(row), heard, row["language"]).kept

    def within_limits(self, row: Mapping[str, Any]) -> bool:
        """Return whether the WER and PER of a clip are within the run's limits, whatever a calibration says."""
        return reject(agreement(row), self._rule) is None
