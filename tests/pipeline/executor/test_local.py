"""What an executor says of a run, in the plain loop: Ready first, an Outcome for each unit, and which errors end it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from operators.clip import SAMPLE_RATE, Clip, Hypothesis, Rejection, Span, Stretch, Unit, Verdict
from operators.errors import UserError
from operators.storage.base import StoreUnavailable
from pipeline.config import ExecutionSettings
from pipeline.executor.executor import executor_for
from pipeline.executor.worker import EngineFailed, Event, Outcome, Ready, outcome_of
from stages.base import Resources
from stages.copilot import Copilot
from stages.segment import Segment


@dataclass(kw_only=True)
class Step:
    """A stage that notes what happens to it, and fails where it is asked to."""

    name: str
    log: list[str] = field(default_factory=list)
    open_error: Exception | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)

    def open(self) -> None:
        self.log.append(f"{self.name} opens")
        if self.open_error:
            raise self.open_error

    def process(self, unit: Unit) -> Unit:
        self.log.append(f"{self.name} {unit.unit_id}")
        if unit.unit_id in self.errors:
            raise self.errors[unit.unit_id]
        return replace(unit, audio=np.append(unit.audio, np.int16(1)))

    def heard_seconds(self, unit: Unit) -> float:
        return float(len(unit.audio))

    def close(self) -> None:
        self.log.append(f"{self.name} closes")


UNITS = [Unit(unit_id=name, domain="talk", pieces=()) for name in ("a", "b")]


def events(*stages: Step) -> list[Event]:
    executor = executor_for(ExecutionSettings(runner="local"), list(stages))
    assert executor.connect() is None
    return list(executor.run(UNITS))


def test_ready_comes_before_the_first_unit_and_every_unit_has_an_outcome() -> None:
    log: list[str] = []
    ready, *outcomes = events(Step(name="One", log=log), Step(name="Two", log=log))
    assert ready == Ready()
    assert [outcome.unit_id for outcome in outcomes if isinstance(outcome, Outcome)] == ["a", "b"]
    assert log == ["One opens", "Two opens", "One a", "Two a", "One b", "Two b", "One closes", "Two closes"]


def test_without_units_it_only_says_whether_all_is_ready() -> None:
    assert list(executor_for(ExecutionSettings(runner="local"), [Step(name="One")]).run([])) == [Ready()]


def test_an_outcome_says_how_much_audio_each_stage_worked_on() -> None:
    _, first, _ = events(Step(name="One"), Step(name="Two"))
    assert isinstance(first, Outcome)
    assert first.heard_seconds == {"One": 1.0, "Two": 2.0}
    assert set(first.busy_seconds) == {"One", "Two"}


def test_a_bug_costs_its_unit_and_no_other() -> None:
    one, two = Step(name="One", errors={"a": KeyError("colour")}), Step(name="Two")
    _, failed, done = events(one, two)
    assert isinstance(failed, Outcome)
    assert isinstance(done, Outcome)
    assert (failed.error or "").startswith("One: KeyError: 'colour'\nTraceback")
    assert done.error is None
    assert "Two a" not in two.log


@pytest.mark.parametrize("error", [StoreUnavailable("the store is away")])
def test_trouble_of_the_machine_costs_its_unit_and_is_one_line(error: Exception) -> None:
    _, failed, done = events(Step(name="One", errors={"a": error}))
    assert isinstance(failed, Outcome)
    assert failed.error == "One: the store is away"
    assert isinstance(done, Outcome)
    assert done.error is None


def test_a_mistake_of_the_user_ends_the_run_with_its_own_line() -> None:
    log: list[str] = []
    with pytest.raises(UserError, match=r"^give another password$"):
        events(Step(name="One", log=log, errors={"a": UserError("give another password")}))
    assert "One b" not in log


def test_an_engine_that_cannot_be_loaded_ends_the_run_before_any_unit() -> None:
    log: list[str] = []
    with pytest.raises(EngineFailed) as caught:
        events(Step(name="One", log=log), Step(name="Two", log=log, open_error=OSError("no file\nhere")))
    assert str(caught.value) == "an engine cannot be loaded: Two: OSError: no file"
    assert "Traceback" in caught.value.detail
    assert log == ["One opens", "Two opens", "One closes"]


def test_a_unit_is_summed_up_and_each_stage_counts_what_it_heard() -> None:
    def clip(start: int, verdict: Verdict | None, engines: int) -> Clip:
        span = Span(start * SAMPLE_RATE, (start + 2) * SAMPLE_RATE)
        heard = tuple(Hypothesis(engine=str(index), text="a") for index in range(engines))
        return Clip(clip_id=str(start), recording_id="r", span=span, hypotheses=heard, verdict=verdict)

    kept = Verdict(label="a")
    rejected = Verdict(rejection=Rejection(stage="transcribe", reason="loop"))
    unit = Unit(
        unit_id="a",
        domain="talk",
        pieces=(),
        clips=(clip(0, kept, 2), clip(2, rejected, 1)),
        stretches=(
            Stretch(recording_id="r", span=Span(4 * SAMPLE_RATE, 9 * SAMPLE_RATE), outcome="non_speech"),
            Stretch(recording_id="r", span=Span(9 * SAMPLE_RATE, 12 * SAMPLE_RATE), outcome="unreadable"),
        ),
    )
    told = outcome_of(unit)
    seconds = {name: samples / SAMPLE_RATE for name, samples in told.samples.items()}
    assert seconds == {"kept": 2.0, "rejected": 2.0, "non_speech": 5.0, "unreadable": 3.0}
    assert (told.clips, told.kept_clips) == (2, 1)
    assert Segment.heard_seconds(None, unit) == 9.0  # type: ignore[arg-type]
    assert Copilot.heard_seconds(None, unit) == 2.0  # type: ignore[arg-type]
