"""Sort more records than memory holds: sorted runs on the scratch disk, merged as they are read.

records ──`together` at a time, sorted──> runs in one scratch file ──heapq.merge──> in order, equals as they came

What fits into one run never touches the disk.
"""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, Generic, TypeVar

from operators.storage.scratch import scratch_file

T = TypeVar("T")

TOGETHER = 100_000
"""Records sorted in memory at once: some 100 MB of them."""
_BLOCK = 512
"""Records of a run that are read at once."""


class Spill(Generic[T]):
    """A Spill takes records in and gives them back in the order of `key`; a context, in which its file lives.

    The file is this process's own, readable by nobody else, so pickles may be trusted.
    """

    def __init__(self, key: Callable[[T], Any], scratch: str | None = None, together: int = TOGETHER) -> None:
        self._key, self._scratch, self._together = key, scratch, together
        self._held: list[T] = []
        self._runs: list[tuple[int, int]] = []
        self._stack = ExitStack()
        self._path = ""
        self._file: BinaryIO | None = None

    def __enter__(self) -> Spill[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def extend(self, records: Iterable[T]) -> None:
        """Take records in."""
        for record in records:
            self._held.append(record)
            if len(self._held) == self._together:
                self._write_run()

    def _write_run(self) -> None:
        if self._file is None:
            self._path, self._file = self._stack.enter_context(scratch_file(self._scratch))
        self._held.sort(key=self._key)
        start = self._file.tell()
        for at in range(0, len(self._held), _BLOCK):
            pickle.dump(self._held[at : at + _BLOCK], self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._runs.append((start, len(self._held)))
        self._held = []

    def __iter__(self) -> Iterator[T]:
        """Yield all records in order; those of one key in the order in which they came."""
        self._held.sort(key=self._key)
        if self._file is not None:
            self._file.flush()
        runs = [self._read_run(start, count) for start, count in self._runs]
        yield from heapq.merge(*runs, self._held, key=self._key)

    def _read_run(self, start: int, count: int) -> Iterator[T]:
        with open(self._path, "rb") as file:
            file.seek(start)
            while count > 0:
                block = pickle.load(file)
                count -= len(block)
                yield from block
