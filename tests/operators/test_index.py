"""One declaration of a clip's row: the files' schemas follow from it."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pyarrow as pa

from operators import index
from operators.index import CLIP_SCHEMA, CODED, INDEX_SCHEMA, Row


def test_the_index_has_the_columns_of_a_row() -> None:
    assert INDEX_SCHEMA.names == CLIP_SCHEMA.names == [each.name for each in fields(Row)]
    for column in INDEX_SCHEMA:
        plain = CLIP_SCHEMA.field(column.name).type
        assert column.type == (pa.dictionary(pa.int32(), pa.string()) if column.name in CODED else plain)
    optional = {each.name for each in fields(Row) if each.default is None}
    assert optional == {
        *("start_sample", "end_sample", "language", "age", "gender", "emotion", "events", "speaker"),
        *index.ADDED,
    }
    assert {each.name for each in fields(Row) if each.default is MISSING} >= {"shard", "offset", "size", "frames"}


def test_the_index_is_the_format_that_trainers_of_before_read() -> None:
    names = pa.dictionary(pa.int32(), pa.string())
    assert pa.schema(
        [
            ("clip_id", pa.string()), ("shard", names), ("offset", pa.int64()), ("size", pa.int64()),
            ("start_sample", pa.int64()), ("end_sample", pa.int64()), ("frames", pa.int32()),
            ("label_tokens", pa.int32()), ("label", pa.string()), ("domain", names), ("language", names),
            ("age", names), ("gender", names), ("emotion", names), ("events", pa.list_(pa.string())),
            ("recording_id", pa.string()), ("speaker", pa.string()),
        ]
    ) == pa.schema([each for each in INDEX_SCHEMA if each.name not in index.ADDED])  # fmt: skip
    assert INDEX_SCHEMA.names[-len(index.ADDED) :] == [*index.ADDED], "what came later stands behind"


def test_nobody_else_declares_a_column_of_the_row() -> None:
    """Whoever needs one takes it from CLIP_SCHEMA: a type that is written twice is one that can differ."""
    root = Path(index.__file__).parents[1]
    folders = [root / package for package in ("operators", "stages", "pipeline", "model_training")]
    declared = {
        (name, path.relative_to(root).as_posix())
        for path in sorted(path for folder in folders for path in folder.rglob("*.py"))
        for name in re.findall(r'\("(\w+)", pa\.', path.read_text(encoding="utf-8"))
    }
    assert ("outcome", "operators/shard.py") in declared, "the search finds what is declared"
    # A recording has these too, and an engine's answer has a language of its own.
    of_clips_alone = set(CLIP_SCHEMA.names) - {"recording_id", "domain", "language"}
    assert [(name, path) for name, path in sorted(declared) if name in of_clips_alone] == []
