"""How efficiency falls as workers are added, from 1 to 256 a stage, and what to set against it.

    python -m benchmarks.scale --simulate                           the check and the curve, about two minutes
    python -m benchmarks.scale --simulate --traces A.json,B.json    by traces of your own machine, the first calibrates

    trace ──Measured.of──> units of half an hour, made of measured ones ──play, N workers──> tables, a picture

Efficiency is the time that the busiest stage's work would take, shared evenly among its workers and nothing else, over
the time that the run takes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median

from benchmarks.simulation.measured import Measured, Trace, read
from benchmarks.simulation.model import play
from benchmarks.simulation.picture import Line, draw
from benchmarks.simulation.records import Machines, Played, Pool, StoreSpeed, Trouble, Work
from benchmarks.targets import show_targets
from pipeline.executor.ray_data import WAVE_UNITS

TRACES = Path(__file__).with_name("traces")
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST = 0.95
UNITS = 10_000
"""Of half an hour: one wave of a long run, or all of one of 5,000 hours."""
GPU = 20.0
"""How many times as quick Transcribe is taken to be on a GPU: an assumption, nothing was measured on one."""
BUSIEST, PLAYED_OFTEN = 64, 2_000
"""Workers for which the other stages' are sought, and units of these plays, of which there are some forty."""
PLAYS = 20
"""Draws of units that were not measured, of which the median counts."""

NODE_CORES, NODE_OBJECT_STORE = 16, 19e9
STORE = StoreSpeed(latency=0.05, spread=0.5, bytes_per_second=50e6, reads_per_second=5500, writes_per_second=3500)
TROUBLE = Trouble(
    errors=0.001, deaths_per_hour=0.01, losses_per_hour=0.05, slow_nodes=0.05, slow_speed=0.7, straggling=0.1
)
READS, READ_BYTES, WRITTEN_BYTES = 5, 8_000, 16_000
"""Recordings of half an hour; bytes of a second of audio as it is fetched, and as FLAC where a half is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The driver's processor time for each unit at each stage, and for each worker: `benchmarks.simulation.driver`."""

    seconds: float = 0.003
    of_worker: float = 0.0


DRIVER = Driver()


# --- against measured runs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A measured run and the same as it is played. What calibrated the play, or was disturbed, proves little."""

    what: str
    played: float
    measured: float
    calibrates: bool
    disturbed: bool

    @property
    def difference(self) -> float:
        """Return by what share the play is longer."""
        return self.played / self.measured - 1

    @property
    def note(self) -> str:
        return ", ".join(["calibrates"] * self.calibrates + ["disturbed by other programs"] * self.disturbed)


def check(traces: Sequence[Trace]) -> list[Checked]:
    """Play every measured run in the order in which it took its units, by what the first trace's run with one worker a
    stage says.
    """
    measured, found = Measured.of(traces[0]), []
    by_name = {unit.name: unit for unit in measured.units}
    for trace in traces:
        for workers, run in sorted(trace.runs.items()):
            known = trace is traces[0]
            if known:
                plays = [measured.on_this_machine([by_name[name] for name in run.order], workers, run.taken)]
            else:
                audio_seconds = {name: run.audio_seconds[name] for name in run.order}
                drawn = (measured.like(audio_seconds, random.Random(seed)) for seed in range(PLAYS))
                plays = [measured.on_this_machine(units, workers, run.taken) for units in drawn]
            minutes = sum(run.audio_seconds.values()) / 60
            found.append(
                Checked(
                    what=f"{minutes:.0f} minutes, {len(run.audio_seconds)} units, {workers} worker(s) a stage",
                    played=median(each.seconds for each in plays),
                    measured=run.seconds,
                    calibrates=known and workers == 1,
                    disturbed=run.disturbed,
                )
            )
    return found


# --- a cluster --------------------------------------------------------------------------------------------------------


def half_hours(measured: Measured, count: int, minutes: float = 30.0, seed: int = 0) -> list[Work]:
    """Return units as long as a plan makes them, each of measured units of one domain, drawn again and again."""
    dice = random.Random(seed)
    by_domain: dict[str, list[int]] = {}
    for at, unit in enumerate(measured.units):
        by_domain.setdefault(unit.name.rpartition("-")[0], []).append(at)
    domains, units = sorted(by_domain), []
    for number in range(count):
        of = by_domain[dice.choice(domains)]
        left, parts = minutes * 60, list[tuple[float, Work]]()
        while left > 0:
            at = dice.choice(of)
            share = min(1.0, left / measured.audio_seconds[at])
            parts.append((share, measured.units[at]))
            left -= share * measured.audio_seconds[at]
        units.append(
            Work(
                name=f"unit-{number:06d}",
                cpu=tuple(sum(share * part.cpu[at] for share, part in parts) for at in range(len(measured.stages))),
                bytes=tuple(sum(share * part.bytes[at] for share, part in parts) for at in range(len(measured.stages))),
                reads=max(1, round(READS * minutes / 30)),
                read_bytes=READ_BYTES * minutes * 60,
                written_bytes=WRITTEN_BYTES * minutes * 60,
            )
        )
    return units


