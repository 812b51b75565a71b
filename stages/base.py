"""What a stage author meets: `open`, `process`, `close`, and the resources a worker of the stage asks for.

A stage is a picklable record of settings. A worker calls `open()` once, where models are loaded, then `process(unit)`
for every unit that reaches it, then `close()`. A stage takes a unit and answers with a new one; it drops nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from operators.clip import Clip, Rejection, Unit, Verdict


class SourceChanged(Exception):
    """A recording is no longer there, or no longer what it was: its unit is left undone, and the text says why in one
    line.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker of a stage needs, and how many workers there may be."""

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    """of the worker's native libraries (OpenMP, torch): fixed, because sums in another order are other sums."""
    min_workers: int = 1
    max_workers: int = 1


class Stage(Protocol):
    """One verb made runnable."""

    resources: Resources

    @property
    def name(self) -> str: ...

    def open(self) -> None: ...

    def process(self, unit: Unit) -> Unit: ...

    def close(self) -> None: ...


class Store(Protocol):
    """The part of a run's storage that stages use; `operators.storage` has it for local and s3:// paths."""

    def put(self, key: str, data: bytes) -> None: ...

    def read(self, key: str) -> bytes: ...

    def read_range(self, key: str, offset: int, size: int) -> bytes: ...

    def exists(self, key: str) -> bool: ...


class Fetcher(Protocol):
    """Gives a source's bytes as a local file for as long as the context lasts; a tar's member lies at its place in the
    tar.
    """

    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> AbstractContextManager[str]: ...


def reject(clip: Clip, rejection: Rejection) -> Clip:
    """The same clip, out of play."""
    return replace(clip, verdict=Verdict(rejection=rejection))
