"""The spool: rows of runs and labelled sets on scratch."""

from __future__ import annotations

import pyarrow as pa

from operators.index import CODED, INDEX_SCHEMA
from pipeline.handoff.spool import SPOOL_SCHEMA


def test_the_spool_is_the_index_and_five_columns_of_the_handoffs_own() -> None:
    shared = len(INDEX_SCHEMA)
    assert SPOOL_SCHEMA.names[:shared] == INDEX_SCHEMA.names
    assert SPOOL_SCHEMA.names[shared:] == ["content_hash", "samples", "source", "recording", "split"]
    for column in INDEX_SCHEMA:
        assert SPOOL_SCHEMA.field(column.name).type == (pa.int32() if column.name in CODED else column.type)
