"""The shard and its ledger: what one finished unit looks like on disk, and how to write and read it.

    <unit>.tar       kept clips only, WebDataset form: <clip_id>.flac, <clip_id>.txt, <clip_id>.json
    <unit>.parquet   the ledger: every stretch of every piece of the unit, kept or not; its presence means "done"

    Unit ──unit_rows──> rows that tile the input ──write_tar──> tar, rows with their place in it ──ledger_bytes──>
    Parquet

The ledger's rows tile the pieces of the unit: each sample of input is in exactly one row, so accounting is a sum over
rows. Both files are functions of the unit alone: fixed order, fixed times, no clock, so whoever does a unit again
writes the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from operators.clip import (
    SAMPLE_RATE,
    Attributes,
    Clip,
    Hypothesis,
    NamedOpinion,
    Quality,
    Recording,
    Rejection,
    Span,
    Unit,
    pcm_bytes,
)
from operators.index import CLIP_SCHEMA

SCHEMA_VERSION = 3
"""2: `numbers_agree`, and how a hypothesis was heard. 3: what Annotate found; in a shard's record nothing is null and
`provenance` is JSON text, and a unit that kept nothing has no tar. Ledgers and shards of schemas 1 and 2 are read too.
"""

LedgerRow = dict[str, Any]
"""One row of a ledger by column name."""

CLIP_COLUMNS = {
    **{name: name for name in ("clip_id", "recording_id", "domain", "language", "label", "frames", "label_tokens")},
    "offset": "tar_offset",
    "size": "tar_size",
    **{name: name for name in ("age", "gender", "emotion", "style", "events", "speaker", "words")},
    **{name: name for name in ("snr_db", "bandwidth_hz", "clipped", "dnsmos_ovrl")},
}
"""Columns of a clip's row (operators/index.py) that a ledger has too, and what the ledger calls them."""


def _clip_column(name: str) -> pa.Field:
    return CLIP_SCHEMA.field(name).with_name(CLIP_COLUMNS[name])


OUTCOMES = ("kept", "rejected", "non_speech", "unreadable")

