"""From chunks to a plan: what is scaled and what is not, and intervals that hold as often as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Prices
from pipeline.estimate.forecast import Measured, Wanted, forecast
from pipeline.estimate.meter import Cost
from stages.base import Resources

SEGMENT, ASR = Resources(cpus=0.5, max_workers=2), Resources(cpus=1.0, gpus=0.5, max_workers=4)
WANTED = Wanted(
    units=100,
    expected_seconds=180_000.0,
    read_seconds=540_000.0,
    share=0.01,
    resources={"Segment": SEGMENT, "Transcribe": ASR},
    start_up={"Segment": Cost(36.0, 18.0), "Transcribe": Cost(72.0, 18.0)},
    one_process=False,
    cores=None,
)


def chunk(cpu: float = 60.0, kept: float = 60.0, seconds: float = 120.0, read: float = 360.0) -> Measured:
    return Measured(
        expected_seconds=seconds,
        read_seconds=read,
        kept_seconds=kept,
        kept_bytes=round(kept * 16_000),
        work={"Segment": Cost(12.0, 12.0), "Transcribe": Cost(cpu, cpu / 2)},
        reading={"Segment": Cost(read / 100, read / 50), "Transcribe": Cost()},
    )


def test_work_grows_with_audio_reading_with_what_is_run_through_and_start_up_with_workers() -> None:
    # Chunks that lie further back in their recordings than the plan's mean: the decoder ran through more.
    found = forecast([chunk(read=720.0), chunk(read=1440.0)], WANTED)
    segment, transcribe = found.stages
    assert segment.cpu_hours.value == pytest.approx((180_000 / 10 + 540_000 / 100 + 2 * 36) / 3600)
    assert transcribe.cpu_hours.value == pytest.approx((180_000 / 2 + 4 * 72) / 3600)
    assert segment.gpu_hours is None
    assert transcribe.gpu_hours is not None
    assert transcribe.gpu_hours.value == pytest.approx(0.5 * 180_000 / 4 / 3600)
    assert found.kept_seconds.value == 90_000
    assert found.gigabytes.value == pytest.approx(90_000 * 16_000 / 1e9)


def test_wall_time_is_that_of_the_stage_with_most_work_for_its_workers() -> None:
    found = forecast([chunk(), chunk()], WANTED)
    assert found.pace == "Segment"
    assert found.wall_hours.value == pytest.approx((36 + (180_000 / 10 + 540_000 / 50) / 2) / 3600)
    few = replace(WANTED, cores=2)
    assert forecast([chunk(), chunk()], few).pace == "CPUs"
    alone = forecast([chunk(), chunk()], replace(WANTED, one_process=True))
    assert alone.pace == "one process"
    assert alone.wall_hours.value == pytest.approx((36 + 180_000 / 10 + 540_000 / 50 + 180_000 / 4) / 3600)


def test_no_price_no_cost_and_the_cost_is_the_sum_of_what_is_priced() -> None:
    chunks = [chunk(), chunk()]
    assert forecast(chunks, WANTED).cost is None
    found = forecast(chunks, replace(WANTED, prices=Prices(cpu_hour=0.1, gpu_hour=2.0, gigabyte=0.5)))
    assert found.cost is not None
    assert found.cost_reserved is not None
    assert found.gpu_hours is not None
    stored = 0.5 * (found.gigabytes.value or 0)
    of_work = 0.1 * (found.cpu_hours.value or 0) + 2.0 * (found.gpu_hours.value or 0)
    assert found.cost.value == pytest.approx(of_work + stored)
    reserved = (0.1 * (2 * 0.5 + 4 * 1.0) + 2.0 * 4 * 0.5) * (found.wall_hours.value or 0)
    assert found.cost_reserved.value == pytest.approx(reserved + stored)


@pytest.mark.parametrize("count", [3, 10])
def test_intervals_hold_as_often_as_they_say(count: int) -> None:
    draws = np.random.default_rng(8).lognormal(np.log(60), 0.5, size=(400, count))
    true = 60 * np.exp(0.5**2 / 2) / 120 * WANTED.expected_seconds / 3600 + 4 * 72 / 3600
    held = 0
    for costs in draws:
        hours = forecast([chunk(cpu) for cpu in costs], WANTED).stages[1].cpu_hours
        assert hours.low is not None
        assert hours.high is not None
        held += hours.low <= true <= hours.high
    assert held / len(draws) > 0.88, "of 95 %; costs lean to one side"


def test_one_chunk_gives_no_interval_and_the_whole_plan_needs_none() -> None:
    one = forecast([chunk()], WANTED)
    assert one.cpu_hours.value
    assert one.cpu_hours.low is None
    all_of_it = forecast([chunk(kept=10.0), chunk(cpu=30.0, seconds=0.0)], replace(WANTED, share=1.0))
    assert all_of_it.stages[1].cpu_hours.value == pytest.approx((90 + 4 * 72) / 3600)
    assert all_of_it.stages[1].cpu_hours.low == all_of_it.stages[1].cpu_hours.high
    assert all_of_it.kept_seconds.value == 70


def test_a_larger_part_of_the_plan_in_the_sample_leaves_less_unknown() -> None:
    chunks = [chunk(50.0), chunk(60.0), chunk(55.0)]
    wide, close = (forecast(chunks, replace(WANTED, share=share)).cpu_hours for share in (0.01, 0.9))
    assert (wide.high or 0) - (wide.low or 0) > 3 * ((close.high or 0) - (close.low or 0))


def test_what_no_chunk_kept_may_still_be_kept() -> None:
    found = forecast([chunk(kept=0.0)] * 10, WANTED)
    assert found.kept_seconds.value == 0
    assert found.kept_seconds.high == pytest.approx(180_000 * (1 - 0.05**0.1))
    assert found.shards.low == 0
    assert 20 < (found.shards.high or 0) < 30
    most = forecast([chunk(kept=120.0), chunk(kept=100.0)], WANTED)
    assert most.kept_seconds.high == WANTED.expected_seconds
    assert most.shards.high == WANTED.units
    assert (most.shards.low or 0) < 20, "two chunks tell little"
