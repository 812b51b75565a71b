"""Kept clips of a unit as rows of the spool.

KeptUnit: ledger rows, their tar ──unit_rows──> batch of the spool
the manifest's other columns ──attributes──> age, gender, emotion, events, speaker, as far as they are known
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.index import CLIP_SCHEMA
from operators.shard import CLIP_COLUMNS
from pipeline.handoff.shards import KeptUnit
from pipeline.handoff.spool import SpoolNames


def unit_rows(unit: KeptUnit, source: int, names: SpoolNames) -> pa.RecordBatch:
    """Return the kept clips of a unit as a batch of the spool."""
    rows = unit.rows
    provenance = rows["provenance"].combine_chunks().dictionary_encode()
    known = [attributes(json.loads(text)) for text in provenance.dictionary.to_pylist()]

    def of_provenance(name: str) -> pa.Array:
        return pa.array([record.get(name) for record in known], CLIP_SCHEMA.field(name).type).take(provenance.indices)

    columns: dict[str, Any] = {own: rows[name] for own, name in CLIP_COLUMNS.items()}
    columns |= {name: of_provenance(name) for name in ("age", "gender", "emotion", "events", "speaker")}
    columns |= {"shard": unit.tar, "source": source, "content_hash": rows["content_hash"]}
    columns["samples"] = pc.subtract(rows["end"], rows["start"])
    named = (rows["recording_id"].to_pylist(), rows["uri"].to_pylist(), columns["speaker"].to_pylist())
    recordings = list(zip(*named, strict=True))
    nodes = {key: names.nodes.recording(*key, source=source) for key in dict.fromkeys(recordings)}
    columns["recording"] = pa.array([nodes[key] for key in recordings], pa.int32())
    return names.batch(columns, len(rows))


_UNKNOWN = frozenset(("", "unk", "unknown", "none", "null", "nan", "n/a", "na", "-", "?"))
_BETWEEN_EVENTS = re.compile(r"[,;|]")


def attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest's other columns say of a speaker and a sound.

    Only known values are in it, in lower case, never guessed; what data sets call a label (m, male) is for the
    trainer's scheme to know. `events` is a list, or a text with ",", ";" or "|" between; an empty list, or "none", says
    that there are none.
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