_HYPOTHESIS = pa.struct(
    [
        ("engine", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("language_prob", pa.float64()),
        ("avg_logprob", pa.float64()),
        # how the clip was heard; null for engines that hear clips alone, and in ledgers from before they were written
        ("window", pa.int32()),
        ("retaken", pa.bool_()),
        # where the recording's majority overruled a clip: null otherwise, and in ledgers from before it did
        ("identified_language", pa.string()),
        ("identified_prob", pa.float64()),
        # what SenseVoice and its kin write besides words
        ("tags", pa.list_(pa.string())),
    ]
)
_OPINION = pa.struct(
    [
        ("annotator", pa.string()),
        ("kind", pa.string()),  # one of KINDS
        ("labels", pa.list_(pa.string())),
        ("score", pa.float64()),
    ]
)
_LEDGER_ONLY = ("window", "retaken", "identified_language", "identified_prob", "tags")
"""Fields of a hypothesis that say how it came to be; a shard's record holds what was heard."""

LEDGER_SCHEMA = pa.schema(
    [
        ("unit_id", pa.string()),
        _clip_column("domain"),
        _clip_column("recording_id"),
        ("uri", pa.string()),
        ("start", pa.int64()),  # samples at 16 kHz from the start of the recording, half-open
        ("end", pa.int64()),
        ("outcome", pa.string()),  # one of OUTCOMES
        ("stage", pa.string()),  # of a rejected or unreadable row: who decided ...
        ("reason", pa.string()),  # ... why, from a closed list ...
        ("detail", pa.string()),  # ... and more for a reader
        # the rest is set on clips only (kept and rejected rows)
        _clip_column("clip_id"),
        ("speech_samples", pa.int64()),
        ("content_hash", pa.string()),  # of the clip's PCM
        _clip_column("language"),
        ("hypotheses", pa.list_(_HYPOTHESIS)),  # the ASR first, then the copilots
        ("asr_norm", pa.string()),  # spoken forms that were compared
        ("copilot_norm", pa.string()),
        ("reference", pa.string()),  # "asr" or "copilot"
        ("wer", pa.float64()),  # percent
        ("per", pa.float64()),
        ("tokens_per_second", pa.float64()),
        ("numbers_agree", pa.bool_()),
        # clips that came to Annotate, kept or rejected there
        ("opinions", pa.list_(_OPINION)),  # null: nobody was asked
        ("agreed_language", pa.string()),  # a language or dialect that annotators or the manifest name
        *map(_clip_column, ("age", "gender", "emotion", "style", "events")),  # agreed, or the manifest's; null: unknown
        *map(_clip_column, ("snr_db", "bandwidth_hz", "clipped")),
        ("dnsmos_sig", pa.float64()),
        ("dnsmos_bak", pa.float64()),
        _clip_column("dnsmos_ovrl"),
        _clip_column("speaker"),
        ("overlap", pa.float64()),  # share in which more than one speaks
        _clip_column("words"),
        # kept clips only
        _clip_column("label"),
        _clip_column("offset"),  # of the audio member's data in the tar, in bytes
        _clip_column("size"),
        _clip_column("frames"),
        _clip_column("label_tokens"),
        ("provenance", pa.string()),  # JSON object: the manifest's other columns, as given
    ]
)

ANNOTATED = LEDGER_SCHEMA.names[LEDGER_SCHEMA.get_field_index("opinions") : LEDGER_SCHEMA.get_field_index("words") + 1]
"""Columns of what Annotate found."""

_ADDED = ("numbers_agree", *ANNOTATED)
"""Columns that ledgers of schema 1 do not have, all but the first those of schema 2 neither."""


def feature_frames(samples: int) -> int:
    """Return how many 25 ms windows, 10 ms apart, fit into `samples` (Kaldi's snip_edges)."""
    window, shift = SAMPLE_RATE * 25 // 1000, SAMPLE_RATE * 10 // 1000
    return 0 if samples < window else 1 + (samples - window) // shift


def content_hash(pcm: np.ndarray) -> str:
    """Name of a clip's audio content: equal for equal int16 samples, whatever file they came from."""
    return hashlib.sha256(pcm_bytes(pcm)).hexdigest()[:32]


def decode_member(data: bytes) -> np.ndarray:
    """Return int16 [samples], 16 kHz mono, of a shard's audio member, as a reader of the shard hears it.

    Raises ValueError when it is no such audio.
    """
    try:
        pcm, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"the audio cannot be decoded ({error})") from error
    if rate != SAMPLE_RATE or pcm.ndim != 1:
        raise ValueError(f"the audio is not {SAMPLE_RATE} Hz mono: {rate} Hz, {pcm.ndim} dimension(s)")
    return pcm


def clip_language(clip: Clip) -> str | None:
    """The language of a clip is what the ASR called it, None before that."""
    return clip.hypotheses[0].language if clip.hypotheses else None


def unit_rows(unit: Unit) -> list[LedgerRow]:
    """Return all that became of the unit, one row per clip or stretch, in plan order and then in time. Places in the
    tar come later.
    """
    order = {piece.recording.recording_id: index for index, piece in reversed(list(enumerate(unit.pieces)))}
    # Of pieces with one id only that without a problem was read: what was heard is its own, whichever uri comes first.
    read = {piece.recording.recording_id: piece.recording for piece in unit.pieces if piece.problem is None}
    refused = {
        (piece.recording.recording_id, piece.recording.uri, piece.problem): piece.recording
        for piece in reversed(unit.pieces)
        if piece.problem is not None
    }
    keyed: list[tuple[tuple[int, int, int], LedgerRow]] = []

    def add(recording: Recording, span: Span, outcome: str, rejection: Rejection | None, more: LedgerRow) -> None:
        row: LedgerRow = dict.fromkeys(LEDGER_SCHEMA.names)
        row |= {
            "unit_id": unit.unit_id,
            "domain": clean(unit.domain),
            "recording_id": clean(recording.recording_id),
            "uri": clean(recording.uri),
            "start": span.start,
            "end": span.end,
            "outcome": outcome,
            "provenance": clean(json.dumps(recording.provenance, ensure_ascii=False, sort_keys=True))
            if recording.provenance
            else None,
        }
        keyed.append(((order[recording.recording_id], span.start, span.end), row | rejection_columns(rejection) | more))

    for stretch in unit.stretches:
        key = (stretch.recording_id, stretch.uri or "", stretch.rejection)
        recording = refused[key] if key in refused else read[stretch.recording_id]
        add(recording, stretch.span, stretch.outcome, stretch.rejection, {})
    for clip, pcm in zip(unit.clips, unit.clip_audio(), strict=True):
        if clip.verdict is None:
            raise ValueError(f"{clip.clip_id} reached the ledger without a verdict")
        columns: LedgerRow = {
            "clip_id": clip.clip_id,
            "speech_samples": clip.speech_samples,
            "content_hash": content_hash(pcm),
            "language": clip_language(clip),
            "hypotheses": [_hypothesis_column(hypothesis) for hypothesis in clip.hypotheses],
            "label": clean(clip.verdict.label) if clip.verdict.label is not None else None,
        }
        if clip.agreement is not None:
            columns |= asdict(clip.agreement)
        columns |= annotation_columns(clip)
        add(
            read[clip.recording_id],
            clip.span,
            "kept" if clip.verdict.kept else "rejected",
            clip.verdict.rejection,
            columns,
        )
    return [row for _, row in sorted(keyed, key=lambda item: item[0])]


