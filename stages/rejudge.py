"""Rejudge: new thresholds over an old ledger, no recogniser involved.

old ledger ──measure again only where the text rules changed──> judge ──> the same rows, other verdicts
    ──opinions and quality, as they were found──> agree again, limits again
    kept before and now: its encoded audio is copied from the old tar      kept now only: re-cut from the source
──> the tar and ledger that a fresh run with these settings would write, byte for byte

Of an annotated run, a unit in which Rover now keeps other clips is annotated again: what it did not keep nobody was
asked about, and who speaks is told by all kept clips of a recording together.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from operators.agreement import AgreementJudge, AgreementRule
from operators.audio.decode import AudioError, Limits
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE, Agreement, Clip, Piece, Rejection, Span, Stretch, Unit, Verdict
from operators.shard import (
    ANNOTATED,
    LedgerRow,
    agreed_columns,
    annotation_columns,
    clean,
    content_hash,
    hypotheses_of,
    opinions_of,
    quality_of,
    read_ledger,
    rejection_columns,
)
from operators.text.folded import Folder
from stages.annotate import Annotate, AnnotationRule
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
    annotation: AnnotationRule | None = None
    """how opinions and quality are judged; None: the new run is not annotated."""
    annotate: Annotate | None = None
    """for units in which other clips are kept; None where no setting of Rover's changed, so that there are none."""
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
        if self.annotate is not None:
            self.annotate.open()

    def close(self) -> None:
        self._decoder.close()
        if self.annotate is not None:
            self.annotate.close()

    def process(self, unit: Unit) -> Unit:
        tar_key, _, ledger_key = shard_keys(unit.unit_id)
        table, _ = read_ledger(self.old.read(ledger_key))
        old_rows = table.to_pylist()
        rows = [self._judge(row) for row in old_rows]
        before = {row["clip_id"]: (row["tar_offset"], row["tar_size"]) for row in old_rows if row["outcome"] == "kept"}
        pieces = {clean(piece.recording.recording_id): piece for piece in unit.pieces if piece.problem is None}

        def audio(row: LedgerRow) -> bytes:
            if row["clip_id"] in before:
                encoded = self.old.read_range(tar_key, *before[row["clip_id"]])
                if len(encoded) != row["tar_size"]:
                    raise ValueError(f"{tar_key} of the old run ends before {row['clip_id']}")
                return encoded
            return self._encode(self._recut(row, pieces[row["recording_id"]], sources))

        with closing(LastFetched(self.fetcher)) as sources:  # the rows of a recording stand together
            rows = self._annotated(rows, unit, pieces, sources)
            commit(self.new, unit.unit_id, rows, audio, self.format)
        return _summary(unit, rows)

    def heard_seconds(self, unit: Unit) -> float:
        return clip_seconds(unit)

    def _judge(self, row: LedgerRow) -> LedgerRow:
        if row["clip_id"] is None or row["stage"] not in (None, "rover", "annotate"):
            return row  # no clip, or rejected before there was anything to compare
        heard = hypotheses_of(row)
        if self.measure_again or row["wer"] is None:
            agreement = self._rover.measure(
                heard[0], heard[1:], row["language"], (row["end"] - row["start"]) / SAMPLE_RATE
            )
        else:
            agreement = Agreement(**{name: row[name] for name in Agreement.__dataclass_fields__})
        verdict = self._rover.judge(agreement, heard, row["language"])
        return row | asdict(agreement) | _verdict_columns(verdict)

    def _annotated(
        self, rows: list[LedgerRow], unit: Unit, pieces: Mapping[str, Piece], sources: Fetcher
    ) -> list[LedgerRow]:
        """Return the rows that Rover judged with what Annotate says of them under the new settings."""
        rule = self.annotation
        if rule is None:
            return [row | dict.fromkeys(ANNOTATED) for row in rows]
        kept = [row["outcome"] == "kept" for row in rows]
        if any(is_kept != (row["opinions"] is not None) for is_kept, row in zip(kept, rows, strict=True)):
            return self._annotated_again(rows, unit, pieces, sources)

        def judged(row: LedgerRow) -> LedgerRow:
            agreed = rule.attributes(opinions_of(row), pieces[row["recording_id"]])
            verdict = rule.verdict(Verdict(label=row["label"]), quality_of(row))
            return row | agreed_columns(agreed) | _verdict_columns(verdict)

        return [judged(row) if is_kept else row for is_kept, row in zip(kept, rows, strict=True)]

    def _annotated_again(
        self, rows: list[LedgerRow], unit: Unit, pieces: Mapping[str, Piece], sources: Fetcher
    ) -> list[LedgerRow]:
        """Hear the unit's clips once more, from their sources: the kept ones, and the others for their pauses."""
        if self.annotate is None:
            raise ValueError(f"{unit.unit_id}: other clips are kept, though no setting of Rover's changed")
        places = [at for at, row in enumerate(rows) if row["clip_id"] is not None]
        audio = [self._recut(rows[at], pieces[rows[at]["recording_id"]], sources) for at in places]
        clips = tuple(_clip(rows[at], pieces[rows[at]["recording_id"]]) for at in places)
        done = self.annotate.process(replace(unit, clips=clips, audio=np.concatenate(audio)))
        found = list(rows)
        for at, clip in zip(places, done.clips, strict=True):
            assert clip.verdict is not None
            found[at] = (
                rows[at] | annotation_columns(clip) | (_verdict_columns(clip.verdict) if clip.attributes else {})
            )
        return found

    def _recut(self, row: LedgerRow, piece: Piece, sources: Fetcher) -> np.ndarray:
        uri = piece.recording.uri
        try:
            pcm = read_span(sources, self._decoder, piece, Span(row["start"], row["end"]))
        except (AudioError, OSError) as error:
            raise SourceChanged(f"{uri} can no longer be read ({error}): bring it back for {row['clip_id']}") from None
        if content_hash(pcm) != row["content_hash"]:
            raise SourceChanged(f"{uri} is not the file it was when {row['clip_id']} was cut from it: bring that back")
        return pcm


def _verdict_columns(verdict: Verdict) -> LedgerRow:
    label = None if verdict.label is None else clean(verdict.label)
    return {"outcome": "kept" if verdict.kept else "rejected", "label": label} | rejection_columns(verdict.rejection)


def _clip(row: LedgerRow, piece: Piece) -> Clip:
    """Return the clip that a row tells of, as it came out of Rover."""
    rejection = Rejection(stage=row["stage"], reason=row["reason"]) if row["outcome"] != "kept" else None
    return Clip(
        clip_id=row["clip_id"],
        recording_id=piece.recording.recording_id,
        span=Span(row["start"], row["end"]),
        hypotheses=hypotheses_of(row),
        verdict=Verdict(label=None if rejection else row["label"], rejection=rejection),
    )


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
