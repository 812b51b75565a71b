"""What happens next: a clock of events, cores that share their time, and a gate that lets so many through a second.

Clock.after(seconds, action) ──> action at its time, in the order asked for where two are due at once
Cores.work(seconds, action)  ──> action when that much processor time was had, whoever else wants some
Gate.seconds_to_wait()       ──> how long a request waits for its turn
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

Action = Callable[[], None]


class Clock:
    """A Clock holds what is due and the time, in seconds from the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Action]] = []
        self._numbers = count()

    def after(self, seconds: float, action: Action) -> None:
        """Have something done so many seconds from now."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), action))

    def run(self, until: Callable[[], bool]) -> None:
        """Do what is due, in its order, until `until` is true or nothing is left."""
        while self._due and not until():
            self.now, _, action = heapq.heappop(self._due)
            action()


@dataclass(slots=True, eq=False)
class Job:
    """A Job is work of one thread that has so many seconds of processor time to go."""

    seconds: float
    then: Action


@dataclass(slots=True)
class Cores:
    """Cores share their time evenly among the jobs on them, none of which can use more than one core.

    crowding: what a second of work costs while another core works too, for memory and caches are shared. speed: of a
    core, 1 where the work was measured.
    """

    clock: Clock
    cores: float
    crowding: float = 1.0
    speed: float = 1.0
    jobs: dict[Job, None] = field(default_factory=dict)
    _at: float = 0.0
    _version: int = 0

    def work(self, seconds: float, then: Action) -> Job:
        """Begin a job, and call `then` when it is done."""
        self._catch_up()
        job = Job(seconds, then)
        self.jobs[job] = None
        self._plan()
        return job

    def end(self, job: Job) -> None:
        """Take a job away before it is done, if it is still there."""
        self._catch_up()
        if self.jobs.pop(job, self) is None:
            self._plan()

    def change(self, cores: float) -> None:
        """Go on with so many cores, for other programs come and go."""
        self._catch_up()
        self.cores = cores
        self._plan()

    def _pace(self) -> float:
        share = self.speed * min(1.0, self.cores / len(self.jobs))
        return share if len(self.jobs) < 2 else share / self.crowding

    def _catch_up(self) -> None:
        passed, self._at = self.clock.now - self._at, self.clock.now
        if passed > 0 and self.jobs:
            done = passed * self._pace()
            for job in self.jobs:
                job.seconds -= done

    def _plan(self) -> None:
        self._version += 1
        if self.jobs:
            first = min(job.seconds for job in self.jobs)
            version = self._version
            self.clock.after(max(0.0, first) / self._pace(), lambda: self._look(version))

    def _look(self, version: int) -> None:
        if version != self._version:
            return  # another job came or went since
        self._catch_up()
        least = min(job.seconds for job in self.jobs)
        done = [job for job in self.jobs if job.seconds <= least]
        for job in done:
            del self.jobs[job]
        self._plan()
        for job in done:
            job.then()


@dataclass(slots=True)
class Gate:
    """A Gate lets through so many requests a second, one after the other."""

    clock: Clock
    per_second: float
    _free_at: float = 0.0

    def seconds_to_wait(self, requests: int) -> float:
        """Take the next turns for some requests and return how long the last of them waits."""
        begin = max(self.clock.now, self._free_at)
        self._free_at = begin + requests / self.per_second
        return self._free_at - 1 / self.per_second - self.clock.now if requests else 0.0
