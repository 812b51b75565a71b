"""A seeded shuffle that is computed, not stored: place p of n goes to shuffle(p), for any p, in no memory.

A Feistel network (Luby and Rackoff 1988) permutes the numbers below a power of four; what falls at or above n is sent
through again until it falls below (cycle walking: Black and Rogaway 2002). A short range is shuffled by a table, which
is cheap there and, unlike a network of a few bits, reaches every order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_TABLE = 1024
_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply the finaliser of splitmix64 (Steele et al. 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive(*parts: int) -> int:
    """Return a 64-bit key of some numbers: the same for the same, unrelated for any other."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = _mix((key ^ np.uint64(part & _MASK)) + np.uint64(_GOLDEN))
    return int(key[0])


def shuffle(places: np.ndarray, n: int, key: int) -> np.ndarray:
    """Return where the shuffle of n things named by `key` sends these places: int64, one to one on [0, n)."""
    if len(places) and (places.min() < 0 or places.max() >= n):
        raise ValueError(f"places must lie in [0, {n})")
    if n <= _TABLE:
        return _table(n, key)[places]
    half = np.uint64(((n - 1).bit_length() + 1) // 2)
    moved = places.astype(np.uint64)
    outside = np.arange(len(moved))
    while len(outside):
        moved[outside] = _feistel(moved[outside], half, key)
        outside = outside[moved[outside] >= n]
    return moved.astype(np.int64)


def _feistel(x: np.ndarray, half: np.uint64, key: int) -> np.ndarray:
    low = np.uint64((1 << int(half)) - 1)
    left, right = x >> half, x & low
    for number in range(_ROUNDS):
        round_key = np.uint64((key + (number + 1) * _GOLDEN) & _MASK)
        left, right = right, left ^ (_mix(right ^ round_key) & low)
    return (left << half) | right


@lru_cache(maxsize=4096)
def _table(n: int, key: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    order.setflags(write=False)
    return order
