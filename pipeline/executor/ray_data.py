"""Runs stages over units: as a Ray Data graph, or as a plain loop that is the reference for it.

    units ──from_items──> [Segment] ──> [Transcribe] ──> [Copilot] ──> [Rover] ──> [WriteShard] ──> one small Outcome
    per unit
                          actor pools, one unit per row and per block

The only file that imports ray. Ray Data gives back-pressure, autoscaling per stage, fractional GPUs and retries of lost
work; a unit that raises is reported and left undone, and the others go on. Progress is what the ledgers say, never what
is counted here.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import pickle
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from operators.clip import Unit, pcm_bytes
from operators.errors import UserError
from operators.storage.base import StoreUnavailable
from pipeline.config import ExecutionSettings
from pipeline.executor.dependencies import (
    KEEP_FREED_MEMORY,
    keep_freed_memory,
    native_stderr_silenced,
    quiet_dependencies,
    use_threads,
)
from stages.base import Resources, SourceChanged, Stage, Tell

WAVE_UNITS = 10_000
"""Units handed to Ray Data at once: each is an object in its store, and a million-hour run has millions."""

MOST_DEATHS_IN_OPENING = 3
"""A worker that died so often, one time after the other, while it loaded its models is not started again."""

ROLL_CALL = Unit(unit_id="", domain="", pieces=())
"""The first row of every run: it does nothing but come back once a worker of each stage has loaded its models, or could
not.
"""


class ClusterLost(Exception):
    """Ray itself failed, not a stage. What has a ledger is done; the rest is for the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the driver learns of one unit. For the display only: the ledger is the truth."""

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


class Worker:
    """One stage in one process. Holds its models from construction on; turns a bug into an answer that names it."""

    def __init__(self, stage: Stage, last: bool) -> None:
        keep_freed_memory()
        quiet_dependencies()
        use_threads(stage.resources.threads)
        self._stage, self._last = stage, last
        self._problem: Outcome | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._stage.open()
        except Exception as error:
            self._problem = _failure("", self._stage.name, error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["outcome"]:
            return row
        unit = _unpack(row)
        if self._problem is not None:
            return _answer(replace(self._problem, unit_id=unit.unit_id))
        if unit.unit_id == ROLL_CALL.unit_id:
            return _answer(Outcome(unit_id=unit.unit_id)) if self._last else _pack(unit)
        use_threads(self._stage.resources.threads)
        try:
            done = timed(self._stage, unit)
        except (StoreUnavailable, SourceChanged) as error:  # it costs this unit, and the run when it happens often
            return _answer(Outcome(unit_id=unit.unit_id, error=f"{self._stage.name}: {error}"))
        except Exception as error:
            return _answer(_failure(unit.unit_id, self._stage.name, error))
        return _answer(outcome_of(done)) if self._last else _pack(done)

    def close(self) -> None:
        if self._problem is None:
            self._stage.close()


class RestartedWorker(Worker):
    """A Worker under Ray, which starts it again whenever its process dies: for ever, if loading the models is what
    kills it.
    """

    def _open(self) -> None:
        import ray
        from ray.experimental import internal_kv

        # The actor's id outlives its processes, and the cluster's own store the actor's.
        key = f"touchasp-opening-{ray.get_runtime_context().get_actor_id()}".encode()
        deaths = int(internal_kv._internal_kv_get(key) or b"0")
        if deaths >= MOST_DEATHS_IN_OPENING:
            message = (
                f"{self._stage.name}: its worker process died {deaths} times in a row while it loaded the "
                f"models: {_KILLED}"
            )
            self._problem = Outcome(unit_id="", error=message, user_error=True)
            return
        internal_kv._internal_kv_put(key, str(deaths + 1).encode(), overwrite=True)
        super()._open()
        internal_kv._internal_kv_del(key)


def timed(stage: Stage, unit: Unit) -> Unit:
    """The unit after the stage, with the seconds that took."""
    started = time.perf_counter()
    done = stage.process(unit)
    return replace(done, busy_seconds=unit.busy_seconds | {stage.name: time.perf_counter() - started})


def _failure(unit_id: str, stage: str, error: Exception) -> Outcome:
    if isinstance(error, UserError):
        return Outcome(unit_id=unit_id, error=str(error), user_error=True)
    last = traceback.format_exc(limit=-6)
    return Outcome(unit_id=unit_id, error=f"{stage}: {type(error).__name__}: {error}\n{last}")


def outcome_of(unit: Unit) -> Outcome:
    samples = dict.fromkeys(("kept", "rejected", "non_speech", "unreadable"), 0)
    for clip in unit.clips:
        samples["kept" if clip.verdict and clip.verdict.kept else "rejected"] += clip.span.samples
    for stretch in unit.stretches:
        samples[stretch.outcome] += stretch.span.samples
    whole = (sum(samples.values()) - samples["unreadable"]) / 16_000
    clips = sum(clip.span.seconds for clip in unit.clips if not _too_short(clip))
    heard = {
        "Segment": whole,
        "Transcribe": clips,
        "Copilot": sum(c.span.seconds for c in unit.clips if len(c.hypotheses) > 1),
    }
    return Outcome(
        unit_id=unit.unit_id,
        domain=unit.domain,
        samples=samples,
        recordings=sum(piece.start == 0 for piece in unit.pieces),
        clips=len(unit.clips),
        kept_clips=sum(1 for clip in unit.clips if clip.verdict and clip.verdict.kept),
        busy_seconds=unit.busy_seconds,
        heard_seconds={name: heard.get(name, clips) for name in unit.busy_seconds},
    )


def _too_short(clip: Any) -> bool:
    rejection = clip.verdict.rejection if clip.verdict else None
    return rejection is not None and rejection.stage == "segment"


def _pack(unit: Unit) -> dict[str, Any]:
    # Audio goes as one plain binary value, which Arrow holds without a copy; the records beside it are small.
    bare = replace(unit, audio=np.zeros(0, np.int16))
    return {"unit": pickle.dumps(bare), "audio": pcm_bytes(unit.audio), "outcome": b""}


def _unpack(row: dict[str, Any]) -> Unit:
    unit: Unit = pickle.loads(row["unit"])
    return replace(unit, audio=np.frombuffer(row["audio"], dtype="<i2"))


def _answer(outcome: Outcome) -> dict[str, Any]:
    return {"unit": b"", "audio": b"", "outcome": pickle.dumps(outcome)}


def run_local(stages: list[Stage], units: list[Unit], tell: Tell | None = None) -> Iterator[Outcome]:
    """The same stages in one plain loop: the reference that Ray must equal. The first outcome is the roll call's.

    tell: called with what a stage has finished inside a unit, by the stages that count it.
    """
    workers: list[Worker] = []
    for stage in stages:
        if hasattr(stage, "tell"):
            stage.tell = tell
    try:
        workers += [Worker(stage, last=stage is stages[-1]) for stage in stages]
        for unit in [ROLL_CALL, *units]:
            row = _pack(unit)
            for worker in workers:
                row = worker(row)
            yield pickle.loads(row["outcome"])
    finally:
        for worker in workers:
            worker.close()


def run_ray(stages: list[Stage], units: list[Unit], settings: ExecutionSettings) -> Iterator[Outcome]:
    """The stages as actor pools of one Ray Data graph; one outcome is the roll call's. Ray must be running
    (`connect`).
    """
    import ray

    context = ray.data.DataContext.get_current()
    for handler in list(logging.getLogger("ray.data").handlers):
        if isinstance(handler, logging.StreamHandler):  # Ray Data's console lines; its log file stays
            handler.setLevel(logging.CRITICAL)
    warnings.filterwarnings(
        "ignore", category=ray.util.annotations.RayDeprecationWarning
    )  # **ray_remote_args has no successor yet
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A unit whose workers died more often than they may is left undone; a few such must not end the others.
    context.max_errored_blocks = settings.max_failures
    called = [ROLL_CALL, *units]
    for start in range(0, len(called), WAVE_UNITS):
        wave = [_pack(unit) for unit in called[start : start + WAVE_UNITS]]
        dataset: Any = ray.data.from_items(wave, override_num_blocks=len(wave))
        for stage in stages:
            asked = stage.resources
            dataset = dataset.map(
                RestartedWorker,
                fn_constructor_args=(stage, stage is stages[-1]),
                compute=ray.data.ActorPoolStrategy(
                    min_size=asked.min_workers, max_size=asked.max_workers, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=asked.cpus,
                num_gpus=asked.gpus or None,
                # workers come back as long as there are machines; what is bounded is the tries of one unit
                max_restarts=-1,
                max_task_retries=settings.max_task_retries,
            )
        # No prefetching, not even iter_rows' one block: it would show every outcome one unit late, the roll call's too.
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        rows = (packed for batch in batches for packed in batch["outcome"].to_pylist())
        unanswered = dict.fromkeys(unit.unit_id for unit in called[start : start + WAVE_UNITS])
        try:
            with (
                native_stderr_silenced()
            ):  # Ray's core tells about the restart of actors here, in terms that are not the user's
                first = next(rows, None)
            for row in rows if first is None else itertools.chain([first], rows):
                outcome = pickle.loads(row)
                unanswered.pop(outcome.unit_id, None)
                yield outcome
        except ray.exceptions.RayError as error:
            died = isinstance(error, ray.exceptions.ActorDiedError)
            raise ClusterLost(_WORKER_DIED if died else f"Ray stopped working ({_first_line(error)})") from error
        yield from (Outcome(unit_id=unit_id, error=_WORKER_DIED) for unit_id in unanswered)


_KILLED = "it was killed, for using too much memory perhaps, or its native code crashed"
_WORKER_DIED = f"the worker process died each time it was tried: {_KILLED}"


def connect(settings: ExecutionSettings, stages: list[Stage]) -> None:
    """Join the cluster that the settings or the environment name, or start one here that is large enough.

    Raises UserError when the cluster cannot hold the workers: Ray Data would wait for ever without a word.
    """
    address = cluster_address(settings)
    if address and ("RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").exists()):
        # Ray reads this when it is imported. With an address given it would not look at the token that lies ready.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if ray.is_initialized():
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_terminate = signal.getsignal(signal.SIGTERM)
    if address:
        _reach(address)
        try:
            with native_stderr_silenced():
                ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {address} lets us in: start one with 'ray start --head', or give its token in "
                "RAY_AUTH_TOKEN "
                f"({_first_line(error)})"
            ) from None
    else:
        wanted = sum(stage.resources.cpus * stage.resources.max_workers for stage in stages)
        # Logical CPUs only bound what runs at once; too few would starve a stage, so a laptop gets as many as the
        # stages need.
        cpus = settings.num_cpus or max(os.cpu_count() or 1, math.ceil(wanted) + 1)
        os.environ.update(KEEP_FREED_MEMORY | os.environ)  # for Ray's workers: they have threads before they are ours
        # "local": without it Ray would join any cluster that happens to run on this machine.
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
    signal.signal(signal.SIGTERM, on_terminate)  # Ray's own ends in a native stack trace
    check_fit(stages, [_free(node) for node in ray.nodes() if node["Alive"]])


def _reach(address: str) -> None:
    """One quick look whether anything listens there: Ray itself would try for minutes, and loudly. Raises UserError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # "auto", which finds a cluster of this machine or says at once that there is none
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster at {address} ({error.strerror or error}): start one with 'ray start --head'"
        ) from None


