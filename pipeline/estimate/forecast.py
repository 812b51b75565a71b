"""From what some chunks took and kept to the whole plan, with intervals.

    a chunk's work, kept time, bytes, each per second of its audio ──mean over chunks──> x seconds of the plan
    a chunk's reading, per second that the decoder runs through ────────────────────────> x those of the plan
    the same without one chunk, for each chunk ──delete-one jackknife──> standard error ──Student's t──> 95 %

The mean of rates is the Horvitz-Thompson estimator of a sample in which every second of the plan is as likely
(Cochran, "Sampling Techniques", 3rd edition, 1977, section 9A.2); the jackknife is Tukey's (Efron and Stein 1981). With
n chunks t has n - 1 degrees of freedom, so few chunks give wide intervals, and one gives none. What of the plan is in
the sample is known: the rest alone is uncertain (finite population correction). Start-up is not scaled: every worker
pays it once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import betaincinv, stdtrit

from operators.resampling import Estimate
from pipeline.config import Prices
from pipeline.estimate.meter import Cost
from stages.base import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A Measured is what one chunk took and gave."""

    expected_seconds: float
    read_seconds: float
    kept_seconds: float
    kept_bytes: int
    """of its tar and ledger."""
    work: Mapping[str, Cost]
    """by stage, without reading."""
    reading: Mapping[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A Wanted is the whole plan, and what it will run on."""

    units: int
    expected_seconds: float
    read_seconds: float
    share: float
    """of the plan in the sample, 0-1."""
    resources: Mapping[str, Resources]
    """by stage, in their order."""
    start_up: Mapping[str, Cost]
    """of one worker, by stage."""
    one_process: bool
    """whether the stages run one after the other, in one process."""
    cores: int | None
    """of the one machine that it will run on; None where that is a cluster's affair."""
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageForecast:
    """A StageForecast is what one stage takes for the whole plan, in hours of all its workers."""

    name: str
    workers: int
    cpu_hours: Estimate
    gpu_hours: Estimate | None
    """None where the stage asks for no GPU."""
    real_time_factor: float | None
    """seconds of the plan's audio in a second of one worker's work."""
    start_up: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A Forecast is what a plan takes and gives."""

    stages: tuple[StageForecast, ...]
    cpu_hours: Estimate
    gpu_hours: Estimate | None
    kept_seconds: Estimate
    shards: Estimate
    """with its interval only: a unit has one where it keeps anything."""
    gigabytes: Estimate
    wall_hours: Estimate
    pace: str
    """what the wall time is set by: a stage, or "CPUs"."""
    cost: Estimate | None
    """of the hours of work, and storage; None without prices."""
    cost_reserved: Estimate | None
    """the same, when all workers are paid for from beginning to end."""


def forecast(chunks: Sequence[Measured], wanted: Wanted) -> Forecast:
    """Return the forecast of a plan from one chunk or more."""
    values = _Values(chunks, wanted)
    names = list(wanted.resources)
    cpu = {name: values.cpu(name) for name in names}
    busy = {name: values.busy(name) for name in names}
    gpu = {name: busy[name] * wanted.resources[name].gpus for name in names}
    cpu_all, gpu_all = sum(cpu.values()), sum(gpu.values())
    limits = values.limits(cpu_all)  # type: ignore[arg-type]
    opening = sum(each.wall for each in wanted.start_up.values()) / 3600
    wall = opening + np.max([*limits.values()], axis=0)
    kept = values.whole([chunk.kept_seconds for chunk in chunks])
    gigabytes = values.whole([chunk.kept_bytes for chunk in chunks]) / 1e9
    has_gpu = any(resources.gpus for resources in wanted.resources.values())
    prices, stored = wanted.prices, (wanted.prices.gigabyte or 0.0) * gigabytes
    of_work = (prices.cpu_hour or 0.0) * cpu_all + (prices.gpu_hour or 0.0) * gpu_all + stored
    cpus, gpus = (
        sum(getattr(each, what) * values.workers(name) for name, each in wanted.resources.items())
        for what in ("cpus", "gpus")
    )
    reserved = wall * (cpus * (prices.cpu_hour or 0.0) + gpus * (prices.gpu_hour or 0.0)) + stored
    of = values.estimate
    return Forecast(
        stages=tuple(
            StageForecast(
                name=name,
                workers=values.workers(name),
                cpu_hours=of(cpu[name]),
                gpu_hours=of(gpu[name]) if wanted.resources[name].gpus else None,
                real_time_factor=wanted.expected_seconds / 3600 / busy[name][0] if busy[name][0] else None,
                start_up=wanted.start_up[name],
            )
            for name in names
        ),
        cpu_hours=of(np.asarray(cpu_all)),
        gpu_hours=of(np.asarray(gpu_all)) if has_gpu else None,
        kept_seconds=_kept(of(kept), len(chunks), wanted),
        shards=_shards(chunks, wanted),
        gigabytes=of(gigabytes),
        wall_hours=of(wall),
        pace=max(limits, key=lambda name: limits[name][0]),
        cost=of(np.asarray(of_work)) if prices.given else None,
        cost_reserved=of(np.asarray(reserved)) if prices.given else None,
    )


class _Values:
    """Every figure as an array [1 + n]: from all n chunks, then without each of them."""

    def __init__(self, chunks: Sequence[Measured], wanted: Wanted) -> None:
        self._chunks, self._wanted = chunks, wanted
        count = len(chunks)
        self._in = np.concatenate([np.ones((1, count)), 1 - np.eye(count)]) if count > 1 else np.ones((1, 1))
        expected = np.array([chunk.expected_seconds for chunk in chunks])
        # A whole plan is summed as it is: its units without a length are in it, and its rates have no use.
        self._weights = wanted.expected_seconds / np.maximum(expected, 1e-9) if wanted.share < 1 else np.ones(count)

    def whole(self, column: Sequence[float]) -> np.ndarray:
        """Return what the plan has of something, by what each chunk has of it."""
        weighed = self._in @ (self._weights * np.asarray(column, float))
        return weighed / self._in.sum(axis=1) if self._wanted.share < 1 else weighed

    def _read(self, column: Sequence[float]) -> np.ndarray:
        if self._wanted.share >= 1:
            return self.whole(column)
        seconds = self._in @ np.array([chunk.read_seconds for chunk in self._chunks])
        return self._wanted.read_seconds * (self._in @ np.asarray(column, float)) / np.maximum(seconds, 1e-9)

    def workers(self, name: str) -> int:
        return 1 if self._wanted.one_process else self._wanted.resources[name].max_workers

    def cpu(self, name: str) -> np.ndarray:
        """Return the CPU hours of a stage, start-up of its workers among them."""
        work = self.whole([chunk.work[name].cpu for chunk in self._chunks])
        reading = self._read([chunk.reading[name].cpu for chunk in self._chunks])
        return (work + reading + self.workers(name) * self._wanted.start_up[name].cpu) / 3600

    def busy(self, name: str) -> np.ndarray:
        """Return the hours that the workers of a stage are at work, added up."""
        work = self.whole([chunk.work[name].wall for chunk in self._chunks])
        return (work + self._read([chunk.reading[name].wall for chunk in self._chunks])) / 3600

    def limits(self, cpu_hours: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the run can be no faster than, in hours, by what holds it."""
        names = list(self._wanted.resources)
        if self._wanted.one_process:
            return {"one process": np.asarray(sum(self.busy(name) for name in names))}
        found = {name: self.busy(name) / self.workers(name) for name in names}
        if self._wanted.cores is not None:
            found["CPUs"] = cpu_hours / self._wanted.cores
        return found

    def estimate(self, values: np.ndarray) -> Estimate:
        """Return a figure with its interval."""
        value, without = float(values[0]), values[1:]
        count = len(without)
        if self._wanted.share >= 1:
            return Estimate(value, value, value)
        if count < 2:
            return Estimate(value, None, None)
        spread = math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
        half = float(stdtrit(count - 1, 0.975)) * spread * math.sqrt(1 - self._wanted.share)
        return Estimate(value, max(0.0, value - half), value + half)


def _kept(found: Estimate, chunks: int, wanted: Wanted) -> Estimate:
    """Return the kept time with an upper end that it can reach, also where no chunk kept anything."""
    if found.high is None or wanted.share >= 1:
        return found
    most = wanted.expected_seconds
    if not found.value:  # no spread to go by: at 95 % no more chunks than this may keep what these did not
        most *= 1 - 0.05 ** (1 / chunks)
        return Estimate(found.value, 0.0, most)
    return Estimate(found.value, found.low, min(found.high, most))


def _shards(chunks: Sequence[Measured], wanted: Wanted) -> Estimate:
    """Return between how many shards there will be: a longer unit keeps something sooner than a chunk of it.

    The lower end is that of the share of chunks which kept anything (Clopper and Pearson 1934).
    """
    count, kept = len(chunks), sum(chunk.kept_seconds > 0 for chunk in chunks)
    if wanted.share >= 1:
        return Estimate(kept, kept, kept)
    low = float(betaincinv(kept, count - kept + 1, 0.025)) if kept else 0.0
    high = wanted.units if kept else wanted.units * (1 - 0.05 ** (1 / count))
    return Estimate(None, math.floor(low * wanted.units), math.ceil(high))
