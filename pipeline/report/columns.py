"""Columns of names as numbers, for the columnar work of a report."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def codes(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, list[str]]:
    """Return int64 [rows], and the names that the numbers stand for."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()
