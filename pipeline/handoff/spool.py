"""Clips of runs and of labelled sets in one table on scratch: what is deduplicated, split and written as an index.

    rows of units and labelled sets ──SpoolNames.batch──> Spool: an Arrow file, names as codes
    Spool ──memory-mapped──> columns, batches

A million clips are some hundred megabytes of file and little memory: nothing here is a Python object per clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from operators.index import CODED, coded_schema
from operators.names import Names
from operators.shard import LEDGER_SCHEMA
from operators.split import SPLITS, NodeTable

SPOOL_SCHEMA = pa.schema(
    [
        *coded_schema(pa.int32()),
        LEDGER_SCHEMA.field("content_hash"),  # null: not known
        ("samples", pa.int64()),
        ("source", pa.int32()),  # run or labelled set, in the order given
        ("recording", pa.int32()),  # node of the recording in SpoolNames `nodes`
        ("split", pa.int8()),  # place in SPLITS that the manifest gives the clip; -1: none
    ]
)
"""The columns of the index, and five of the hand-off alone."""


def place_of_split(name: str | None) -> int:
    """Return the place of a split in SPLITS, -1 for none."""
    return -1 if name is None else SPLITS.index(name)


@dataclass(frozen=True, slots=True)
class SpoolNames:
    """The names behind the codes of a spool."""

    coded: dict[str, Names] = field(default_factory=lambda: {name: Names() for name in CODED})
    nodes: NodeTable = field(default_factory=NodeTable)

    def batch(self, columns: Mapping[str, Any], rows: int) -> pa.RecordBatch:
        """Return a batch of the spool from columns of texts and numbers.

        A value that is no column is that of every row.
        """
        arrays = []
        for own in SPOOL_SCHEMA:
            value = columns.get(own.name)
            if not isinstance(value, pa.Array | pa.ChunkedArray):
                plain = pa.string() if own.name in CODED else own.type
                value = pa.array(value, plain) if isinstance(value, list) else pa.repeat(pa.scalar(value, plain), rows)
            if own.name in CODED:
                value = self.coded[own.name].codes(value)
            value = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value
            arrays.append(value.cast(own.type))
        return pa.record_batch(arrays, schema=SPOOL_SCHEMA)


class Spool:
    """The rows lie on scratch: written once, batch by batch, then memory-mapped."""

    def __init__(self, path: Path, batches: Iterable[pa.RecordBatch]) -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SPOOL_SCHEMA) as writer:
            for batch in batches:
                if batch.num_rows:
                    writer.write_batch(batch)
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        for number in range(self._file.num_record_batches):
            yield self._file.get_batch(number)

    def numbers(self, column: str) -> np.ndarray:
        """Return one integer column without nulls."""
        parts = [batch.column(column).to_numpy() for batch in self.batches()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def texts(self, column: str, rows: np.ndarray) -> list[str | None]:
        """Return a column's texts at ascending `rows`."""
        found: list[str | None] = []
        start = 0
        for batch in self.batches():
            low, high = np.searchsorted(rows, [start, start + batch.num_rows])
            if low < high:
                found += batch.column(column).take(pa.array(rows[low:high] - start)).to_pylist()
            start += batch.num_rows
        return found
