"""Kept clips of a unit as rows of the spool.

KeptUnit: ledger rows, their tar ──unit_rows──> batch of the spool
the manifest's other columns ──known_labels──> what the ledger does not say of speaker and sound
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.annotate.manifest import known_labels
from operators.index import CLIP_SCHEMA
from operators.labelled.splits import known_split
from operators.shard import CLIP_COLUMNS
from pipeline.handoff.shards import KeptUnit
from pipeline.handoff.spool import SpoolNames, place_of_split


def unit_rows(unit: KeptUnit, source: int, names: SpoolNames) -> pa.RecordBatch:
    """Return the kept clips of a unit as a batch of the spool."""
    rows = unit.rows
    provenance = rows["provenance"].combine_chunks().dictionary_encode()
    records = [json.loads(text) for text in provenance.dictionary.to_pylist()]
    known = [known_labels(record) for record in records]

    def of_provenance(name: str) -> pa.Array:
        return pa.array([record.get(name) for record in known], CLIP_SCHEMA.field(name).type).take(provenance.indices)

    columns: dict[str, Any] = {own: rows[name] for own, name in CLIP_COLUMNS.items()}
    for name in ("age", "gender", "emotion", "style", "events", "speaker"):  # what Annotate agreed on has the last word
        columns[name] = pc.coalesce(rows[name], of_provenance(name))
    columns["answer"] = of_provenance("answer")
    columns["language"] = pc.coalesce(rows["agreed_language"], rows["language"])
    given = [place_of_split(known_split(record.get("split"))) for record in records]
    columns["split"] = pc.fill_null(pa.array(given, pa.int8()).take(provenance.indices), -1)
    columns |= {"shard": unit.tar, "source": source, "content_hash": rows["content_hash"]}
    columns["samples"] = pc.subtract(rows["end"], rows["start"])
    named = (rows["recording_id"].to_pylist(), rows["uri"].to_pylist(), columns["speaker"].to_pylist())
    recordings = list(zip(*named, strict=True))
    nodes = {key: names.nodes.recording(*key, source=source) for key in dict.fromkeys(recordings)}
    columns["recording"] = pa.array([nodes[key] for key in recordings], pa.int32())
    return names.batch(columns, len(rows))
