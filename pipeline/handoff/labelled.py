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
from operators.audio.decode import AudioError, audio_length, probe
from operators.clip import SAMPLE_RATE, Span, clip_id
from operators.errors import UserError
from operators.shard import feature_frames
from operators.storage.base import AccessRefused, S3Settings
from operators.storage.fetch import Fetch, RangedFile, locate
from operators.storage.local import real_uri
from operators.storage.uri import split_member
from pipeline.config import SourceSettings
from pipeline.handoff.spool import SpoolNames
from pipeline.sources.files import SourceFile, read_sources
from pipeline.sources.manifest import is_manifest, read_rows
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


@dataclass(frozen=True, slots=True)
class _Audio:
    """Where the audio of a row lies, and how much there is of it."""

    shard: str
    offset: int
    size: int
    samples: int
    """at 16 kHz"""


class _Unusable(Exception):
    """(reason, detail) of a row that is skipped."""


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
                        raise _Unusable(*problem)
                    rows.append(_row(file, audio[file.uri, file.member], source, names))
                except _Unusable as error:
                    skipped.append(Skipped(labelled.path, file.uri, *error.args))
            if rows:
                used = True
                yield names.batch({name: [row[name] for row in rows] for name in rows[0]}, len(rows))
    if not used:
        first = skipped[before]
        raise UserError(
            f"no row of {labelled.path} can be used; the first, {first.row}: {first.reason} ({first.detail})"
        )


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


def _open(file: SourceFile, s3: S3Settings) -> _Audio | _Unusable:
    """Place and length of a file's audio."""
    place = file.uri if file.member is None else split_member(file.uri)[0]
    try:
        store, key = locate(place, s3)
        offset, size = file.member or (0, store.size(key))
        audio: Any = RangedFile(store, key, offset, size)
        samples = probe(audio).declared_samples or audio_length(audio)
    except FileNotFoundError:
        return _Unusable("missing", "there is no such file")
    except AccessRefused as error:
        return _Unusable("permission", str(error))
    except AudioError as error:
        return _Unusable(error.reason, error.detail)
    return _Audio(place, offset, size, samples)


def _row(file: SourceFile, audio: _Audio | _Unusable, source: int, names: SpoolNames) -> dict[str, Any]:
    if isinstance(audio, _Unusable):
        raise audio
    record = file.provenance
    known = known_labels(record)
    text = record.get("text")
    label = " ".join(text.split()) if isinstance(text, str) else ""
    if not label and not known.get("events"):
        raise _Unusable("no_text", "a row needs 'text', or 'events' without speech")
    span = _span(record.get("start"), record.get("end"), audio.samples)
    # Without an id of its own a row is of the recording that its file is.
    recording = file.recording_id if file.named else file.uri
    whole = span == Span(0, audio.samples)
    frames = feature_frames(span.samples)
    if not frames:
        raise _Unusable("too_short", f"{span.samples} samples")
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
        "recording": names.nodes.recording(recording, file.uri, known.get("speaker"), source),
    }


def _span(start: Any, end: Any, samples: int) -> Span:
    """Seconds as samples at 16 kHz; None is the file's own start or end."""
    try:
        first = 0 if start in (None, "") else round(float(start) * SAMPLE_RATE)
        last = samples if end in (None, "") else round(float(end) * SAMPLE_RATE)
    except (TypeError, ValueError, OverflowError) as error:
        raise _Unusable("bad_span", f"start {start!r} and end {end!r} are not seconds") from error
    # Times written to two decimals may point a little past the end.
    if last > samples + SAMPLE_RATE // 10 or first < 0 or first >= last:
        raise _Unusable("bad_span", f"{start!r} to {end!r} s of a file of {samples / SAMPLE_RATE:.2f} s")
    return Span(first, min(last, samples))


def skipped_lines(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """Return the skipped rows as the objects of skipped.jsonl."""
    return [
        {"manifest": each.manifest, "row": each.row, "reason": each.reason, "detail": each.detail} for each in skipped
    ]
