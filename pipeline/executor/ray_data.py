"""The stages as a Ray Data graph.

    units ──from_items──> [Segment] ──> [Transcribe] ──> [Copilot] ──> [Rover] ──> [WriteShard] ──> one small Outcome
                          actor pools, one unit per row and per block                              per unit

Ray Data gives back-pressure, autoscaling per stage, fractional GPUs and retries of lost work; a unit that raises is
reported and left undone, and the others go on. Progress is what the ledgers say, never what is counted here.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from operators.clip import Unit
from pipeline.config import ExecutionSettings
from pipeline.executor.board import Board
from pipeline.executor.cluster import cluster_address, connect, describe_cluster, disconnect, reason, scatter
from pipeline.executor.dependencies import native_stderr_silenced
from pipeline.executor.metrics import RayMetrics
from pipeline.executor.worker import (
    KILLED,
    ClusterLost,
    Event,
    Outcome,
    RestartedWorker,
    called,
    events,
    pack,
    scatter_here,
)
from stages.base import Stage, Tell

WAVE_UNITS = 10_000
"""Units handed to Ray Data at once: each is an object in its store, and a million-hour run has millions."""

_LONGEST_END = 15.0
"""Seconds that Ray Data's threads are waited for at the end of a run."""

_WORKER_DIED = f"the worker process died each time it was tried: {KILLED}"


class RayExecutor:
    """A RayExecutor runs the stages as pools of actors, on a cluster or on this machine. See `Executor`."""

    def __init__(self, settings: ExecutionSettings, stages: list[Stage]) -> None:
        self._settings, self._stages = settings, stages

    def connect(self) -> str:
        connect(self._settings, self._stages)
        return describe_cluster()

    def run(self, units: Iterable[Unit], tell: Tell | None = None) -> Generator[Event, None, None]:
        with (
            closing(self._outcomes(called(units))) as outcomes,  # when `events` raises, too
            Board().watched(tell),
        ):
            yield from events(outcomes)

    def scatter(
        self, function: Callable[[list[Any]], list[Any]], items: Iterable[Any], chunk: int
    ) -> Iterator[tuple[Any, Any]]:
        if cluster_address(self._settings) is None:  # all nodes are this machine
            return scatter_here(function, items)
        self.connect()
        return scatter(function, items, chunk)

    def metrics(self, run: str) -> RayMetrics:
        return RayMetrics(run)

    def close(self) -> None:
        disconnect()

    def _outcomes(self, units: Iterable[Unit]) -> Generator[bytes, None, None]:
        _quiet_ray_data(self._settings.max_failures)
        waiting = iter(units)
        while wave := list(itertools.islice(waiting, WAVE_UNITS)):
            yield from self._wave(wave)

    def _wave(self, units: list[Unit]) -> Iterator[bytes]:
        before = set(threading.enumerate())
        # Closing them ends Ray Data's own threads. One that still asks for something when Ray is shut down takes the
        # process with it, so they are waited for.
        try:
            with closing(self._rows(units)) as rows:
                yield from self._answers(units, rows)
        finally:
            until = time.monotonic() + _LONGEST_END
            for thread in set(threading.enumerate()) - before:
                if thread is not threading.current_thread() and type(thread).__module__.startswith("ray.data"):
                    thread.join(timeout=max(0.0, until - time.monotonic()))

    def _rows(self, units: list[Unit]) -> Generator[bytes, None, None]:
        """Yield the packed outcomes. Blocks come straight from the executor: Ray Data's batches are one block late, and
        fetch it from a thread that outlives them.
        """
        import ray
        from ray.data.block import BlockAccessor

        for bundle in self._graph(units).iter_internal_ref_bundles():
            for reference in bundle.block_refs:
                table = BlockAccessor.for_block(ray.get(reference)).to_arrow()
                if table.num_rows:
                    yield from table["outcome"].to_pylist()

    def _answers(self, units: list[Unit], rows: Iterator[bytes]) -> Iterator[bytes]:
        import ray

        unanswered = dict.fromkeys(unit.unit_id for unit in units)
        try:
            # Ray's core writes of the restart of actors here, in terms that are not the user's.
            with native_stderr_silenced():
                first = next(rows, None)
            for packed in rows if first is None else itertools.chain([first], rows):
                unanswered.pop(pickle.loads(packed).unit_id, None)
                yield packed
        except ray.exceptions.RayError as error:
            died = isinstance(error, ray.exceptions.ActorDiedError)
            raise ClusterLost(_WORKER_DIED if died else f"Ray stopped working ({reason(error)})") from error
        for unit_id in unanswered:
            yield pickle.dumps(Outcome(unit_id=unit_id, error=_WORKER_DIED))

    def _graph(self, units: list[Unit]) -> Any:
        import ray

        dataset: Any = ray.data.from_items([pack(unit) for unit in units], override_num_blocks=len(units))
        for stage in self._stages:
            asked = stage.resources
            dataset = dataset.map(
                RestartedWorker,
                fn_constructor_args=(stage, stage is self._stages[-1]),
                # One unit at a worker: a second would wait there while another worker has none.
                compute=ray.data.ActorPoolStrategy(
                    min_size=asked.min_workers, max_size=asked.max_workers, max_tasks_in_flight_per_actor=1
                ),
                num_cpus=asked.cpus,
                num_gpus=asked.gpus or None,
                # workers come back as long as there are machines; what is bounded is the tries of one unit
                max_restarts=-1,
                max_task_retries=self._settings.max_task_retries,
            )
        return dataset


def _quiet_ray_data(max_failures: int) -> None:
    """Keep Ray Data's own lines off the console, and let the units go on that others' failures do not concern."""
    import ray

    context = ray.data.DataContext.get_current()  # its import makes the handlers
    for handler in list(logging.getLogger("ray.data").handlers):
        if isinstance(handler, logging.StreamHandler):  # Ray Data's console lines; its log file stays
            handler.setLevel(logging.CRITICAL)
    # **ray_remote_args has no successor yet
    warnings.filterwarnings("ignore", category=ray.util.annotations.RayDeprecationWarning)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A unit whose workers died more often than they may is left undone; a few such must not end the others.
    context.max_errored_blocks = max_failures
