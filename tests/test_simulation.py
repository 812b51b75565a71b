"""The model of a curation: nothing is lost whatever fails, simple cases come out as a formula says."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import pytest

from benchmarks.simulation import curve, picture
from benchmarks.simulation.clock import Clock, Gate
from benchmarks.simulation.measured import Measured, read
from benchmarks.simulation.model import RAY_DATA_SHARE, play
from benchmarks.simulation.records import Machines, Pool, StoreSpeed, Trouble, Work

MANY_CORES = Machines(cores=1000.0)


def units(count: int, stages: int, seed: int = 0, size: float = 1.0) -> list[Work]:
    dice = random.Random(seed)
    return [
        Work(
            name=f"unit-{number}",
            cpu=tuple(dice.uniform(1.0, 20.0) for _ in range(stages)),
            bytes=(*(size for _ in range(stages - 1)), 0.0),
            reads=3,
            read_bytes=100.0,
            written_bytes=50.0,
        )
        for number in range(count)
    ]


def pools(*workers: int, open_seconds: float = 0.0) -> list[Pool]:
    return [Pool(stage=f"stage-{at}", workers=each, open_seconds=open_seconds) for at, each in enumerate(workers)]


def in_a_line(work: Sequence[Work]) -> float:
    """Return when the last unit leaves the last stage, with one worker a stage: by the recurrence."""
    free = [0.0] * len(work[0].cpu)
    for unit in work:
        ready = 0.0
        for at, seconds in enumerate(unit.cpu):
            ready = free[at] = max(free[at], ready) + seconds
    return free[-1]


def test_one_worker_of_one_stage_takes_the_sum_of_its_units() -> None:
    work = units(30, stages=1)
    assert play(work, pools(1), MANY_CORES).seconds == pytest.approx(sum(unit.cpu[0] for unit in work))


def test_one_worker_a_stage_takes_what_the_recurrence_says() -> None:
    work = units(60, stages=4)
    assert play(work, pools(1, 1, 1, 1), MANY_CORES).seconds == pytest.approx(in_a_line(work))


def test_stages_that_share_one_core_take_the_sum_of_all_work() -> None:
    work = units(20, stages=3)
    assert play(work, pools(1, 1, 1), Machines(cores=1.0)).seconds == pytest.approx(sum(sum(u.cpu) for u in work))


@pytest.mark.parametrize("workers", [1, 3, 7, 64])
def test_equal_units_take_as_many_rounds_as_workers_need(workers: int) -> None:
    work = [Work(name=str(number), cpu=(5.0,), bytes=(0.0,)) for number in range(50)]
    assert play(work, pools(workers), MANY_CORES).seconds == pytest.approx(ceil(50 / workers) * 5.0)


def test_two_units_on_one_machine_are_slower_by_what_crowding_says() -> None:
    work = [Work(name=str(number), cpu=(10.0,), bytes=(0.0,)) for number in range(2)]
    assert play(work, pools(1), Machines(cores=2.0, crowding=1.5)).seconds == pytest.approx(20.0)
    assert play(work, pools(2), Machines(cores=2.0, crowding=1.5)).seconds == pytest.approx(15.0)


def test_what_lies_between_units_is_added_for_each_of_them() -> None:
    work = [Work(name=str(number), cpu=(4.0, 1.0), bytes=(1.0, 0.0)) for number in range(10)]
    machines = Machines(cores=10.0, handoff_seconds=0.5, turnaround_seconds=0.25)
    assert play(work, pools(1, 1), machines).seconds == pytest.approx(10 * 4.0 + 9 * 0.25 + 0.5 + 1.0)


def test_a_driver_bounds_what_all_workers_do_together() -> None:
    work = [Work(name=str(number), cpu=(1.0, 1.0), bytes=(1.0, 0.0)) for number in range(200)]
    machines = Machines(cores=1000.0, driver_apart=True, driver_seconds=0.1, driver_seconds_of_worker=0.001)
    played = play(work, pools(100, 100), machines)
    assert played.driver_busy == pytest.approx(200 * 2 * 0.3)
    assert 120.0 <= played.seconds < 125.0


def test_a_store_answers_so_many_requests_a_second_and_no_more() -> None:
    work = [Work(name=str(number), cpu=(0.0,), bytes=(0.0,), reads=5) for number in range(100)]
    limited = StoreSpeed(reads_per_second=10.0, writes_per_second=1e9)
    assert play(work, pools(100), MANY_CORES, limited).seconds == pytest.approx(50.0, rel=0.01)
    gate = Gate(Clock(), 4.0)
    assert [gate.seconds_to_wait(1) for _ in range(3)] == [0.0, 0.25, 0.5]


def test_waves_end_before_others_begin_and_load_the_models_again() -> None:
    work = [Work(name=str(number), cpu=(1.0,), bytes=(0.0,)) for number in range(40)]
    together = play(work, pools(1, open_seconds=7.0), MANY_CORES)
    assert together.seconds == pytest.approx(7.0 + 40)
    apart = play(work, pools(1, open_seconds=7.0), MANY_CORES, wave_units=10)
    assert apart.seconds == pytest.approx(4 * 7.0 + 40)


TROUBLES = {
    "errors": Trouble(errors=0.2),
    "deaths": Trouble(deaths_per_hour=60.0, max_tries=3),
    "losses": Trouble(losses_per_hour=20.0, return_seconds=20.0),
    "all": Trouble(
        errors=0.05, deaths_per_hour=30.0, losses_per_hour=20.0, return_seconds=15.0, slow_nodes=0.3, straggling=0.3,
        max_tries=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("seed", range(3))
def test_every_unit_is_done_once_whatever_fails(trouble: Trouble, seed: int) -> None:
    work = units(120, stages=3, seed=seed, size=10.0)
    machines = Machines(
        nodes=3, cores=6.0, driver_seconds=0.01, handoff_seconds=0.1, turnaround_seconds=0.1, object_store_bytes=400.0,
        start_seconds=5.0,
    )  # fmt: skip
    some = pools(4, 6, 2, open_seconds=3.0)
    played = play(work, some, machines, StoreSpeed(latency=0.1, spread=0.5), trouble, seed=seed, wave_units=60)
    assert played.answered == {unit.name: 1 for unit in work}
    assert all(played.committed[unit.name] >= 1 for unit in work)
    assert played.sessions > 1 or not trouble.errors
    assert played.losses or not trouble.losses_per_hour
    assert played.deaths or not trouble.deaths_per_hour
    assert sum(played.wasted.values()) > 0
    # useful is what was answered, and no worker did more than there was time for
    for at, pool in enumerate(some):
        if not (trouble.slow_nodes or trouble.straggling):
            assert played.useful[pool.stage] >= sum(unit.cpu[at] for unit in work) - 1e-6
        assert played.useful[pool.stage] + played.wasted[pool.stage] <= pool.workers * played.seconds


def test_the_same_seed_plays_the_same_and_another_one_another() -> None:
    def ended(seed: int) -> list[float]:
        work, store = units(60, stages=3), StoreSpeed(latency=0.1, spread=0.5)
        return play(work, pools(2, 3, 1), Machines(nodes=2), store, TROUBLES["all"], seed=seed).ended

    assert ended(1) == ended(1) != ended(2)


@pytest.mark.parametrize("size", [1.0, 30.0, 500.0])
def test_queues_stay_within_the_object_store(size: float) -> None:
    """A quick stage before a slow one has no more output waiting than Ray Data allows, and one unit may always pass."""
    work = [Work(name=str(number), cpu=(0.1, 10.0, 0.1), bytes=(size, size, 0.0)) for number in range(100)]
    some, total = pools(4, 2, 1), 1000.0
    bounded = play(work, some, Machines(cores=100.0, object_store_bytes=total))
    free = play(work, some, Machines(cores=100.0))
    assert bounded.answered == {unit.name: 1 for unit in work}
    # what was begun before the first size was known may end: a unit at each worker
    assert bounded.most_bytes <= RAY_DATA_SHARE * total + size * sum(pool.workers for pool in some)
    if size < 500.0:
        assert bounded.seconds == pytest.approx(free.seconds, rel=0.02), "the slow stage never waits for it"
    else:  # one unit fills it: they pass one after the other, and none waits for ever
        assert bounded.seconds <= sum(sum(unit.cpu) for unit in work)


def test_a_node_that_is_lost_takes_its_blocks_with_it() -> None:
    """With the whole queue on it, a lost node costs the first stage's work a second time."""
    work = [Work(name=str(number), cpu=(1.0, 100.0), bytes=(1.0, 0.0)) for number in range(20)]
    lossy = Trouble(losses_per_hour=4.0, return_seconds=10.0)
    played = play(work, pools(1, 1), Machines(cores=4.0), trouble=lossy, seed=3)
    assert played.losses > 0
    assert played.wasted["stage-0"] > 0
    assert played.seconds > in_a_line(work)