def rejection_columns(rejection: Rejection | None) -> LedgerRow:
    if rejection is None:
        return {"stage": None, "reason": None, "detail": None}
    return {"stage": rejection.stage, "reason": rejection.reason, "detail": clean(rejection.detail) or None}


def _hypothesis_column(hypothesis: Hypothesis) -> dict[str, Any]:
    tags = None if hypothesis.tags is None else [clean(tag) for tag in hypothesis.tags]
    return asdict(hypothesis) | {"text": clean(hypothesis.text), "tags": tags}


def hypotheses_of(row: LedgerRow) -> tuple[Hypothesis, ...]:
    """Return what the engines heard of a clip, from its row."""
    return tuple(
        Hypothesis(**heard | {"tags": None if heard["tags"] is None else tuple(heard["tags"])})
        for heard in row["hypotheses"]
    )


def annotation_columns(clip: Clip) -> LedgerRow:
    """Return the columns of what Annotate found of a clip, all null where it was never asked."""
    if clip.attributes is None:
        return dict.fromkeys(ANNOTATED)
    words = clip.words
    opinions = [asdict(said) | {"labels": [clean(label) for label in said.labels]} for said in clip.opinions]
    return {
        "opinions": opinions,
        **agreed_columns(clip.attributes),
        **asdict(clip.quality or Quality()),
        "speaker": _cleaned(clip.speaker),
        "overlap": clip.overlap,
        "words": None if words is None else [asdict(word) | {"text": clean(word.text)} for word in words],
    }


def opinions_of(row: LedgerRow) -> tuple[NamedOpinion, ...]:
    """Return what annotators said of a clip, from its row; () where nobody was asked."""
    return tuple(NamedOpinion(**each | {"labels": tuple(each["labels"])}) for each in row["opinions"] or ())


def agreed_columns(agreed: Attributes) -> LedgerRow:
    """Return the columns of what was agreed of a clip."""
    return {
        "agreed_language": _cleaned(agreed.language),
        **{kind: _cleaned(getattr(agreed, kind)) for kind in ("age", "gender", "emotion", "style")},
        "events": None if agreed.events is None else [clean(event) for event in agreed.events],
    }


def quality_of(row: LedgerRow) -> Quality:
    """Return what was measured of a clip's sound, from its row."""
    return Quality(**{name: row[name] for name in Quality.__dataclass_fields__})


def sample_record(row: LedgerRow) -> dict[str, Any]:
    """Return the `.json` member of a kept clip. What is unknown is absent, never guessed.

    A loader that infers one type for each key from the first clips meets no null and no empty list, which would have
    another type than what comes later: `provenance` and `opinions`, which hold anything, are text that holds JSON, and
    a clip that is known to have no events says `no_events`.
    """
    heard = [
        {name: value for name, value in each.items() if name not in _LEDGER_ONLY and value is not None}
        for each in row["hypotheses"]
    ]
    found = {name: row[name] for name in ANNOTATED if row[name] is not None}
    if "agreed_language" in found:
        found["language"] = found.pop("agreed_language")
    if "opinions" in found:
        found["opinions"] = json.dumps(found["opinions"], ensure_ascii=False, sort_keys=True)
    if found.get("events") == []:
        found["no_events"] = True
    record = (
        {name: row[name] for name in _OF_EVERY_SAMPLE}
        | {
            "hypotheses": heard,
            "schema_version": SCHEMA_VERSION,
            "duration": (row["end"] - row["start"]) / SAMPLE_RATE,
            "provenance": row["provenance"] or "{}",
        }
        | found
    )
    return {name: value for name, value in record.items() if value is not None and value != []}


