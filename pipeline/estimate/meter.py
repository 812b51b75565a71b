"""What each stage takes of the machine for each chunk, measured from outside while the stages work as in any run.

    Stage ──MeteredStage: open, process──> Cost: CPU seconds and wall seconds, reading apart
    Fetch ──MeteredFetch: from the file asked for to the samples in hand──> reading

Reading is counted apart because it does not grow with the audio that is wanted: a decoder runs through all that lies
before it, and from S3 the whole recording is downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from operators.clip import Unit
from stages.base import Fetcher, Resources, Stage, Tell


@dataclass(frozen=True, slots=True)
class Cost:
    """A Cost is time: of processors, those of child processes among them, and on the wall."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.cpu - other.cpu, self.wall - other.wall)


def spent() -> Cost:
    """Return what this process and its children have spent so far; only differences mean anything."""
    cpu, this = time.process_time(), psutil.Process()
    ended = this.cpu_times()
    cpu += ended.children_user + ended.children_system
    for child in this.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it has just ended: those who waited for it count it
            continue
        cpu += times.user + times.system
    return Cost(cpu, time.perf_counter())


@dataclass
class Meter:
    """A Meter holds the costs of stages by unit, and of their openings."""

    openings: dict[str, Cost] = field(default_factory=dict)
    """by stage."""
    work: dict[tuple[str, str], Cost] = field(default_factory=dict)
    """by unit and stage, without reading."""
    reading: dict[tuple[str, str], Cost] = field(default_factory=dict)
    """by unit and stage."""
    _read: Cost = field(default_factory=Cost, init=False)

    @contextmanager
    def read(self) -> Iterator[None]:
        """Count what is spent in the context as reading."""
        before = spent()
        try:
            yield
        finally:
            self._read += spent() - before

    def take_read(self) -> Cost:
        """Return what was spent on reading since the last call."""
        found, self._read = self._read, Cost()
        return found


@dataclass
class MeteredFetch:
    """A MeteredFetch counts as reading what is done while a source's file is at hand."""

    fetcher: Fetcher
    meter: Meter

    @contextmanager
    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> Iterator[str]:
        with self.meter.read(), self.fetcher.fetch(uri, member) as path:
            yield path


class MeteredStage:
    """A MeteredStage is a stage, and writes down what it costs."""

    def __init__(self, stage: Stage, meter: Meter) -> None:
        self._stage, self._meter = stage, meter
        self.resources: Resources = stage.resources
        if hasattr(stage, "tell"):
            self.tell: Tell | None = None

    @property
    def name(self) -> str:
        return self._stage.name

    def open(self) -> None:
        before = spent()
        self._stage.open()
        self._meter.openings[self.name] = spent() - before

    def process(self, unit: Unit) -> Unit:
        if hasattr(self, "tell"):
            self._stage.tell = self.tell  # type: ignore[attr-defined]
        key = unit.unit_id, self.name
        self._meter.take_read()
        before = spent()
        done = self._stage.process(unit)
        self._meter.reading[key] = self._meter.take_read()
        self._meter.work[key] = spent() - before - self._meter.reading[key]
        return done

    def heard_seconds(self, unit: Unit) -> float:
        return self._stage.heard_seconds(unit)

    def close(self) -> None:
        self._stage.close()