def test_units_and_pools_of_other_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at every stage"):
        play(units(2, stages=3), pools(1, 1), MANY_CORES)


# --- by a measured run ------------------------------------------------------------------------------------------------

TRACES = [read(path) for path in sorted(curve.TRACES.glob("*.json"))]


def test_measured_runs_are_played_within_ten_percent() -> None:
    runs = [run for run in curve.check(TRACES) if not run.disturbed]
    assert [run.what for run in runs if abs(run.difference) > 0.10] == []
    assert any(not run.calibrates for run in runs), "there is one that it was not calibrated by"


def test_units_of_a_plan_are_made_of_measured_ones_and_as_long_as_asked() -> None:
    measured = Measured.of(TRACES[0])
    made = curve.half_hours(measured, 50)
    transcribe = measured.stages.index("Transcribe")
    rates = [unit.cpu[transcribe] / seconds for unit, seconds in zip(measured.units, measured.audio_seconds)]
    assert all(min(rates) - 1e-9 <= unit.cpu[transcribe] / 1800 <= max(rates) + 1e-9 for unit in made)
    assert made == curve.half_hours(measured, 50)


def test_a_calibration_without_its_runs_is_refused(tmp_path: Path) -> None:
    found = json.loads(sorted(curve.TRACES.glob("*.json"))[0].read_text())
    del found["runs"]["bare-x2"]
    (tmp_path / "trace.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="bare-x2"):
        Measured.of(read(tmp_path / "trace.json"))


def test_more_workers_are_never_more_efficient_by_much_and_trouble_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "WORKERS", (1, 16, 64))
    measured = Measured.of(TRACES[0])
    work = curve.half_hours(measured, 150)
    quiet, troubled = curve.curve(measured, work), curve.curve(measured, work, Trouble(errors=0.1, slow_nodes=1.0))
    each = [efficiency for *_, efficiency in quiet]
    assert each == sorted(each, reverse=True)
    assert 0.97 < each[0] <= 1.0
    assert all(worse < better for (*_, worse), better in zip(troubled, each))
    assert curve.falls_below(quiet) == "at 64 workers" or each[1] < curve.LEAST


def test_a_picture_says_its_figures_in_words(tmp_path: Path) -> None:
    lines = [picture.Line("a & b", [(1, 1.0), (256, 0.62)]), picture.Line("worse", [(1, 0.9), (256, 0.4)], dashed=True)]
    picture.draw(lines, 0.95, tmp_path / "curve.svg")
    drawn = (tmp_path / "curve.svg").read_text()
    assert "a &amp; b: 1 100 %, 256 62 %" in drawn
    assert drawn.count("<polyline") == 2
