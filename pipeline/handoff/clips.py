"""Clips of runs and of labelled sets in one table on scratch: what the hand-off sifts, splits and writes as an index.

    KeptUnit ──unit_rows──┐
                          ├──> Spool: an Arrow file, names as codes ──memory-mapped──> columns, batches
    labelled rows ────────┘

A million clips are some hundred megabytes of file and little memory: nothing here is a Python object per clip.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.storage.uri import path_to_uri, scheme, split_member, uri_to_path
from pipeline.handoff.shards import KeptUnit

CODED = ("shard", "domain", "language", "age", "gender", "emotion")
"""Columns whose texts repeat: int32 codes here, dictionaries in the index."""

SPOOL_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("start_sample", pa.int64()),
        ("end_sample", pa.int64()),
        ("frames", pa.int32()),
        ("label_tokens", pa.int32()),
        ("label", pa.string()),
        ("domain", pa.int32()),
        ("language", pa.int32()),
        ("age", pa.int32()),
        ("gender", pa.int32()),
        ("emotion", pa.int32()),
        ("events", pa.list_(pa.string())),
        ("recording_id", pa.string()),
        ("speaker", pa.string()),
        # of the hand-off alone
        ("content_hash", pa.string()),  # null: not known
        ("samples", pa.int64()),
        ("source", pa.int32()),  # run or labelled set, in the order given
        ("recording", pa.int32()),  # node of the recording in Names `nodes`
    ]
)


class Names:
    """Texts and their codes, in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def code(self, name: str) -> int:
        return self._codes.setdefault(name, len(self._codes))

    def codes(self, column: pa.ChunkedArray | pa.Array) -> pa.Array:
        """int32 codes of a column of texts; null stays null."""
        encoded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
        own = pa.array([self.code(name) for name in encoded.dictionary.to_pylist()], pa.int32())
        return own.take(encoded.indices)

    def array(self) -> pa.Array:
        return pa.array(list(self._codes), pa.string())


@dataclass(frozen=True, slots=True)
class Gathered:
    """The names behind the codes of a spool. Nodes are recordings, their uris and speakers."""

    coded: dict[str, Names] = field(default_factory=lambda: {name: Names() for name in CODED})
    nodes: Names = field(default_factory=Names)
    node_sources: list[int] = field(default_factory=list)
    """the first source that has the node"""
    links: set[tuple[int, int, int]] = field(default_factory=set)
    """(source, node, node): what no split may part, and a source that says so"""

    def node(self, kind: str, name: str, source: int) -> int:
        node = self.nodes.code(f"{kind}\0{name}")
        if node == len(self.node_sources):
            self.node_sources.append(source)
        return node

    def recording(self, recording_id: str, uri: str, speaker: str | None, source: int) -> int:
        """The node of a recording, tied to its uri and its speaker."""
        own = self.node("recording", recording_id, source)
        self.links.add((source, own, self.node("uri", real_uri(uri), source)))
        if speaker:
            self.links.add((source, own, self.node("speaker", speaker, source)))
        return own

    def batch(self, columns: Mapping[str, Any], rows: int) -> pa.RecordBatch:
        """A batch of the spool from columns of texts and numbers; a value that is no column is that of every row."""
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


@lru_cache(maxsize=1 << 16)
def real_uri(uri: str) -> str:
    """One name for all spellings of a local file: without "..", symbolic links followed. It need not exist; S3 stays as
    it is.
    """
    if scheme(uri) is not None:
        return uri
    place, member = split_member(uri)
    folder, name = os.path.split(uri_to_path(place))
    path = os.path.join(_real_folder(folder), name)
    real = path_to_uri(os.path.realpath(path) if os.path.islink(path) else path)
    return real if member is None else f"{real}#{member}"


# A look at every folder of a path takes longer than all else that is done for a row, and files share their folders.
_real_folder = lru_cache(maxsize=1 << 12)(os.path.realpath)


def unit_rows(unit: KeptUnit, source: int, gathered: Gathered) -> pa.RecordBatch:
    """The kept clips of a unit as a batch of the spool."""
    rows = unit.rows
    provenance = rows["provenance"].combine_chunks().dictionary_encode()
    known = [attributes(json.loads(text)) for text in provenance.dictionary.to_pylist()]

    def of_provenance(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([record.get(name) for record in known], kind).take(provenance.indices)

    speakers = of_provenance("speaker", pa.string())
    same = ("clip_id", "domain", "language", "label", "frames", "label_tokens", "recording_id", "content_hash")
    columns: dict[str, Any] = {name: rows[name] for name in same}
    columns |= {name: of_provenance(name, pa.string()) for name in ("age", "gender", "emotion")}
    columns |= {
        "offset": rows["tar_offset"],
        "size": rows["tar_size"],
        "shard": unit.tar,
        "source": source,
        "speaker": speakers,
    }
    columns |= {
        "events": of_provenance("events", pa.list_(pa.string())),
        "samples": pc.subtract(rows["end"], rows["start"]),
    }
    told = list(zip(rows["recording_id"].to_pylist(), rows["uri"].to_pylist(), speakers.to_pylist(), strict=True))
    nodes = {key: gathered.recording(*key, source) for key in dict.fromkeys(told)}
    columns["recording"] = pa.array([nodes[key] for key in told], pa.int32())
    return gathered.batch(columns, len(rows))


_UNKNOWN = frozenset(("", "unk", "unknown", "none", "null", "nan", "n/a", "na", "-", "?"))
_BETWEEN_EVENTS = re.compile(r"[,;|]")


def attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest's other columns say of a speaker and a sound: known values only, in lower case, never guessed.

    `events` is a list, or a text with ",", ";" or "|" between; an empty list, or "none", says that there are none. What
    data sets call a label (m, male) is for the trainer's scheme to know.
    """
    known: dict[str, Any] = {}
    for name in ("age", "gender", "emotion", "speaker"):
        value = record.get(name)
        text = "" if value is None or isinstance(value, bool | list | dict) else str(value).strip()
        if text.lower() not in _UNKNOWN:
            known[name] = text if name == "speaker" else text.lower()
    events = record.get("events")
    if isinstance(events, str):
        text = events.strip().lower()
        if text == "none":
            events = []
        else:
            events = None if text in _UNKNOWN else _BETWEEN_EVENTS.split(text)
    if isinstance(events, list):
        known["events"] = [each.strip().lower() for each in events if isinstance(each, str) and each.strip()]
    return known


class Spool:
    """Rows on scratch: written once, batch by batch, then memory-mapped."""

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
        """One integer column without nulls."""
        parts = [batch.column(column).to_numpy() for batch in self.batches()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def texts(self, column: str, rows: np.ndarray) -> list[str | None]:
        """A column's texts at ascending `rows`."""
        found: list[str | None] = []
        start = 0
        for batch in self.batches():
            low, high = np.searchsorted(rows, [start, start + batch.num_rows])
            if low < high:
                found += batch.column(column).take(pa.array(rows[low:high] - start)).to_pylist()
            start += batch.num_rows
        return found
