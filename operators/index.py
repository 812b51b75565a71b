"""The index of a split: what there is to know of each clip, in the one schema that everything behind the ledger shares.

    ledger of a unit ──its clip columns──┐
    plain tars ──────────────────────────┴─> Row ... ──write_index──> train.arrow (Arrow IPC, uncompressed)

`Row` declares the columns, once. An index file has them as they are (`INDEX_SCHEMA`), the hand-off's spool adds its own
to them (`coded_schema`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO, get_args, get_type_hints

import pyarrow as pa

from operators.storage import atomic

ROWS_PER_BATCH = 1 << 16
"""Keeps every batch's text below Arrow's 2 GiB for one string column."""

# The Python type of a value, and the Arrow type of its column.
_Text = Annotated[str, pa.string()]
_Int32 = Annotated[int, pa.int32()]
_Int64 = Annotated[int, pa.int64()]
_Texts = Annotated[tuple[str, ...], pa.list_(pa.string())]


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


CODED = ("shard", "domain", "language", "age", "gender", "emotion")
"""Columns whose texts repeat: an index keeps each text once, in a dictionary."""


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
        waiting.append({name: getattr(row, name) for name in CLIP_SCHEMA.names})
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
