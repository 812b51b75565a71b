"""Rejudge: new thresholds over an old ledger, no recogniser involved.

old ledger ──measure again only where the text rules changed──> judge ──> the same rows, other verdicts
    kept before and now: its encoded audio is copied from the old tar      kept now only: re-cut from the source
──> the tar and ledger that a fresh run with these settings would write, byte for byte
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from operators.agreement import AgreementJudge, AgreementRule
from operators.audio.decode import AudioError, Limits
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE, Agreement, Clip, Hypothesis, Piece, Rejection, Span, Stretch, Unit, Verdict
from operators.shard import LedgerRow, clean, content_hash, read_ledger, rejection_columns
from operators.text.folded import Folder
from stages.base import Fetcher, Resources, SourceChanged, Store, clip_seconds
from stages.segment import LastFetched, read_span
from stages.write_shard import ShardFormat, commit, shard_keys


@dataclass(kw_only=True)
class Rejudge:
    old: Store
    new: Store
    fetcher: Fetcher
    rule: AgreementRule
    measure_again: bool
    """whether what is measured (not only what is decided) depends on a changed setting."""
    limits: Limits
    decode_timeout_seconds: float
    decode_attempts: int
    format: ShardFormat = field(default_factory=ShardFormat)
    folder: Folder = field(default_factory=Folder)
    resources: Resources = field(default_factory=Resources)
    name: str = "Rejudge"

    def open(self) -> None:
        self._rover = AgreementJudge(self.rule, self.folder)
        self._decoder = IsolatedDecoder(
            self.limits, timeout_seconds=self.decode_timeout_seconds, attempts=self.decode_attempts
        )
        self._encode = self.format.encoder()

    def close(self) -> None:
        self._decoder.close()

    def process(self, unit: Unit) -> Unit:
        tar_key, _, ledger_key = shard_keys(unit.unit_id)
        table, _ = read_ledger(self.old.read(ledger_key))
        rows = [self._judge(row) for row in table.to_pylist()]
        before = {
            row["clip_id"]: (row["tar_offset"], row["tar_size"])
            for row in table.to_pylist()
            if row["outcome"] == "kept"
        }
        pieces = {clean(piece.recording.recording_id): piece for piece in unit.pieces if piece.problem is None}

        def audio(row: LedgerRow) -> bytes:
            if row["clip_id"] in before:
                encoded = self.old.read_range(tar_key, *before[row["clip_id"]])
                if len(encoded) != row["tar_size"]:
                    raise ValueError(f"{tar_key} of the old run ends before {row['clip_id']}")
                return encoded
            return self._encode(self._recut(row, pieces[row["recording_id"]], sources))

        with closing(LastFetched(self.fetcher)) as sources:  # the rows of a recording stand together
            commit(self.new, unit.unit_id, rows, audio, self.format)
        return _summary(unit, rows)

    def heard_seconds(self, unit: Unit) -> float:
        return clip_seconds(unit)

    def _judge(self, row: LedgerRow) -> LedgerRow:
        if row["clip_id"] is None or row["stage"] not in (None, "rover"):
            return row  # no clip, or rejected before there was anything to compare
        heard = tuple(Hypothesis(**hypothesis) for hypothesis in row["hypotheses"])
        if self.measure_again or row["wer"] is None:
            agreement = self._rover.measure(
                heard[0], heard[1:], row["language"], (row["end"] - row["start"]) / SAMPLE_RATE
            )
        else:
            agreement = Agreement(**{name: row[name] for name in Agreement.__dataclass_fields__})
        verdict = self._rover.judge(agreement, heard, row["language"])
        return (
            row
            | asdict(agreement)
            | {"outcome": "kept" if verdict.kept else "rejected", "label": verdict.label and clean(verdict.label)}
            | rejection_columns(verdict.rejection)
        )

    def _recut(self, row: LedgerRow, piece: Piece, sources: Fetcher) -> np.ndarray:
        uri = piece.recording.uri
        try:
            pcm = read_span(sources, self._decoder, piece, Span(row["start"], row["end"]))
        except (AudioError, OSError) as error:
            raise SourceChanged(f"{uri} can no longer be read ({error}): bring it back for {row['clip_id']}") from None
        if content_hash(pcm) != row["content_hash"]:
            raise SourceChanged(f"{uri} is not the file it was when {row['clip_id']} was cut from it: bring that back")
        return pcm


def _summary(unit: Unit, rows: list[LedgerRow]) -> Unit:
    """Return the unit as the display counts it: clips with verdicts, stretches, no audio."""
    clips, stretches = [], []
    for row in rows:
        span = Span(row["start"], row["end"])
        if row["clip_id"] is None:
            stretches.append(Stretch(recording_id=row["recording_id"], span=span, outcome=row["outcome"]))
            continue
        rejection = None if row["outcome"] == "kept" else Rejection(stage=row["stage"], reason=row["reason"])
        verdict = Verdict(label=row["label"] if rejection is None else None, rejection=rejection)
        clips.append(Clip(clip_id=row["clip_id"], recording_id=row["recording_id"], span=span, verdict=verdict))
    return replace(unit, clips=tuple(clips), stretches=tuple(stretches))
