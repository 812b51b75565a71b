"""A Ray cluster: joining or starting one, whether it can hold the stages, and work spread over its nodes.

execution.address or RAY_ADDRESS ──connect──> joined        neither ──connect──> one here, large enough
                                               └──check_fit──> UserError where a stage would wait for ever
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from operators.errors import UserError
from pipeline.config import ExecutionSettings
from pipeline.executor.dependencies import KEEP_FREED_MEMORY, native_stderr_silenced
from pipeline.executor.worker import ClusterLost, first_line
from stages.base import Resources, Stage


def connect(settings: ExecutionSettings, stages: list[Stage]) -> None:
    """Join the cluster that the settings or the environment name, or start one here that is large enough.

    Raises UserError when the cluster cannot hold the workers: Ray Data would wait for ever without a word. Raises
    ClusterLost when Ray does not start here.
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
                f"({reason(error)})"
            ) from None
    else:
        wanted = sum(stage.resources.cpus * stage.resources.max_workers for stage in stages)
        # Logical CPUs only bound what runs at once; too few would starve a stage, so a laptop gets as many as the
        # stages need.
        cpus = settings.num_cpus or max(os.cpu_count() or 1, math.ceil(wanted) + 1)
        os.environ.update(KEEP_FREED_MEMORY | os.environ)  # for Ray's workers: they have threads before they are ours
        # "local": without it Ray would join any cluster that happens to run on this machine.
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
        # Ray waits 30 s for its own processes, and raises a bare Exception when they are late.
        except Exception as error:
            raise ClusterLost(
                f"Ray did not start on this machine, which may be too busy or short of memory ({reason(error)}): try "
                "again, or set execution.runner=local"
            ) from error
    signal.signal(signal.SIGTERM, on_terminate)  # Ray's own ends in a native stack trace
    check_fit(stages, [_free(node) for node in ray.nodes() if node["Alive"]])


def _reach(address: str) -> None:
    """Look once whether anything listens there: Ray itself would try for minutes, and loudly. Raises UserError."""
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
    """Return the address of the running cluster to join, None to start one here. 'ray job submit' sets RAY_ADDRESS."""
    return settings.address or os.environ.get("RAY_ADDRESS") or None


def _free(node: dict[str, Any]) -> tuple[float, float]:
    return node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)


def check_fit(stages: list[Stage], nodes: list[tuple[float, float]]) -> None:
    """Prove that one node or another can hold every stage's smallest pool. Raises UserError naming the one that
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
                f"{have}): lower execution.<stage>.cpus or .gpus, add nodes, or give them more logical CPUs "
                "(execution.num_cpus, ray start --num-cpus)"
            )


def describe_cluster() -> str:
    """Return the cluster that is connected, in a few words."""
    import ray

    nodes = [_free(node) for node in ray.nodes() if node["Alive"]]
    return (
        f"Ray with {len(nodes)} node(s), {sum(n[0] for n in nodes):g} logical CPUs, {sum(n[1] for n in nodes):g} GPUs"
    )


def disconnect() -> None:
    import ray

    ray.shutdown()


def scatter(function: Callable[[list[Any]], list[Any]], items: Iterable[Any], chunk: int) -> Iterator[tuple[Any, Any]]:
    """Yield each item with what `function` makes of it, in order, as Ray tasks of a chunk of items each.

    A few chunks per CPU are in flight; items are taken as they are needed.
    """
    import ray

    @ray.remote
    def work(part: list[Any]) -> list[Any]:
        return function(part)

    pending: deque[tuple[list[Any], Any]] = deque()
    in_flight = 4 * int(ray.cluster_resources().get("CPU", 1))
    waiting = iter(items)
    while part := list(islice(waiting, chunk)):
        pending.append((part, work.remote(part)))
        if len(pending) >= in_flight:
            oldest, reference = pending.popleft()
            yield from zip(oldest, _gathered(reference), strict=True)
    for part, reference in pending:
        yield from zip(part, _gathered(reference), strict=True)


def _gathered(reference: Any) -> Any:
    """Return what a task answered. Raises its UserError without Ray's traceback around it, and ClusterLost."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None
    except ray.exceptions.RayError as error:
        raise ClusterLost(f"Ray stopped working ({reason(error)})") from error


def reason(error: Exception) -> str:
    """Return the first line of an error's text, its type where it says nothing."""
    return first_line(str(error)) or type(error).__name__