def faster(units: Sequence[Work], stage: int, factor: float) -> list[Work]:
    """Return the units as they would be where a stage were so many times as quick, on a GPU perhaps."""
    return [
        replace(unit, cpu=tuple(each / factor if at == stage else each for at, each in enumerate(unit.cpu)))
        for unit in units
    ]


def worker_seconds(measured: Measured, units: Sequence[Work]) -> list[float]:
    """Return for each stage how long a worker has a unit, in the mean: at work, at the store, until the next one."""
    some = units[:: max(1, len(units) // 1000)]
    seconds = [sum(unit.cpu[at] for unit in some) / len(some) for at in range(len(measured.stages))]
    reading, writing = (
        sum(requests(unit) * STORE.latency + size(unit) / STORE.bytes_per_second for unit in some) / len(some)
        for requests, size in (
            (lambda unit: unit.reads, lambda unit: unit.read_bytes),
            (lambda _: 2, lambda unit: unit.written_bytes),
        )
    )
    seconds[0] += reading
    seconds[-1] += writing
    return [each + measured.turnaround_seconds for each in seconds]


def pools_for(measured: Measured, units: Sequence[Work], workers: int, spare: float = 1.25) -> list[Pool]:
    """Return pools of which the busiest stage's has so many workers, and the others what they need and a quarter."""
    means = worker_seconds(measured, units)
    most = max(means)
    pools = measured.pools(1, OPEN_SECONDS)
    return [
        replace(pool, workers=workers if mean == most else max(1, ceil(spare * workers * mean / most)))
        for pool, mean in zip(pools, means, strict=True)
    ]


OPEN_SECONDS = 10.0
"""of processor time, for a worker to start and to load its models: start-up with one worker a stage, by stages."""


def cluster(measured: Measured, pools: Sequence[Pool], driver: Driver = DRIVER) -> Machines:
    """Return nodes that have a core for every worker, with a driver apart."""
    nodes = ceil(sum(pool.workers for pool in pools) / NODE_CORES)
    return Machines(
        nodes=nodes,
        cores=NODE_CORES,
        driver_apart=True,
        driver_seconds=driver.seconds,
        driver_seconds_of_worker=driver.of_worker,
        handoff_seconds=measured.handoff_seconds,
        turnaround_seconds=measured.turnaround_seconds,
        object_store_bytes=nodes * NODE_OBJECT_STORE,
        start_seconds=60.0,
    )


def efficiency(units: Sequence[Work], pools: Sequence[Pool], played: Played) -> float:
    """Return the even share of the busiest stage's work over the seconds that the run took."""
    return max(sum(unit.cpu[at] for unit in units) / pool.workers for at, pool in enumerate(pools)) / played.seconds


def curve(measured: Measured, units: Sequence[Work], trouble: Trouble | None = None) -> list[tuple[int, Played, float]]:
    """Return for each number of workers what was played and its efficiency."""
    found = []
    for workers in WORKERS:
        pools = pools_for(measured, units, workers)
        played = play(units, pools, cluster(measured, pools), STORE, trouble)
        found.append((workers, played, efficiency(units, pools, played)))
    return found


def falls_below(found: Sequence[tuple[int, Played, float]]) -> str:
    """Return from how many workers on efficiency is below the least."""
    below = next((workers for workers, _, each in found if each < LEAST), None)
    return "not up to 256 workers" if below is None else f"at {below} workers"


def least_workers(measured: Measured, units: Sequence[Work], workers: int) -> list[tuple[str, int, float]]:
    """Return for each stage but the busiest how many workers it needs, so that no more than a hundredth is lost against
    an ample pool, and its time with a unit over that of the busiest stage.
    """
    ample = pools_for(measured, units, workers, spare=3.0)
    means = worker_seconds(measured, units)
    best = play(units, ample, cluster(measured, ample), STORE).seconds
    found = []
    for at, pool in enumerate(ample):
        if means[at] == max(means):
            continue
        low, high = 0, pool.workers
        while high - low > 1:
            middle = (low + high) // 2
            tried = [replace(each, workers=middle) if each is pool else each for each in ample]
            slow = play(units, tried, cluster(measured, tried), STORE).seconds > 1.01 * best
            low, high = (middle, high) if slow else (low, middle)
        found.append((pool.stage, high, means[at] / max(means)))
    return found


def show(arguments: argparse.Namespace) -> None:
    """Print the check, the curve and what to set, and draw the picture."""
    paths = [Path(name) for name in arguments.traces.split(",")] if arguments.traces else sorted(TRACES.glob("*.json"))
    traces = [read(path) for path in paths]
    show_check(traces)
    measured = Measured.of(traces[0])
    units = half_hours(measured, arguments.play_units)
    transcribe = measured.stages.index("Transcribe")
    lines = []
    for name, some in (
        ("stages as measured", units),
        (f"Transcribe {GPU:.0f} times as quick", faster(units, transcribe, GPU)),
    ):
        quiet, troubled = curve(measured, some), curve(measured, some, TROUBLE)
        lines += [Line(name, [(at, each) for at, _, each in quiet])]
        lines += [Line(f"{name}, with trouble", [(at, each) for at, _, each in troubled], dashed=True)]
        below, worse = falls_below(quiet), falls_below(troubled)
        print(f"\n{name}, {len(some):,} units: below 95 % {below}, with trouble {worse}\n")
        show_curve(measured, some, quiet, troubled)
        print(f"\nfor {BUSIEST} workers of the busiest stage\n")
        print("| stage | workers | by its time alone |\n|---|--:|--:|")
        for stage, needed, share in least_workers(measured, some[:PLAYED_OFTEN], BUSIEST):
            print(f"| {stage} | {needed} | {BUSIEST * share:.1f} |")
    show_settings(measured, units, faster(units, transcribe, GPU))
    if arguments.picture:
        draw(lines, LEAST, Path(arguments.picture))


def show_check(traces: Sequence[Trace]) -> None:
    """Print each measured run beside the same played."""
    print("| run | played s | measured s | difference % | |\n|---|--:|--:|--:|---|")
    runs = check(traces)
    for run in runs:
        print(f"| {run.what} | {run.played:.1f} | {run.measured:.1f} | {100 * run.difference:+.1f} | {run.note} |")
    show_targets([(f"{run.what}, %", 10.0, 100 * abs(run.difference)) for run in runs if not run.disturbed], digits=1)


def show_curve(
    measured: Measured,
    units: Sequence[Work],
    quiet: list[tuple[int, Played, float]],
    troubled: list[tuple[int, Played, float]],
) -> None:
    print("| workers | of all stages | hours an hour | efficiency % | with trouble % | driver busy % | in vain % |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for (workers, played, each), (_, worse, other) in zip(quiet, troubled, strict=True):
        sizes = " + ".join(str(pool.workers) for pool in pools_for(measured, units, workers))
        lost = sum(worse.wasted.values())
        lost *= 100 / (lost + sum(worse.useful.values()))
        speed, busy = 0.5 * len(units) / played.seconds * 3600, 100 * played.driver_busy / played.seconds
        print(
            f"| {workers} | {sizes} | {speed:,.0f} | {100 * each:.1f} | {100 * other:.1f} | {busy:.1f} | {lost:.2f} |",
            flush=True,
        )


def show_settings(measured: Measured, as_measured: Sequence[Work], quick: Sequence[Work]) -> None:
    """Print the efficiency with 256 workers of the busiest stage under other settings, for as much audio."""
    print("\n256 workers of the busiest stage\n\n| | stages as measured % | Transcribe quicker % |\n|---|--:|--:|")
    half = Driver(seconds=DRIVER.seconds / 2, of_worker=DRIVER.of_worker / 2)
    for what, factor, wave, driver in (
        ("units of 30 minutes", 1.0, WAVE_UNITS, DRIVER),
        ("units of 10 minutes, three times as many", 1 / 3, WAVE_UNITS, DRIVER),
        ("units of 60 minutes, half as many", 2.0, WAVE_UNITS, DRIVER),
        ("waves of 2,500 units", 1.0, WAVE_UNITS // 4, DRIVER),
        ("a driver on a core of twice the speed", 1.0, WAVE_UNITS, half),
    ):
        each = []
        for some in (as_measured, quick):
            count = round(len(some) / factor)
            scaled = [stretched(some[at % len(some)], factor, at) for at in range(count)]
            pools = pools_for(measured, scaled, WORKERS[-1])
            played = play(scaled, pools, cluster(measured, pools, driver), STORE, wave_units=wave)
            each.append(100 * efficiency(scaled, pools, played))
        print(f"| {what} | {each[0]:.1f} | {each[1]:.1f} |", flush=True)


def stretched(unit: Work, factor: float, number: int) -> Work:
    """Return a unit that is so many times as long."""
    return replace(
        unit,
        name=f"unit-{number:06d}",
        cpu=tuple(factor * each for each in unit.cpu),
        bytes=tuple(factor * each for each in unit.bytes),
        reads=max(1, round(factor * unit.reads)),
        read_bytes=factor * unit.read_bytes,
        written_bytes=factor * unit.written_bytes,
    )
