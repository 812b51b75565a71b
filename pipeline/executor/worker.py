"""A worker is one stage in one process; it takes rows of Arrow and answers with them.

    Unit ──pack──> row ──Worker of each stage──> row ──> one small Outcome per unit
                    └─ a unit that failed goes through as its Outcome: no later stage looks at it

The first row of every run is a roll call: it comes back once a worker of each stage has loaded its models, or could
not. `events` turns it into Ready or EngineFailed, so that nobody outside this folder meets it.
"""

from __future__ import annotations

import gc
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from operators.clip import Unit, pcm_bytes
from operators.errors import MachineTrouble, UserError
from operators.shard import OUTCOMES
from operators.storage.base import StoreUnavailable
from pipeline.executor.board import Board
from pipeline.executor.dependencies import (
    keep_freed_memory,
    quiet_dependencies,
    use_threads,
    without_collections,
)
from stages.base import Doing, SourceChanged, Stage, Tell

MOST_DEATHS_IN_OPENING = 3
"""A worker that died so often, one time after the other, while it loaded its models is not started again."""

KILLED = "it was killed, for using too much memory perhaps, or its native code crashed"

ROLL_CALL = Unit(unit_id="", domain="", pieces=())
"""The first row of every run: it does nothing but come back."""


class ClusterLost(Exception):
    """ClusterLost says that Ray itself failed, not a stage. What has a ledger is done; the rest is for the next run."""


