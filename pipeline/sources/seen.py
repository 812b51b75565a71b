"""Which names came before, in 16 bytes a name: a crawl of ten million files would fill gigabytes with their texts.

name ──blake2b, 128 bits──> a slot of one table; two names of ten million share a hash once in 10^24 crawls
"""

from __future__ import annotations

import hashlib

_BYTES = 16
_EMPTY = bytes(_BYTES)


class Seen:
    """A Seen holds names that came before: a table of hashes with open addressing, at most two thirds full."""

    def __init__(self) -> None:
        self._slots, self._count = 1 << 10, 0
        self._table = bytearray(self._slots * _BYTES)

    def __contains__(self, name: str) -> bool:
        digest = _digest(name)
        at = self._place(digest)
        return self._table[at : at + _BYTES] == digest

    def add(self, name: str) -> bool:
        """Take a name in. Return whether it is new."""
        digest = _digest(name)
        at = self._place(digest)
        if self._table[at : at + _BYTES] == digest:
            return False
        self._table[at : at + _BYTES] = digest
        self._count += 1
        if 3 * self._count > 2 * self._slots:
            self._grow()
        return True

    def _place(self, digest: bytes) -> int:
        """Return the byte at which a digest stands, or would stand."""
        table, mask = self._table, self._slots - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while (held := table[slot * _BYTES : (slot + 1) * _BYTES]) != _EMPTY and held != digest:
            slot = (slot + 1) & mask
        return slot * _BYTES

    def _grow(self) -> None:
        before = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * _BYTES)
        for at in range(0, len(before), _BYTES):
            digest = bytes(before[at : at + _BYTES])
            if digest != _EMPTY:
                place = self._place(digest)
                self._table[place : place + _BYTES] = digest


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
