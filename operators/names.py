"""Texts as numbers, so that tens of millions of them can be compared in memory.

    texts ──Names──> int32 codes, in order of first appearance, and back
    texts ──keys──> uint64 [N, 2] ──first_places──> for each the first that is equal to it

A key is sixteen bytes instead of a text; two names in 10^15 collide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa


class Names:
    """The names that were seen have codes, in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def code(self, name: str) -> int:
        """Return the code of a name, a new one when it was not seen before."""
        return self._codes.setdefault(name, len(self._codes))

    def codes(self, column: pa.ChunkedArray | pa.Array) -> pa.Array:
        """Return the int32 codes of a column of texts; null stays null."""
        encoded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
        own = pa.array([self.code(name) for name in encoded.dictionary.to_pylist()], pa.int32())
        return own.take(encoded.indices)

    def array(self) -> pa.Array:
        """Return the names as an array of strings, each in the place of its code."""
        return pa.array(list(self._codes), pa.string())


def keys(names: Iterable[str]) -> np.ndarray:
    """Return uint64 [N, 2], a 128-bit key of each name, the same on every machine."""
    joined = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in names)
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


def first_places(keys_N2: np.ndarray) -> np.ndarray:
    """Return int64 [N]: for every key the place of the first that equals it, which may be its own."""
    order = np.lexsort((keys_N2[:, 1], keys_N2[:, 0]))  # stable: among equals the first comes first
    ordered = keys_N2[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(order) else order
    return first
