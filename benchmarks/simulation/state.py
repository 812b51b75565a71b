"""Where a play stands: stages with what waits for them, workers with their unit, units with where their block lies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from benchmarks.simulation.clock import Job
from benchmarks.simulation.records import Pool, Work


@dataclass(slots=True, eq=False)
class Worker:
    stage: Stage
    node: int
    unit: Unit | None = None
    began: float | None = None
    """when, if it works on its unit"""
    job: Job | None = None
    up: bool = False
    new: bool = True
    """as long as it has had no unit"""
    life: int = 0
    """raised by every death: what was due in an earlier life is not done."""
    tries: int = 0


@dataclass(slots=True, eq=False)
class Unit:
    work: Work
    at_node: int = -1
    """where its block lies, -1 for the plan's, which the driver keeps."""
    since: float = 0.0
    """when it came to lie there."""
    spent: list[tuple[str, float]] = field(default_factory=list)
    """by stage, in this life of it: to be counted useful in the end, or wasted."""


@dataclass(slots=True, eq=False)
class Stage:
    pool: Pool
    at: int
    queue: deque[Unit] = field(default_factory=deque)
    idle: deque[Worker] = field(default_factory=deque)
    working: int = 0
    queued_bytes: float = 0.0
    working_bytes: float = 0.0
    out: int = 0
    """units that came out, and their bytes: what the next one will be is guessed from them."""
    out_bytes: float = 0.0
