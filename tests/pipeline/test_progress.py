"""What a run says while it works: what is done inside a unit, and an ETA that counts it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from operators.clip import SAMPLE_RATE
from pipeline.executor.ray_data import Outcome
from pipeline.progress import Display, Progress
from stages.base import Doing
from tests.support.fast_engines import Named

STAGES = [Named(name=name) for name in ("Segment", "Transcribe", "Copilot")]


def progress_at(now: list[float], expected_seconds: float = 1000.0) -> Progress:
    return Progress(STAGES, units=2, expected_seconds=expected_seconds, clock=lambda: now[0])


def doing(stage: str, clips: int, of_clips: int = 50, busy: float = 20.0, unit: str = "a-000000") -> Doing:
    return Doing(
        unit_id=unit,
        stage=stage,
        clips=clips,
        of_clips=of_clips,
        audio_seconds=10.0 * clips,
        of_seconds=10.0 * of_clips,
        busy_seconds=busy,
    )


def test_the_first_line_comes_before_the_first_clip_is_done() -> None:
    out = io.StringIO()
    display = Display(progress_at([0.0]), Console(file=out, width=400))
    display.tell(doing("Transcribe", 0, busy=0.0))
    assert "in work: Transcribe 0/50 clips" in out.getvalue()


def test_eta_counts_clips_of_the_unit_in_work() -> None:
    now = [0.0]
    progress = progress_at(now)
    now[0] = 100.0
    assert progress.eta_seconds() is None
    progress.tell(doing("Transcribe", 25))  # 250 s of audio in 100 s, 750 s to go
    assert progress.eta_seconds() == pytest.approx(300.0)
    progress.tell(doing("Transcribe", 50))
    assert progress.eta_seconds() == pytest.approx(100.0)


def test_a_quick_stage_counts_for_nothing_before_the_slow_one_and_for_all_after_it() -> None:
    now = [0.0]
    progress = progress_at(now)
    now[0] = 100.0
    busy = {"Segment": 1.0, "Transcribe": 90.0, "Copilot": 9.0}
    done = Outcome(unit_id="a-000000", samples={"kept": 500 * SAMPLE_RATE}, busy_seconds=busy, heard_seconds=busy)
    progress.add(done)
    assert progress.eta_seconds() == pytest.approx(100.0)
    now[0] = 200.0
    progress.tell(doing("Transcribe", 25, unit="a-000001"))
    assert progress.eta_seconds() == pytest.approx(250 * 200 / 750)
    progress.tell(doing("Copilot", 1, unit="a-000001"))
    assert progress.eta_seconds() == 0.0
    progress.add(replace(done, unit_id="a-000001"))
    assert not progress.doing


def test_workers_of_a_stage_are_added_up_and_units_in_every_stage_are_shown() -> None:
    now = [0.0]
    progress = progress_at(now, expected_seconds=2000.0)
    for unit, told in {
        "a-000000": doing("Copilot", 5),
        "a-000001": doing("Transcribe", 10),
        "a-000002": doing("Transcribe", 20),
        "a-000003": doing("Transcribe", 50),
    }.items():
        progress.tell(replace(told, unit_id=unit))
    assert "in work: Transcribe 30/100 clips at 7.5×, Copilot 5/50 clips at 2.5×" in progress.line()
    progress.tell(doing("Transcribe", 40))
    assert "Copilot 5/50" in progress.line(), "a value that comes late takes no unit back"
    progress.add(Outcome(unit_id="a-000003"))
    progress.tell(doing("Transcribe", 49, unit="a-000003"))
    assert "a-000003" not in progress.doing


@pytest.mark.parametrize(("busy", "said"), [(20.0, "at 5.0×"), (60.0, "at 1.7×"), (2.0, "at 50×"), (250.0, "at 0.40×")])
def test_slow_engines_have_two_digits(busy: float, said: str) -> None:
    progress = progress_at([0.0])
    progress.tell(doing("Transcribe", 10, busy=busy))
    assert said in progress.line()
    progress.speeds["Transcribe"].audio_seconds, progress.speeds["Transcribe"].busy_seconds = 34.0, 10.0
    assert "Transcribe=3.4x" in progress.line()


def test_nothing_is_left_when_every_unit_is_done_however_soon() -> None:
    now = [0.0]
    progress = progress_at(now)
    now[0] = 3.0
    for unit in ("a-000000", "a-000001"):
        progress.add(Outcome(unit_id=unit, samples={"kept": SAMPLE_RATE}, busy_seconds={}, heard_seconds={}))
    assert progress.eta_seconds() == 0.0
