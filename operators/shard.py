"""The shard and its ledger: what one finished unit looks like on disk, and how to write and read it.

    <unit>.tar       kept clips only, WebDataset form: <clip_id>.flac, <clip_id>.txt, <clip_id>.json
    <unit>.parquet   the ledger: every stretch of every piece of the unit, kept or not; its presence means "done"

    Unit ──write_tar──> tar bytes + where each clip lies ──ledger_table──> rows that tile the input ──ledger_bytes──> Parquet

The ledger's rows tile the pieces of the unit: each sample of input is in exactly one row, so accounting is a sum over rows.
Both files are functions of the unit alone: fixed order, fixed times, no clock, so whoever does a unit again writes the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.clip import SAMPLE_RATE, Clip, Recording, Rejection, Stretch, Unit, pcm_bytes

SCHEMA_VERSION = 1

OUTCOMES = ("kept", "rejected", "non_speech", "unreadable")

_HYPOTHESIS = pa.struct(
    [
        ("engine", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("language_prob", pa.float64()),
        ("avg_logprob", pa.float64()),
    ]
)

LEDGER_SCHEMA = pa.schema(
    [
        ("unit_id", pa.string()),
        ("domain", pa.string()),
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("start", pa.int64()),  # samples at 16 kHz from the start of the recording, half-open
        ("end", pa.int64()),
        ("outcome", pa.string()),  # one of OUTCOMES
        ("stage", pa.string()),  # of a rejected or unreadable row: who decided ...
        ("reason", pa.string()),  # ... why, from a closed list ...
        ("detail", pa.string()),  # ... and more for a reader
        # the rest is set on clips only (kept and rejected rows)
        ("clip_id", pa.string()),
        ("speech_samples", pa.int64()),
        ("content_hash", pa.string()),  # of the clip's PCM
        ("language", pa.string()),
        ("hypotheses", pa.list_(_HYPOTHESIS)),  # the ASR first, then the copilots
        ("asr_norm", pa.string()),  # spoken forms that were compared
        ("copilot_norm", pa.string()),
        ("reference", pa.string()),  # "asr" or "copilot"
        ("wer", pa.float64()),  # percent
        ("per", pa.float64()),
        ("tokens_per_second", pa.float64()),
        # kept clips only
        ("label", pa.string()),
        ("tar_offset", pa.int64()),  # of the audio member's data in the tar, in bytes
        ("tar_size", pa.int64()),
        ("frames", pa.int32()),  # 10 ms feature frames (25 ms windows that fit)
        ("label_tokens", pa.int32()),
        ("provenance", pa.string()),  # JSON object: the manifest's other columns, as given
    ]
)


def feature_frames(samples: int) -> int:
    """How many 25 ms windows, 10 ms apart, fit into `samples` (Kaldi's snip_edges)."""
    window, shift = SAMPLE_RATE * 25 // 1000, SAMPLE_RATE * 10 // 1000
    return 0 if samples < window else 1 + (samples - window) // shift


def content_hash(pcm: np.ndarray) -> str:
    """Name of a clip's audio content: equal for equal int16 samples, whatever file they came from."""
    return hashlib.sha256(pcm_bytes(pcm)).hexdigest()[:32]


def clip_record(clip: Clip, recording: Recording) -> dict[str, Any]:
    """The `.json` member of a kept clip. Attributes (age, gender, emotion, events) are absent when unknown, never guessed."""
    agreement = clip.agreement
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "clip_id": clip.clip_id,
        "domain": recording.domain,
        "language": clip_language(clip),
        "duration": clip.span.seconds,
        "uri": recording.uri,
        "recording_id": recording.recording_id,
        "start": clip.span.start,
        "end": clip.span.end,
        "hypotheses": [asdict(hypothesis) for hypothesis in clip.hypotheses],
        "provenance": recording.provenance,
    }
    if agreement is not None:
        record |= {"wer": agreement.wer, "per": agreement.per, "reference": agreement.reference}
    return record


def clip_language(clip: Clip) -> str | None:
    """The language of a clip is what the ASR called it, None before that."""
    return clip.hypotheses[0].language if clip.hypotheses else None