def cluster_address(settings: ExecutionSettings) -> str | None:
    """Of the running cluster to join, None to start one here. 'ray job submit' sets RAY_ADDRESS."""
    return settings.address or os.environ.get("RAY_ADDRESS") or None


def _free(node: dict[str, Any]) -> tuple[float, float]:
    return node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)


def check_fit(stages: list[Stage], nodes: list[tuple[float, float]]) -> None:
    """Proves that one node or another can hold every stage's smallest pool. Raises UserError naming the one that
    starves.
    """
    free = [list(node) for node in nodes]
    wanted: list[tuple[str, Resources]] = [
        (s.name, s.resources) for s in stages for _ in range(s.resources.min_workers)
    ]
    for name, asked in sorted(wanted, key=lambda item: (item[1].gpus, item[1].cpus), reverse=True):
        for node in free:
            if node[0] >= asked.cpus and node[1] >= asked.gpus:
                node[0] -= asked.cpus
                node[1] -= asked.gpus
                break
        else:
            have = f"{sum(n[0] for n in nodes):g} CPUs and {sum(n[1] for n in nodes):g} GPUs on {len(nodes)} node(s)"
            need_cpus = sum(item[1].cpus for item in wanted)
            need_gpus = sum(item[1].gpus for item in wanted)
            raise UserError(
                f"the cluster is too small: no node can hold a {name} worker of {asked.cpus:g} CPUs and "
                f"{asked.gpus:g} GPUs once "
                f"the others are placed (all stages need {need_cpus:g} CPUs and {need_gpus:g} GPUs; there are "
                f"{have}): lower "
                f"execution.<stage>.cpus or .gpus, or add nodes"
            )


