"""The index of each split, and what is counted while it is written.

Spool ──kept, by split─┬─> train.arrow, dev.arrow, test.arrow: one row per clip, uncompressed, for memory-mapping
                       ├─> labels of train and their languages, one a line, for the tokenizer
                       └─> Counts: clips and time per split, domain and attribute
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.clip import SAMPLE_RATE
from operators.index import CODED, INDEX_SCHEMA, ROWS_PER_BATCH
from operators.split import SPLITS
from pipeline.handoff.spool import Spool, SpoolNames


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts are two files of scratch, a line for each clip of train that has words: its label, and its language."""

    labels: Path
    languages: Path


@dataclass(frozen=True, slots=True)
class Amount:
    """An Amount is so many clips, together so many samples."""

    clips: int = 0
    samples: int = 0

    @property
    def hours(self) -> float:
        return self.samples / SAMPLE_RATE / 3600


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts say what the splits hold. Domains and attributes are those of train."""

    splits: dict[str, Amount] = field(default_factory=dict)
    domains: dict[str, Amount] = field(default_factory=dict)
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)


def write_indexes(
    spool: Spool,
    split: np.ndarray,
    names: SpoolNames,
    folder: Path,
    texts: Texts,
    strata: np.ndarray | None = None,
) -> Counts:
    """Write `<split>.arrow` of every split into `folder`, the labels of train and their languages to `texts`.

    `split` is int8 [N]: the place in SPLITS of each clip of the spool, -1 for none. `strata` is int32 [N]: what train
    has for a domain instead, among the names of domains.
    """
    dictionaries = {name: names.coded[name].array() for name in CODED}
    counts = Counts()
    spoken = list(names.coded["language"])
    with texts.labels.open("wb") as labels, texts.languages.open("wb") as languages:
        for number, name in enumerate(SPLITS):
            total = Amount()
            with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
                own = strata[split == number] if strata is not None and name == "train" else None
                for rows in _chosen(spool, split == number):
                    if own is not None:
                        column = pa.array(own[total.clips : total.clips + len(rows)], pa.int32())
                        rows = rows.set_column(rows.schema.get_field_index("domain"), "domain", column)
                    # The very same dictionary in every batch, so that the file holds it once.
                    writer.write_batch(
                        pa.record_batch(
                            [_column(rows, each, dictionaries) for each in INDEX_SCHEMA], schema=INDEX_SCHEMA
                        )
                    )
                    total = Amount(total.clips + len(rows), total.samples + pc.sum(rows["samples"]).as_py())
                    if name == "train":
                        _write_labels(rows, spoken, labels, languages)
                        _count(rows, counts, names)
            counts.splits[name] = total
    for attribute, found in counts.attributes.items():
        counts.attributes[attribute] = dict(sorted(found.items()))
    return counts


def _chosen(spool: Spool, chosen: np.ndarray) -> Iterator[pa.Table]:
    """Yield the chosen rows, some ten thousands at a time."""
    waiting: list[pa.RecordBatch] = []
    start = rows = 0
    for batch in spool.batches():
        picked = batch.filter(pa.array(chosen[start : start + batch.num_rows]))
        start += batch.num_rows
        if picked.num_rows:
            waiting.append(picked)
            rows += picked.num_rows
        if rows >= ROWS_PER_BATCH:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _column(rows: pa.Table, own: pa.Field, dictionaries: dict[str, pa.Array]) -> pa.Array:
    column = rows[own.name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return pa.DictionaryArray.from_arrays(column, dictionaries[own.name]) if own.name in dictionaries else column


def _write_labels(rows: pa.Table, spoken: Sequence[str], labels: BinaryIO, languages: BinaryIO) -> None:
    lines = pc.replace_substring_regex(rows["label"], r"\s+", " ").to_pylist()
    codes = ["" if code is None else spoken[code] for code in rows["language"].to_pylist()]
    labels.write("".join(f"{line}\n" for line in lines if line).encode())
    # A name that is no code may hold anything; it is one line here.
    names = (" ".join(code.split()) for code, line in zip(codes, lines, strict=True) if line)
    languages.write("".join(f"{name}\n" for name in names).encode())


def _count(rows: pa.Table, counts: Counts, names: SpoolNames) -> None:
    domains = list(names.coded["domain"])
    sums = rows.group_by("domain", use_threads=False).aggregate([("samples", "sum"), ("samples", "count")]).to_pylist()
    for found in sums:
        before = counts.domains.get(domains[found["domain"]], Amount())
        more = Amount(before.clips + found["samples_count"], before.samples + found["samples_sum"])
        counts.domains[domains[found["domain"]]] = more
    for attribute in ("language", "age", "gender", "emotion", "style"):
        labels = list(names.coded[attribute])
        for value in pc.value_counts(pc.drop_null(rows[attribute])).to_pylist():
            counted = counts.attributes.setdefault(attribute, {})
            counted[labels[value["values"]]] = counted.get(labels[value["values"]], 0) + value["counts"]
    events = Counter(counts.attributes.get("events", {}))
    for clip in rows["events"].drop_null().to_pylist():
        events.update(set(clip))
    counts.attributes["events"] = dict(events)
