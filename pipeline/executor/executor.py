"""What curation asks of an executor, and which one the settings name.

Curation ──units──> Executor ──events──> Ready, then an Outcome for each unit
                    RayExecutor (ray_data.py), or LocalExecutor (local.py), which is the reference for it
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from operators.clip import Unit
from pipeline.config import ExecutionSettings
from pipeline.executor.worker import Event
from stages.base import Stage, Tell


class Metrics(Protocol):
    """Metrics take values under the names of pipeline/executor/metrics.py, with labels."""

    def set(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...


class Executor(Protocol):
    """An Executor runs the stages that it was made with. What it says is for the display: the ledgers are the truth."""

    def connect(self) -> str | None:
        """Get what the stages need; return it in a few words, None where there is nothing to say. Raises UserError."""

    def run(self, units: Iterable[Unit], tell: Tell | None = None) -> Generator[Event, None, None]:
        """Yield Ready once a worker of every stage has loaded its models, then an Outcome for each unit, in any order.

        `tell` is called with what a stage has finished inside a unit, from another thread perhaps.

        Raises EngineFailed, UserError for a mistake that a worker met, ClusterLost.
        """

    def scatter(
        self, function: Callable[[list[Any]], list[Any]], items: Iterable[Any], chunk: int
    ) -> Iterator[tuple[Any, Any]]:
        """Yield each item with what `function` makes of it, in order, worked out in chunks by the nodes of a cluster.

        Items are taken as they are needed, so there may be more than memory holds.
        """

    def metrics(self, run: str) -> Metrics | None:
        """Return where the metrics of a run go once all is connected, None where nobody collects them."""

    def close(self) -> None: ...


def executor_for(settings: ExecutionSettings, stages: list[Stage]) -> Executor:
    """Return the executor that `execution.runner` names."""
    if settings.runner == "ray":
        from pipeline.executor.ray_data import RayExecutor

        return RayExecutor(settings, stages)
    from pipeline.executor.local import LocalExecutor

    return LocalExecutor(stages)
