"""Labelled sets from elsewhere, given as manifests: rows become clips of the hand-off, audio stays where it is.

    FILE[:domain] ──rows──> uri, text, start, end, attributes ──headers of the audio──> batches of the spool
                                                             └─> Skipped: line, reason, detail

A row that cannot be used costs that row. The audio is opened as the trainer will open it. Its length is what its track
declares; where it declares none, the file is decoded to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.annotate.manifest import known_labels
from operators.clip import Span, clip_id
from operators.errors import UserError
from operators.labelled.audio import Audio, Unusable, label_of, open_audio, span_of
from operators.labelled.manifest import is_manifest, read_rows
from operators.labelled.splits import split_of
from operators.shard import feature_frames
from operators.storage.base import S3Settings
from operators.storage.fetch import Fetch
from operators.storage.local import real_uri
from operators.storage.uri import split_member
from pipeline.config import SourceSettings
from pipeline.handoff.spool import SpoolNames, place_of_split
from pipeline.sources.files import SourceFile, read_sources
from stages.write_shard import label_length

_ROWS = 4096
_THREADS = 8


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A labelled set is a manifest, and the domain of those of its rows that name none."""

    path: str
    domain: str

    @staticmethod
    def parse(argument: str) -> LabelledSet:
        """Return the set that `FILE` or `FILE:domain` names. Raises UserError."""
        path, separator, domain = argument.rpartition(":")
        if separator and domain and "/" not in domain and is_manifest(path):
            return LabelledSet(path, domain)
        if not is_manifest(argument):
            raise UserError(
                f"--labelled {argument}: expected a manifest (.jsonl, .csv, .tsv, .parquet), with :domain or without"
            )
        return LabelledSet(argument, Path(argument).stem)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A skipped row is one that cannot be used."""

    manifest: str
    row: str
    """the audio it names, or its place in the manifest"""
    reason: str
    detail: str


def labelled_rows(
    labelled: LabelledSet, source: int, names: SpoolNames, s3: S3Settings, skipped: list[Skipped]
) -> Iterator[pa.RecordBatch]:
    """Yield the usable rows of a labelled set as batches of the spool; the others go to `skipped`.

    Raises UserError when the manifest cannot be read, or none of its rows can be used.
    """
    files = read_sources([SourceSettings(path=labelled.path, domain=labelled.domain)], s3)
    used = False
    before = len(skipped)
    with ThreadPoolExecutor(_THREADS) as pool:
        while chunk := list(islice(files, _ROWS)):
            distinct = list({(file.uri, file.member): file for file in chunk if _own_problem(file) is None}.values())
            opened = pool.map(lambda file: _open(file, s3), distinct)
            audio = {(file.uri, file.member): found for file, found in zip(distinct, opened, strict=True)}
            rows: list[dict[str, Any]] = []
            for file in chunk:
                try:
                    if problem := _own_problem(file):
                        raise Unusable(*problem)
                    rows.append(_row(file, audio[file.uri, file.member], source, names, labelled.path))
                except Unusable as error:
                    skipped.append(Skipped(labelled.path, file.uri, *error.args))
            if rows:
                used = True
                yield names.batch({name: [row[name] for row in rows] for name in rows[0]}, len(rows))
    if not used:
        first = skipped[before]
        raise UserError(
            f"no row of {labelled.path} can be used; the first, {first.row}: {first.reason} ({first.detail})"
        )


def check_splits(labelled: LabelledSet, s3: S3Settings) -> None:
    """Raise UserError for a row of a manifest that names an unknown split."""
    with Fetch(s3).fetch(labelled.path) as path:
        for number, row in read_rows(path, labelled.path):
            if isinstance(row, dict):
                split_of(row, f"{labelled.path}:{number}")


def named_domains(labelled: LabelledSet, s3: S3Settings) -> set[str]:
    """Return the domains that rows of a manifest name, good rows or not. Raises UserError."""
    with Fetch(s3).fetch(labelled.path) as path:
        rows = [row for _, row in read_rows(path, labelled.path) if isinstance(row, dict)]
    return {str(row["domain"]) for row in rows if row.get("domain") not in (None, "")}


def _own_problem(file: SourceFile) -> tuple[str, str] | None:
    # A uri or a recording that comes again is another stretch of it here.
    if file.problem is None or file.problem.reason == "duplicate":
        return None
    return file.problem.reason, file.problem.detail


def _open(file: SourceFile, s3: S3Settings) -> Audio | Unusable:
    """Place and length of a file's audio."""
    return open_audio(file.uri if file.member is None else split_member(file.uri)[0], file.member, s3)


def _row(file: SourceFile, audio: Audio | Unusable, source: int, names: SpoolNames, path: str) -> dict[str, Any]:
    if isinstance(audio, Unusable):
        raise audio
    record = file.provenance
    known = known_labels(record)
    label = label_of(record, known)
    span = span_of(record.get("start"), record.get("end"), audio.samples)
    # Without an id of its own a row is of the recording that its file is.
    recording = file.recording_id if file.named else file.uri
    whole = span == Span(0, audio.samples)
    frames = feature_frames(span.samples)
    if not frames:
        raise Unusable("too_short", f"{span.samples} samples")
    return {
        "clip_id": clip_id(real_uri(file.uri), span),
        "shard": audio.shard,
        "offset": audio.offset,
        "size": audio.size,
        "start_sample": None if whole else span.start,
        "end_sample": None if whole else span.end,
        "frames": frames,
        "label_tokens": label_length(label, file.language),
        "label": label,
        "domain": file.domain,
        "language": file.language,
        **{name: known.get(name) for name in ("age", "gender", "emotion", "style", "events", "speaker", "answer")},
        "recording_id": recording,
        "samples": span.samples,
        "source": source,
        "split": place_of_split(split_of(record, f"{path}, {file.uri}")),
        "recording": names.nodes.recording(recording, file.uri, known.get("speaker"), source),
    }


def skipped_lines(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """Return the skipped rows as the objects of skipped.jsonl."""
    return [
        {"manifest": each.manifest, "row": each.row, "reason": each.reason, "detail": each.detail} for each in skipped
    ]
