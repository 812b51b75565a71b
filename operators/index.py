"""The index of a split: what there is to know of each clip, in the one schema that everything behind the ledger shares.

    ledger of a unit ──its clip columns──┐
    plain tars ──────────────────────────┴─> Row ... ──write_index──> train.arrow (Arrow IPC, uncompressed)

`Row` declares the columns, once. An index file has them as they are (`INDEX_SCHEMA`), the hand-off's spool adds its own
to them (`coded_schema`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO, get_args, get_type_hints

import pyarrow as pa

from operators.clip import Word
from operators.storage import atomic

ROWS_PER_BATCH = 1 << 16
"""Keeps every batch's text below Arrow's 2 GiB for one string column."""

# The Python type of a value, and the Arrow type of its column.
_Text = Annotated[str, pa.string()]
_Int32 = Annotated[int, pa.int32()]
_Int64 = Annotated[int, pa.int64()]
_Float = Annotated[float, pa.float64()]
_Texts = Annotated[tuple[str, ...], pa.list_(pa.string())]
_Words = Annotated[tuple[Word, ...], pa.list_(pa.struct({"text": pa.string(), "start": pa.int32(), "end": pa.int32()}))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row holds what the index says of one clip. Its fields are the index's columns, in this order."""

    clip_id: _Text
    shard: _Text
    """URI of a tar, or of a plain audio file"""
    offset: _Int64
    """bytes of the audio inside it"""
    size: _Int64
    start_sample: _Int64 | None = None
    """at 16 kHz inside that audio; None: all of it"""
    end_sample: _Int64 | None = None
    frames: _Int32
    """10 ms feature frames (25 ms windows that fit)"""
    label_tokens: _Int32
    label: _Text
    domain: _Text
    language: _Text | None = None
    """None: unknown, here and below"""
    age: _Text | None = None
    gender: _Text | None = None
    emotion: _Text | None = None
    events: _Texts | None = None
    """(): known to have none"""
    recording_id: _Text = ""
    speaker: _Text | None = None
    style: _Text | None = None
    words: _Words | None = None
    """when each word is spoken, in samples from the start of the clip; a word of the label may be missing"""
    answer: _Text | None = None
    """what is said in return, where the clip is a question to an assistant"""
    snr_db: _Float | None = None
    """of the sound, as are the next three (operators/clip.py, Quality)"""
    bandwidth_hz: _Float | None = None
    clipped: _Float | None = None
    dnsmos_ovrl: _Float | None = None


CODED = ("shard", "domain", "language", "age", "gender", "emotion", "style")
"""Columns whose texts repeat: an index keeps each text once, in a dictionary."""

ADDED = ("style", "words", "answer", "snr_db", "bandwidth_hz", "clipped", "dnsmos_ovrl")
"""Columns that indexes from before they were written lack: a reader takes them for null."""


def _arrow_type(hint: Any) -> pa.DataType:
    """Return the Arrow type that a field is annotated with, alone or beside None."""
    return next(part.__metadata__[0] for part in (hint, *get_args(hint)) if hasattr(part, "__metadata__"))


_HINTS = get_type_hints(Row, include_extras=True)
CLIP_SCHEMA = pa.schema([(each.name, _arrow_type(_HINTS[each.name])) for each in fields(Row)])
"""The columns with their plain types."""


def coded_schema(kind: pa.DataType) -> pa.Schema:
    """Return the columns with `kind` as the type of those that are CODED."""
    return pa.schema([each.with_type(kind) if each.name in CODED else each for each in CLIP_SCHEMA])


INDEX_SCHEMA = coded_schema(pa.dictionary(pa.int32(), pa.string()))
"""The columns as a file of an index has them."""


def write_index(path: Path, rows: Iterable[Row]) -> int:
    """Write an index of these rows, in their order, and return how many they were. The file appears in one step."""
    batches: list[pa.RecordBatch] = []
    waiting: list[dict[str, Any]] = []

    def flush() -> None:
        if waiting:
            batches.append(pa.RecordBatch.from_pylist(waiting, schema=CLIP_SCHEMA))
            waiting.clear()

    for row in rows:
        record = {name: getattr(row, name) for name in CLIP_SCHEMA.names}
        waiting.append(record | {"words": None if row.words is None else [asdict(word) for word in row.words]})
        if len(waiting) == ROWS_PER_BATCH:
            flush()
    flush()
    # One cast over all batches gives all of them the same dictionaries, as the file format asks.
    table = pa.Table.from_batches(batches, CLIP_SCHEMA).cast(INDEX_SCHEMA).unify_dictionaries()

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, INDEX_SCHEMA) as writer:
            writer.write_table(table)

    atomic.replace(path, write)
    return table.num_rows


def row_of(record: Mapping[str, Any]) -> Row:
    """Return the row that a record of an index's columns says. Columns of ADDED may be missing."""
    values: dict[str, Any] = {
        name: "" if value is None and name in _NEVER_NULL else value for name, value in record.items()
    }
    for name in ("events", "words"):
        if values.get(name) is not None:
            values[name] = tuple(Word(**each) if name == "words" else each for each in values[name])
    return Row(**values)


_NEVER_NULL = ("clip_id", "label", "recording_id")
"""Columns whose null means empty."""
