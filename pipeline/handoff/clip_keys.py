"""Clips by name: 128-bit keys that stand for clip ids or content, and which of many are equal.

    texts ──keys──> uint64 [N, 2] ──first_places──> for each the first that is equal to it

Sixteen bytes instead of a text keep tens of millions of clips comparable in memory; two names in 10^15 collide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def keys(names: Iterable[str]) -> np.ndarray:
    """uint64 [N, 2] of the names, the same on every machine."""
    joined = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in names)
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


def first_places(keys_N2: np.ndarray) -> np.ndarray:
    """int64 [N]: for every key the place of the first that equals it, which may be its own."""
    order = np.lexsort((keys_N2[:, 1], keys_N2[:, 0]))  # stable: among equals the first comes first
    ordered = keys_N2[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(order) else order
    return first