class EngineFailed(UserError):
    """EngineFailed says that a worker could not load its models. `detail` holds its own lines, a traceback perhaps."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"an engine cannot be loaded: {first_line(detail)}")
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Ready:
    """Ready says that a worker of every stage has loaded its models: from here on time counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An Outcome is what the driver learns of one unit. For the display only: the ledger is the truth."""

    unit_id: str
    domain: str = ""
    samples: dict[str, int] = field(default_factory=dict)
    """samples by outcome: kept, rejected, non_speech, unreadable."""
    recordings: int = 0
    clips: int = 0
    kept_clips: int = 0
    busy_seconds: dict[str, float] = field(default_factory=dict)
    heard_seconds: dict[str, float] = field(default_factory=dict)
    """seconds of audio that each stage worked on."""
    error: str | None = None
    user_error: bool = False


Event = Ready | Outcome
"""What an executor says while it runs."""


class Worker:
    """A Worker is one stage in one process. It loads its models at once and answers bugs with an error."""

    def __init__(self, stage: Stage, last: bool, tell: Tell | None = None) -> None:
        keep_freed_memory()
        quiet_dependencies()
        use_threads(stage.resources.threads)
        self._stage, self._last, self._tell = stage, last, tell
        self._problem: Outcome | None = None
        self._said: Doing | None = None
        self._open()

    def _open(self) -> None:
        try:
            with without_collections():
                self._stage.open()
        except Exception as error:
            self._problem = _failure("", self._stage.name, error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["outcome"]:
            return row
        unit = unpack(row)
        if self._problem is not None:
            return _answer(replace(self._problem, unit_id=unit.unit_id))
        if unit.unit_id == ROLL_CALL.unit_id:
            return _answer(Outcome(unit_id=unit.unit_id)) if self._last else pack(unit)
        use_threads(self._stage.resources.threads)
        self._listen(unit.unit_id)
        try:
            done = timed(self._stage, unit)
            self._say_through()
        # It costs this unit, and the run when it happens often.
        except (StoreUnavailable, SourceChanged, MachineTrouble) as error:
            return _answer(Outcome(unit_id=unit.unit_id, error=f"{self._stage.name}: {error}"))
        except Exception as error:
            return _answer(_failure(unit.unit_id, self._stage.name, error))
        return _answer(outcome_of(done)) if self._last else pack(done)

    def _listen(self, unit_id: str) -> None:
        """Say that the stage begins a unit, and have it say what it finishes inside, if it is one that can."""
        if self._tell is None:
            return

        def tell(doing: Doing) -> None:
            assert self._tell is not None
            self._said = replace(doing, unit_id=unit_id)
            self._tell(self._said)

        tell(Doing(stage=self._stage.name, clips=0, of_clips=0, audio_seconds=0.0, of_seconds=0.0, busy_seconds=0.0))
        if hasattr(self._stage, "tell"):
            self._stage.tell = tell

    def _say_through(self) -> None:
        if self._tell is not None and self._said is not None:
            self._tell(replace(self._said, through=True))

    def close(self) -> None:
        if self._problem is None:
            self._stage.close()


class RestartedWorker(Worker):
    """A RestartedWorker knows that Ray starts it again whenever it dies: for ever, if loading its models kills it."""

    def __init__(self, stage: Stage, last: bool) -> None:
        super().__init__(stage, last, Board().tell)

    def _open(self) -> None:
        import ray
        from ray.experimental import internal_kv

        # The actor's id outlives its processes, and the cluster's own store the actor's.
        key = f"touchasp-opening-{ray.get_runtime_context().get_actor_id()}".encode()
        deaths = int(internal_kv._internal_kv_get(key) or b"0")
        if deaths >= MOST_DEATHS_IN_OPENING:
            message = (
                f"{self._stage.name}: its worker process died {deaths} times in a row while it loaded the "
                f"models: {KILLED}"
            )
            self._problem = Outcome(unit_id="", error=message, user_error=True)
            return
        internal_kv._internal_kv_put(key, str(deaths + 1).encode(), overwrite=True)
        super()._open()
        # Nothing of an engine is garbage before this process ends, and its exit would look through all of it thrice:
        # over a second, in which other stages still work.
        gc.freeze()
        internal_kv._internal_kv_del(key)


def timed(stage: Stage, unit: Unit) -> Unit:
    """Return the unit after the stage, with the seconds that took and the seconds of audio that were worked on."""
    started = time.perf_counter()
    done = stage.process(unit)
    busy = time.perf_counter() - started
    return replace(
        done,
        busy_seconds=unit.busy_seconds | {stage.name: busy},
        heard_seconds=unit.heard_seconds | {stage.name: stage.heard_seconds(done)},
    )


def _failure(unit_id: str, stage: str, error: Exception) -> Outcome:
    if isinstance(error, UserError):
        return Outcome(unit_id=unit_id, error=str(error), user_error=True)
    last = traceback.format_exc(limit=-6)
    return Outcome(unit_id=unit_id, error=f"{stage}: {type(error).__name__}: {error}\n{last}")


def outcome_of(unit: Unit) -> Outcome:
    """Return the sums over a finished unit that the display shows."""
    samples = dict.fromkeys(OUTCOMES, 0)
    for clip in unit.clips:
        samples["kept" if clip.verdict and clip.verdict.kept else "rejected"] += clip.span.samples
    for stretch in unit.stretches:
        samples[stretch.outcome] += stretch.span.samples
    return Outcome(
        unit_id=unit.unit_id,
        domain=unit.domain,
        samples=samples,
        recordings=sum(piece.start == 0 for piece in unit.pieces),
        clips=len(unit.clips),
        kept_clips=sum(1 for clip in unit.clips if clip.verdict and clip.verdict.kept),
        busy_seconds=unit.busy_seconds,
        heard_seconds=unit.heard_seconds,
    )


def pack(unit: Unit) -> dict[str, Any]:
    """Return a unit as a row: audio as one plain binary value, which Arrow holds without a copy, beside its records."""
    bare = replace(unit, audio=np.zeros(0, np.int16))
    return {"unit": pickle.dumps(bare), "audio": pcm_bytes(unit.audio), "outcome": b""}


def unpack(row: dict[str, Any]) -> Unit:
    """Return the unit of a row that `pack` made."""
    unit: Unit = pickle.loads(row["unit"])
    return replace(unit, audio=np.frombuffer(row["audio"], dtype="<i2"))


def _answer(outcome: Outcome) -> dict[str, Any]:
    return {"unit": b"", "audio": b"", "outcome": pickle.dumps(outcome)}


def called(units: Iterable[Unit]) -> Iterator[Unit]:
    """Yield the roll call, then the units."""
    return chain([ROLL_CALL], units)


CHUNK_HERE = 8192
"""Items handed to a function of this machine at once: it may start processes for them, which take a while."""


def scatter_here(function: Callable[[list[Any]], list[Any]], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each item with what `function` makes of it, in this process. See `Executor.scatter`."""
    waiting = iter(items)
    while part := list(islice(waiting, CHUNK_HERE)):
        yield from zip(part, function(part), strict=True)


def events(outcomes: Iterable[bytes]) -> Iterator[Event]:
    """Yield what the rows' outcomes say; see `Executor.run`, its errors too."""
    for packed in outcomes:
        outcome: Outcome = pickle.loads(packed)
        if outcome.user_error:
            raise UserError(outcome.error or "")
        if outcome.unit_id != ROLL_CALL.unit_id:
            yield outcome
        elif outcome.error is not None:
            raise EngineFailed(outcome.error)
        else:
            yield Ready()


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
