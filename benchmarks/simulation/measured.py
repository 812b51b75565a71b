"""What a measured run says of stages, machine and driver, and units to play that are made of it.

python -m benchmarks.pipeline --trace FILE ──> Trace ──Measured.of──> processor time of each unit at each stage,
                                                │                     crowding, Ray's own share, hand-over
                                                └──check: the run as it went against the run as it is played
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.simulation.model import play
from benchmarks.simulation.records import Machines, Played, Pool, Work

MOST_OTHERS, LONGEST_GAP = 0.3, 3.0
"""Cores that others may take of a run that counts, and seconds between looks at the clock that should be one apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A Visit is one unit at one stage, by the clock and by its processor time."""

    unit: str
    stage: str
    start: float
    end: float
    cpu: float
    audio_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A Run is one measured run of the pipeline, from the moment when every worker had loaded its models."""

    workers: int
    stages: tuple[str, ...]
    audio_seconds: dict[str, float]
    """by unit, in the order of the plan"""
    visits: tuple[Visit, ...]
    seconds: float
    last_answer: float
    """seconds from its begin"""
    cpu: float
    """of all its processes"""
    workers_cpu: float
    """of its workers and what they start"""
    startup: float
    others: float
    taken: tuple[tuple[float, float], ...]
    """cores that other programs took, by the second from which on"""
    longest_gap: float

    @property
    def order(self) -> list[str]:
        """Return the units as the first stage took them. Ray Data keeps to no order after that."""
        first = [visit for visit in self.visits if visit.stage == self.stages[0]]
        return [visit.unit for visit in sorted(first, key=lambda visit: visit.start)]

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much, or the machine stood still, that its seconds say little."""
        return self.others > MOST_OTHERS or self.longest_gap > LONGEST_GAP

    @property
    def stage_cpu(self) -> float:
        return sum(visit.cpu for visit in self.visits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A Trace is what `benchmarks.pipeline --trace` wrote."""

    cores: int
    audio_seconds: float
    runs: dict[int, Run]
    """by workers of a stage"""
    crowding: float | None
    """processor time of two loops side by side over that of one loop, where both ran"""


def read(path: Path) -> Trace:
    """Return the runs of a trace. Where one was repeated, the quickest counts."""
    found = json.loads(path.read_text())
    runs: dict[int, Run] = {}
    for name, some in found["runs"].items():
        kind, _, workers = name.partition("-")
        if kind == "ray":
            runs[int(workers)] = _run(int(workers), min(some, key=lambda run: run["work"]))
    crowding = None
    if {"bare", "bare-x2"} <= found["runs"].keys():
        one, two = (min(run["cpu"] for run in found["runs"][name]) for name in ("bare", "bare-x2"))
        crowding = max(1.0, two / one)
    return Trace(cores=found["cores"], audio_seconds=found["audio_seconds"], runs=runs, crowding=crowding)


def _run(workers: int, found: dict[str, Any]) -> Run:
    trace, zero = found["trace"], found["trace"]["ready"]
    visits = tuple(
        Visit(
            unit=each["unit"],
            stage=each["stage"],
            start=each["start"] - zero,
            end=each["end"] - zero,
            cpu=each["cpu"],
            audio_bytes=each["audio_bytes"],
        )
        for each in trace["work"]
    )
    return Run(
        workers=workers,
        stages=tuple(trace["stages"]),
        audio_seconds=trace["seconds"],
        visits=visits,
        seconds=found["work"],
        last_answer=max(trace["answered"].values()) - zero,
        cpu=found["cpu"],
        workers_cpu=sum(
            seconds for name, seconds in found["cpu_by_process"].items() if "MapWorker" in name or "isolated" in name
        ),
        startup=found["startup"],
        others=found["others"],
        taken=_taken(trace["taken"], zero, trace["end"]) if "taken" in trace else ((0.0, found["others"]),),
        longest_gap=found["longest_gap"],
    )


def _taken(samples: Sequence[tuple[float, float, float]], begin: float, end: float) -> tuple[tuple[float, float], ...]:
    """Return what others took between one sample and the next: the machine's processor time without ours. In the last
    seconds Ray's workers are gone before they are counted, so the mean stands for them.
    """
    known = [
        (max(0.0, before - begin), max(0.0, all_now - all_before - (own_now - own_before)), now - before)
        for (before, own_before, all_before), (now, own_now, all_now) in itertools.pairwise(samples)
        if now > begin and now < end - UNCOUNTED_SECONDS
    ]
    mean = sum(seconds for _, seconds, _ in known) / sum(passed for *_, passed in known)
    return (*((at, seconds / passed) for at, seconds, passed in known), (end - begin - UNCOUNTED_SECONDS, mean))