_OF_EVERY_SAMPLE = "clip_id", "domain", "language", "uri", "recording_id", "start", "end", "wer", "per", "reference"


def write_tar(
    rows: list[LedgerRow],
    audio: Callable[[LedgerRow], bytes],
    extension: str,
    count_tokens: Callable[[str, str | None], int],
) -> tuple[bytes, list[LedgerRow]]:
    """Return the shard of a unit's rows, and the rows with the place of every kept clip filled in.

    `audio(row)` gives a kept clip encoded in the format that `extension` names. `count_tokens(label, language)` gives
    the label's length in tokens, which lets a trainer plan batches without opening a tar.
    """
    from webdataset import TarWriter  # it draws in torch, for which no --help should wait

    buffer = io.BytesIO()
    # The same unit gives the same bytes: no clock, no owner. An mtime of type float would get a header of its own.
    with TarWriter(buffer, user="", group="", mode=0o644, mtime=0, compress=False, encoder=False) as tar:
        for row in rows:
            if row["outcome"] == "kept":
                record = json.dumps(sample_record(row), ensure_ascii=False, sort_keys=True)
                members = {extension: audio(row), "json": _utf8(record), "txt": _utf8(row["label"])}
                tar.write({"__key__": row["clip_id"], **members})
    data = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as written:
        places = {member.name: (member.offset_data, member.size) for member in written}
    placed: list[LedgerRow] = []
    for row in rows:
        if row["outcome"] != "kept":
            placed.append(row | dict.fromkeys(("label", "tar_offset", "tar_size", "frames", "label_tokens")))
            continue
        offset, size = places[f"{row['clip_id']}.{extension}"]
        frames, label_tokens = feature_frames(row["end"] - row["start"]), count_tokens(row["label"], row["language"])
        placed.append(row | {"tar_offset": offset, "tar_size": size, "frames": frames, "label_tokens": label_tokens})
    return data, placed


def _utf8(text: str) -> bytes:
    # File names from a crawl may hold bytes that are no UTF-8; surrogates must not stop a shard from being written.
    return text.encode("utf-8", "backslashreplace")


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of a file name that were no UTF-8 become visible escapes."""
    return _utf8(text).decode("utf-8")


def _cleaned(text: str | None) -> str | None:
    return None if text is None else clean(text)


def ledger_bytes(rows: list[LedgerRow], metadata: dict[str, str]) -> bytes:
    """Return a ledger as Parquet; `metadata` (unit, settings fingerprint, the tar's size and checksum) goes into the
    file's own.

    Its pages carry checksums, so that a flipped bit is an error and not another label.
    """
    named = {f"touchasp.{key}": value for key, value in metadata.items()} | {
        "touchasp.schema_version": str(SCHEMA_VERSION)
    }
    table = pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA).replace_schema_metadata(named)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def read_ledger(data: bytes, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, str]]:
    """Return a ledger's rows, or some columns of them, and its metadata.

    What an earlier schema did not have is null. Raises ValueError when it was written by a newer schema.
    """
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    raw = file.schema_arrow.metadata or {}
    prefix = "touchasp."
    metadata = {
        key.decode()[len(prefix) :]: value.decode() for key, value in raw.items() if key.decode().startswith(prefix)
    }
    if int(metadata.get("schema_version", 0)) > SCHEMA_VERSION:
        raise ValueError(f"this ledger has schema {metadata['schema_version']}, newer than {SCHEMA_VERSION}")
    names = LEDGER_SCHEMA.names if columns is None else list(columns)
    table = file.read(columns=[name for name in names if name not in _ADDED or name in file.schema_arrow.names])
    for at, name in enumerate(names):
        if name in _ADDED and name not in table.column_names:
            table = table.add_column(
                at, LEDGER_SCHEMA.field(name), pa.nulls(len(table), LEDGER_SCHEMA.field(name).type)
            )
    return table.cast(pa.schema([LEDGER_SCHEMA.field(name) for name in names])), metadata