def write_tar(unit: Unit, encode: Callable[[np.ndarray], bytes], extension: str) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The unit's shard, and for each kept clip (offset, size) in bytes of its audio member.

    `encode` maps int16 PCM to a file in the format `extension` names, the same bytes for the same samples.
    """
    recordings = {piece.recording.recording_id: piece.recording for piece in unit.pieces}
    places: dict[str, tuple[int, int]] = {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for clip, pcm in zip(unit.clips, unit.clip_audio(), strict=True):
            if clip.verdict is None or not clip.verdict.kept:
                continue
            audio = encode(pcm)
            record = json.dumps(clip_record(clip, recordings[clip.recording_id]), ensure_ascii=False, sort_keys=True)
            for suffix, data in ((extension, audio), ("json", _utf8(record)), ("txt", _utf8(clip.verdict.label or ""))):
                info = tarfile.TarInfo(f"{clip.clip_id}.{suffix}")
                info.size, info.mode = len(data), 0o644  # mtime, owner and group stay at their zero defaults
                if suffix == extension:
                    places[clip.clip_id] = (buffer.tell() + tarfile.BLOCKSIZE, len(data))
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue(), places


def _utf8(text: str) -> bytes:
    # File names from a crawl may hold bytes that are no UTF-8; surrogates must not stop a shard from being written.
    return text.encode("utf-8", "backslashreplace")


def ledger_table(
    unit: Unit, places: dict[str, tuple[int, int]], count_tokens: Callable[[str, str | None], int]
) -> pa.Table:
    """All that became of the unit, one row per clip or stretch, in plan order and then in time.

    `count_tokens(label, language)` gives the label's length in tokens, which lets a trainer plan batches without opening a tar.
    """
    order = {piece.recording.recording_id: index for index, piece in enumerate(unit.pieces)}
    recordings = {piece.recording.recording_id: piece.recording for piece in unit.pieces}
    rows: list[tuple[tuple[int, int, int], dict[str, Any]]] = []

    def base(recording: Recording, start: int, end: int, outcome: str, rejection: Rejection | None) -> dict[str, Any]:
        return {
            "unit_id": unit.unit_id,
            "domain": unit.domain,
            "recording_id": clean(recording.recording_id),
            "uri": clean(recording.uri),
            "start": start,
            "end": end,
            "outcome": outcome,
            "stage": rejection.stage if rejection else None,
            "reason": rejection.reason if rejection else None,
            "detail": clean(rejection.detail) if rejection and rejection.detail else None,
            "provenance": json.dumps(recording.provenance, ensure_ascii=False, sort_keys=True) if recording.provenance else None,
        }

    for stretch in unit.stretches:
        recording = recordings[stretch.recording_id]
        row = base(recording, stretch.span.start, stretch.span.end, stretch.outcome, stretch.rejection)
        rows.append(((order[stretch.recording_id], stretch.span.start, stretch.span.end), row))
    for clip, pcm in zip(unit.clips, unit.clip_audio(), strict=True):
        if clip.verdict is None:
            raise ValueError(f"{clip.clip_id} reached the ledger without a verdict")
        outcome = "kept" if clip.verdict.kept else "rejected"
        row = base(recordings[clip.recording_id], clip.span.start, clip.span.end, outcome, clip.verdict.rejection)
        row |= _clip_columns(clip, pcm, places, count_tokens)
        rows.append(((order[clip.recording_id], clip.span.start, clip.span.end), row))
    rows.sort(key=lambda item: item[0])
    return pa.Table.from_pylist([row for _, row in rows], schema=LEDGER_SCHEMA)


def _clip_columns(
    clip: Clip,
    pcm: np.ndarray,
    places: dict[str, tuple[int, int]],
    count_tokens: Callable[[str, str | None], int],
) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "speech_samples": clip.speech_samples,
        "content_hash": content_hash(pcm),
        "language": clip_language(clip),
        "hypotheses": [asdict(hypothesis) | {"text": clean(hypothesis.text)} for hypothesis in clip.hypotheses],
    }
    if clip.agreement is not None:
        columns |= asdict(clip.agreement)
    if clip.verdict is not None and clip.verdict.label is not None:
        offset, size = places[clip.clip_id]
        columns |= {
            "label": clean(clip.verdict.label),
            "tar_offset": offset,
            "tar_size": size,
            "frames": feature_frames(clip.span.samples),
            "label_tokens": count_tokens(clip.verdict.label, clip_language(clip)),
        }
    return columns


def clean(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file name that were no UTF-8 become visible escapes."""
    return _utf8(text).decode("utf-8")


def ledger_bytes(table: pa.Table, metadata: dict[str, str]) -> bytes:
    """A ledger as Parquet; `metadata` (unit, settings fingerprint, the tar's size and checksum) goes into the file's own."""
    named = {f"touchasp.{key}": value for key, value in metadata.items()} | {"touchasp.schema_version": str(SCHEMA_VERSION)}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(named), sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def read_ledger(data: bytes) -> tuple[pa.Table, dict[str, str]]:
    """A ledger's rows and metadata. Raises ValueError when it was written by a newer schema."""
    file = pq.ParquetFile(io.BytesIO(data))
    raw = file.schema_arrow.metadata or {}
    prefix = "touchasp."
    metadata = {key.decode()[len(prefix) :]: value.decode() for key, value in raw.items() if key.decode().startswith(prefix)}
    if int(metadata.get("schema_version", 0)) > SCHEMA_VERSION:
        raise ValueError(f"this ledger has schema {metadata['schema_version']}, newer than {SCHEMA_VERSION}")
    return file.read().cast(LEDGER_SCHEMA), metadata


def stretches_of(rows: pa.Table) -> list[Stretch]:
    """The rows of a ledger that hold no clip, as records."""
    from operators.clip import Span

    return [
        Stretch(
            recording_id=row["recording_id"],
            span=Span(row["start"], row["end"]),
            outcome=row["outcome"],
            rejection=Rejection(stage=row["stage"], reason=row["reason"], detail=row["detail"] or "") if row["reason"] else None,
        )
        for row in rows.to_pylist()
        if row["clip_id"] is None
    ]