UNCOUNTED_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measured is what a run with one worker a stage says, by which other runs are played.

    Args:
        stages: their names, in order.
        units: what each unit took of each stage alone on its core, and what it handed on.
        audio_seconds: of each unit.
        first_seconds: by stage, processor time of a worker's first unit beyond what its audio takes.
        crowding: see `Cores`.
        ray, of_worker: cores that Ray's own processes take, and that a worker takes beside its units.
        handoff_seconds, turnaround_seconds, closing_seconds: see `Machines`; closing is after the last answer.
        cores: of the machine.
    """

    stages: tuple[str, ...]
    units: tuple[Work, ...]
    audio_seconds: tuple[float, ...]
    first_seconds: tuple[float, ...]
    crowding: float
    ray: float
    of_worker: float
    handoff_seconds: float
    turnaround_seconds: float
    closing_seconds: float
    cores: int

    @classmethod
    def of(cls, trace: Trace) -> Measured:
        """Return what the run of a trace with one worker a stage says. Raises ValueError where it has none."""
        if 1 not in trace.runs or trace.crowding is None:
            raise ValueError("calibration needs the variants bare, bare-x2 and ray-1 in one trace")
        run, crowding = trace.runs[1], trace.crowding
        audio = run.audio_seconds
        alone: dict[tuple[str, str], float] = {}
        first_seconds: list[float] = []
        for stage in run.stages:
            here = sorted((visit for visit in run.visits if visit.stage == stage), key=lambda visit: visit.start)
            cpu = {visit.unit: visit.cpu / (1 + (crowding - 1) * _beside_others(visit, run.visits)) for visit in here}
            rate = median(cpu[visit.unit] / audio[visit.unit] for visit in here[1:])
            first = here[0].unit
            more = max(0.0, cpu[first] - rate * audio[first])
            if more > rate * audio[first]:  # no doubt: twice as long and more
                cpu[first] -= more
                first_seconds.append(more)
            else:
                first_seconds.append(0.0)
            alone |= {(unit, stage): seconds for unit, seconds in cpu.items()}
        size = {(visit.unit, visit.stage): visit.audio_bytes for visit in run.visits}
        units = tuple(
            Work(
                name=unit,
                cpu=tuple(alone[unit, stage] for stage in run.stages),
                bytes=(*(size[unit, stage] for stage in run.stages[:-1]), 0.0),
            )
            for unit in audio
        )
        handoff, turnaround = _gaps(run)
        return cls(
            stages=run.stages,
            units=units,
            audio_seconds=tuple(audio.values()),
            first_seconds=tuple(first_seconds),
            crowding=crowding,
            ray=(run.cpu - run.workers_cpu) / run.seconds,
            of_worker=max(0.0, run.workers_cpu - run.stage_cpu) / run.seconds / len(run.stages),
            handoff_seconds=handoff,
            turnaround_seconds=turnaround,
            closing_seconds=max(0.0, run.seconds - run.last_answer),
            cores=trace.cores,
        )

    def like(self, audio_seconds: dict[str, float], dice: random.Random) -> list[Work]:
        """Return units of other audio: each takes for a second what a measured one took, of its domain if any."""
        rates: defaultdict[str, list[int]] = defaultdict(list)
        for at, unit in enumerate(self.units):
            rates[_domain(unit.name)].append(at)
        everything = list(range(len(self.units)))
        return [
            self._scaled(name, seconds, dice.choice(rates.get(_domain(name), everything)))
            for name, seconds in audio_seconds.items()
        ]

    def _scaled(self, name: str, seconds: float, at: int) -> Work:
        unit, factor = self.units[at], seconds / self.audio_seconds[at]
        return replace(
            unit,
            name=name,
            cpu=tuple(factor * each for each in unit.cpu),
            bytes=tuple(factor * each for each in unit.bytes),
        )

    def on_this_machine(self, units: Sequence[Work], workers: int, taken: tuple[tuple[float, float], ...]) -> Played:
        """Play a run as `benchmarks.pipeline` measures one: models loaded, so many workers a stage, local files, and
        what other programs took of the machine meanwhile.
        """
        everyone = workers * len(self.stages)
        machines = Machines(
            cores=self.cores,
            crowding=self.crowding,
            background=self.ray + everyone * self.of_worker,
            handoff_seconds=self.handoff_seconds,
            turnaround_seconds=self.turnaround_seconds,
            wave_seconds=self.closing_seconds,
            taken=taken,
        )
        return play(units, self.pools(workers), machines)

    def pools(self, workers: int, open_seconds: float = 0.0) -> list[Pool]:
        """Return a pool of so many workers for each stage."""
        return [
            Pool(stage=stage, workers=workers, open_seconds=open_seconds, first_seconds=first)
            for stage, first in zip(self.stages, self.first_seconds, strict=True)
        ]


def _domain(unit: str) -> str:
    return unit.rpartition("-")[0]


def _beside_others(visit: Visit, visits: Sequence[Visit]) -> float:
    """Return the share of a visit during which another worker worked, too."""
    others = sorted(
        (max(each.start, visit.start), min(each.end, visit.end))
        for each in visits
        if each is not visit and each.start < visit.end and each.end > visit.start
    )
    covered, until = 0.0, visit.start
    for start, end in others:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / (visit.end - visit.start) if visit.end > visit.start else 0.0


def _gaps(run: Run) -> tuple[float, float]:
    """Return the mean seconds from a unit's end until an idle next stage began with it, and from a worker's end until
    it began with a unit that waited for it.
    """
    ends = {(visit.unit, visit.stage): visit.end for visit in run.visits}
    handoffs: list[float] = []
    turnarounds: list[float] = []
    for before, stage in zip((None, *run.stages), run.stages, strict=False):
        here = sorted((visit for visit in run.visits if visit.stage == stage), key=lambda visit: visit.start)
        for earlier, visit in zip((None, *here), here, strict=False):
            arrived = 0.0 if before is None else ends[visit.unit, before]
            idle_since = 0.0 if earlier is None else earlier.end
            if arrived > idle_since and before is not None:
                handoffs.append(visit.start - arrived)
            elif earlier is not None:
                turnarounds.append(visit.start - idle_since)
    handoff, turnaround = (sum(some) / len(some) if some else 0.0 for some in (handoffs, turnarounds))
    return handoff, turnaround
