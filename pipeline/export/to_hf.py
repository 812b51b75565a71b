"""Hugging Face `datasets`: Parquet with paths into the tars, and the card that names splits and files.

    ExportedClip ──> hf/data/<split>.parquet        datasets.load_dataset("hf")
                     hf/README.md                   the dataset card, written by card.py

The column `audio` is of the type Audio; its path is a chain that fsspec opens: `tar://<member>::<tar>`, local or
`s3://`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.clip import SAMPLE_RATE
from operators.index import CLIP_SCHEMA
from operators.storage.uri import uri_to_path
from pipeline.export.clips import ExportedClip
from pipeline.export.writer import Writer

_ROWS_PER_GROUP = 10_000
_AS_IN_THE_INDEX = ("domain", "language", "age", "gender", "emotion", "style", "speaker", "recording_id", "events")
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        ("text", pa.string()),
        *(CLIP_SCHEMA.field(name) for name in _AS_IN_THE_INDEX),
        ("duration", pa.float64()),
        ("license", pa.string()),
        ("source_url", pa.string()),
    ]
)


def _feature(field: pa.Field) -> dict[str, Any]:
    if field.name == "audio":
        return {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}
    if pa.types.is_list(field.type):
        return {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    return {"dtype": "float64" if pa.types.is_floating(field.type) else "string", "_type": "Value"}


_METADATA = {"huggingface": json.dumps({"info": {"features": {field.name: _feature(field) for field in _SCHEMA}}})}


class HfWriter(Writer):
    name = "hf"
    shows = 'datasets.load_dataset("{place}", split="train")'

    def __init__(self, folder: Path, place: Path) -> None:
        super().__init__(folder, place)
        self._files: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[dict[str, Any]]] = {}

    def add(self, clip: ExportedClip) -> None:
        row = clip.row
        if clip.samples != clip.file_samples:
            self.skipped["they are stretches of longer files, for which Audio has no words"] += 1
            return
        place = uri_to_path(row.shard)
        waiting = self._waiting.setdefault(clip.split, [])
        waiting.append(
            {
                "id": row.clip_id,
                "audio": {"bytes": None, "path": place if clip.member is None else f"tar://{clip.member}::{place}"},
                "text": row.label,
                **{name: getattr(row, name) for name in _AS_IN_THE_INDEX},
                "duration": clip.seconds,
                "license": clip.license,
                "source_url": clip.source_url,
            }
        )
        if len(waiting) == _ROWS_PER_GROUP:
            self._flush(clip.split)

    def _flush(self, split: str) -> None:
        if split not in self._files:
            path = self.folder / "data" / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[split] = pq.ParquetWriter(path, _SCHEMA.with_metadata(_METADATA), compression="zstd")
        self._files[split].write_table(pa.Table.from_pylist(self._waiting[split], _SCHEMA.with_metadata(_METADATA)))
        self._waiting[split] = []

    def close(self) -> None:
        for split in [split for split, rows in self._waiting.items() if rows]:
            self._flush(split)
        for file in self._files.values():
            file.close()
        super().close()
