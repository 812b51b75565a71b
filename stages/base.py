"""What a stage author meets: `open`, `process`, `close`, and the resources a worker of the stage asks for.

A stage is a picklable record of settings. A worker calls `open()` once, where models are loaded, then `process(unit)`
for every unit that reaches it, then `close()`. A stage takes a unit and answers with a new one; it drops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from operators.clip import Clip, Rejection, Unit, Verdict
from operators.settings import setting


class SourceChanged(Exception):
    """SourceChanged says in one line that a recording is gone, or not what it was: its unit is left undone."""


@dataclass(kw_only=True)
class Resources:
    """Resources say what one worker of a stage needs, and how many workers there may be: one line of `execution`."""

    cpus: float = setting(1.0, "of one worker; fractions welcome", at_least=0)
    gpus: float = setting(0.0, "of one worker; fractions welcome", at_least=0)
    # Fixed, because sums in another order are other sums.
    threads: int = setting(1, "of the worker's native libraries", at_least=1)
    min_workers: int = setting(1, "Ray adds and removes workers as they are needed", at_least=1)
    max_workers: int = setting(1, "no fewer than min_workers", at_least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """A Doing is what a stage has finished of a unit, while it works on it; `of_clips` is 0 where it counts none."""

    stage: str
    clips: int
    of_clips: int
    audio_seconds: float
    """of these clips."""
    of_seconds: float
    busy_seconds: float
    """that it took so far."""
    unit_id: str = ""
    """filled in by the worker, which knows it."""
    through: bool = False
    """the stage is through with the unit, which waits for the next one."""


Tell = Callable[[Doing], None]
"""How a stage says what it is doing; for the display, never part of what is written."""


def counting(tell: Tell | None, stage: str, clips: Sequence[Clip]) -> Callable[[int, float], None] | None:
    """Return what an engine calls with the clips and seconds it has finished of these; None where nobody listens."""
    if tell is None:
        return None
    of_seconds, started = sum(clip.span.seconds for clip in clips), time.perf_counter()

    def progress(done: int, seconds: float) -> None:
        busy = time.perf_counter() - started
        tell(
            Doing(
                stage=stage,
                clips=done,
                of_clips=len(clips),
                audio_seconds=seconds,
                of_seconds=of_seconds,
                busy_seconds=busy,
            )
        )

    progress(0, 0.0)
    return progress


class Stage(Protocol):
    """A Stage is one verb made runnable."""

    resources: Resources

    @property
    def name(self) -> str: ...

    def open(self) -> None: ...

    def process(self, unit: Unit) -> Unit: ...

    def heard_seconds(self, unit: Unit) -> float:
        """Return how many seconds of audio the stage worked on, of a unit that came out of it, for the display."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """A Store is the part of a run's storage that stages use; `operators.storage` has it for local and s3:// paths."""

    def put(self, key: str, data: bytes) -> None: ...

    def read(self, key: str) -> bytes: ...

    def read_range(self, key: str, offset: int, size: int) -> bytes: ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None: ...


class Fetcher(Protocol):
    """A Fetcher gives a source's bytes as a local file while the context lasts; a tar's member lies at its place."""

    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> AbstractContextManager[str]: ...


def clip_seconds(unit: Unit) -> float:
    """Return the length of the clips in a unit that are long enough for a recogniser, kept or not, in seconds."""
    return sum(clip.span.seconds for clip in unit.clips if not _too_short(clip))


def _too_short(clip: Clip) -> bool:
    rejection = clip.verdict.rejection if clip.verdict else None
    return rejection is not None and rejection.stage == "segment"


def reject(clip: Clip, rejection: Rejection) -> Clip:
    """Return the same clip, out of play."""
    return replace(clip, verdict=Verdict(rejection=rejection))
