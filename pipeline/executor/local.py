"""The plain loop: the same stages over the same units in this process. It is the reference that Ray must equal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from operators.clip import Unit
from pipeline.executor.worker import Event, Worker, called, events, pack, scatter_here
from stages.base import Stage, Tell


class LocalExecutor:
    """A LocalExecutor takes each unit through all stages before it takes the next. See `Executor`."""

    def __init__(self, stages: list[Stage]) -> None:
        self._stages = stages

    def connect(self) -> None:
        return None

    def run(self, units: Iterable[Unit], tell: Tell | None = None) -> Generator[Event, None, None]:
        with closing(
            self._outcomes(units, tell)
        ) as outcomes:  # also when `events` raises: workers let go of their models
            yield from events(outcomes)

    def _outcomes(self, units: Iterable[Unit], tell: Tell | None) -> Generator[bytes, None, None]:
        workers: list[Worker] = []
        try:
            workers += [Worker(stage, last=stage is self._stages[-1], tell=tell) for stage in self._stages]
            for unit in called(units):
                row = pack(unit)
                for worker in workers:
                    row = worker(row)
                yield row["outcome"]
        finally:
            for worker in workers:
                worker.close()

    def scatter(
        self, function: Callable[[list[Any]], list[Any]], items: Iterable[Any], chunk: int
    ) -> Iterator[tuple[Any, Any]]:
        return scatter_here(function, items)

    def metrics(self, run: str) -> None:
        return None

    def close(self) -> None:
        pass