def describe_cluster() -> str:
    """The cluster that is connected, in a few words."""
    import ray

    nodes = [_free(node) for node in ray.nodes() if node["Alive"]]
    return (
        f"Ray with {len(nodes)} node(s), {sum(n[0] for n in nodes):g} logical CPUs, {sum(n[1] for n in nodes):g} GPUs"
    )


def disconnect() -> None:
    import ray

    ray.shutdown()


def scatter(function: Callable[[list[Any]], list[Any]], items: list[Any], chunk: int) -> Iterator[list[Any]]:
    """`function` over chunks of items as Ray tasks, results in order. At most a few chunks per CPU are in flight."""
    import ray

    @ray.remote
    def work(part: list[Any]) -> list[Any]:
        return function(part)

    pending: list[Any] = []
    in_flight = 4 * int(ray.cluster_resources().get("CPU", 1))
    for start in range(0, len(items), chunk):
        pending.append(work.remote(items[start : start + chunk]))
        if len(pending) >= in_flight:
            yield _gathered(pending.pop(0))
    for reference in pending:
        yield _gathered(reference)


def _gathered(reference: Any) -> Any:
    """What a task answered. Raises its UserError as it was, without Ray's traceback around it, and ClusterLost."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None
    except ray.exceptions.RayError as error:
        raise ClusterLost(f"Ray stopped working ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
