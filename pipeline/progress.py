"""Live progress of a run: one table that redraws on a terminal, plain lines elsewhere.

    Outcome per finished unit ──> totals ──> recordings, hours in and kept, ETA; per stage: speed, time busy, what it
    waits for

It counts for the eye only. What is done is what the ledgers say.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from operators.clip import SAMPLE_RATE
from operators.shard import OUTCOMES
from pipeline.display.words import clock_time, human_factor, human_seconds, human_share, printable
from pipeline.executor.worker import Outcome
from stages.base import Doing, Stage

LINE_EVERY_SECONDS = 15.0


@dataclass(slots=True)
class StageSpeed:
    busy_seconds: float = 0.0
    audio_seconds: float = 0.0
    workers: int = 1
    device: str = "cpu"

    @property
    def real_time_factor(self) -> float | None:
        """Return seconds of audio per second of one worker's work; None before there was work to speak of."""
        return self.audio_seconds / self.busy_seconds if self.busy_seconds > 0.05 else None


@dataclass
class Progress:
    """Progress holds the totals of a run in progress. `clock` is monotonic seconds."""

    stages: list[Stage]
    units: int
    expected_seconds: float
    """declared or estimated length of the audio still to do."""
    done_before: int = 0
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    failed: int = 0
    recordings: int = 0
    clips: int = 0
    kept_clips: int = 0
    samples: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    speeds: dict[str, StageSpeed] = field(default_factory=dict)
    doing: dict[str, Doing] = field(default_factory=dict)
    """by unit in work: what its furthest stage so far that counts clips has finished of it."""
    places: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """by unit in work: the number of its furthest stage so far, and whether that is through with it."""

    def __post_init__(self) -> None:
        self._out: deque[str] = deque(maxlen=1024)
        self.started = self.clock()
        self.started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for stage in self.stages:
            device = "gpu" if stage.resources.gpus else "cpu"
            self.speeds[stage.name] = StageSpeed(workers=stage.resources.min_workers, device=device)

    def begin(self) -> None:
        """The engines are loaded: from here on time counts."""
        self.started = self.clock()

    def tell(self, doing: Doing) -> None:
        """Take in what a stage has finished inside a unit."""
        if doing.unit_id in self._out:
            return
        place = (self._place(doing), doing.through)
        self.places[doing.unit_id] = max(place, self.places.get(doing.unit_id, place))
        before = self.doing.get(doing.unit_id)
        if doing.of_clips and (before is None or self._place(doing) >= self._place(before)):
            self.doing[doing.unit_id] = doing

    def _place(self, doing: Doing) -> int:
        return [stage.name for stage in self.stages].index(doing.stage)

    def in_work(self, stage: str) -> int:
        """Return how many units are inside a stage, as far as its workers say."""
        place = [each.name for each in self.stages].index(stage)
        return [*self.places.values()].count((place, False))

    def queued(self, stage: str) -> int:
        """Return how many units have come out of the stage before and wait for this one; 0 of the first."""
        place = [each.name for each in self.stages].index(stage)
        return [*self.places.values()].count((place - 1, True))

    def add(self, outcome: Outcome) -> None:
        self.doing.pop(outcome.unit_id, None)
        self.places.pop(outcome.unit_id, None)
        self._out.append(outcome.unit_id)  # what another thread still has to tell of it comes too late
        if outcome.error is not None:
            self.failed += 1
            return
        self.done += 1
        self.recordings += outcome.recordings
        self.clips += outcome.clips
        self.kept_clips += outcome.kept_clips
        for name, count in outcome.samples.items():
            self.samples[name] += count
        for name, seconds in outcome.busy_seconds.items():
            self.speeds[name].busy_seconds += seconds
            self.speeds[name].audio_seconds += outcome.heard_seconds.get(name, 0.0)

    @property
    def elapsed(self) -> float:
        return max(self.clock() - self.started, 1e-9)

    @property
    def input_seconds(self) -> float:
        return sum(self.samples.values()) / SAMPLE_RATE

    @property
    def kept_seconds(self) -> float:
        return self.samples["kept"] / SAMPLE_RATE

    @property
    def seconds_within(self) -> float:
        """Return seconds of audio of the units in work that are as good as done.

        Until the busiest stage has been seen it is taken to be the one that speaks; stages after it take no time.
        """
        names = [stage.name for stage in self.stages]
        busy = {name: self.speeds[name].busy_seconds for name in names}
        seconds = 0.0
        for doing in [*self.doing.values()]:
            slowest = max(names, key=lambda name: busy[name]) if any(busy.values()) else doing.stage
            if names.index(doing.stage) > names.index(slowest):
                seconds += doing.of_seconds
            elif doing.stage == slowest:
                seconds += doing.audio_seconds
        return seconds

    def eta_seconds(self) -> float | None:
        """Time left at the mean speed so far, clips of the unit in work counted; None while too little is known."""
        if self.done + self.failed >= self.units > 0:
            return 0.0
        heard = self.input_seconds + self.seconds_within
        if not heard or self.elapsed < 10:
            return None
        return max(self.expected_seconds - heard, 0.0) * self.elapsed / heard

    def inside(self, stage: str) -> str:
        """Return what workers of a stage are doing inside their units, in a few words; empty where nobody says."""
        told = [doing for doing in [*self.doing.values()] if doing.stage == stage]
        # a unit that waits for the next stage is of interest where nothing else goes on
        now = [doing for doing in told if doing.clips < doing.of_clips] or told
        if not now:
            return ""
        audio, busy = sum(doing.audio_seconds for doing in now), sum(doing.busy_seconds for doing in now)
        clips = f"{sum(doing.clips for doing in now)}/{sum(doing.of_clips for doing in now)} clips"
        return clips + (f" at {human_factor(audio / busy)}" if audio and busy > 0.05 else "")

    def utilisation(self, name: str) -> float:
        """Return the share of its workers' time that a stage worked, 0-1."""
        speed = self.speeds[name]
        return min(speed.busy_seconds / (self.elapsed * speed.workers), 1.0)

    def waits_for(self) -> dict[str, str]:
        """Return what holds each stage: the busiest stage sets the pace, those before it are held back, those after it
        wait for it.
        """
        names = [stage.name for stage in self.stages]
        if not any(self.speeds[name].busy_seconds for name in names):
            return dict.fromkeys(names, "starting")
        busiest = max(names, key=self.utilisation)
        answer = {}
        for name in names:
            if name == busiest:
                answer[name] = "sets the pace"
            elif names.index(name) < names.index(busiest):
                answer[name] = f"held back by {busiest}"
            else:
                answer[name] = f"waits for {busiest}"
        return answer

    def speed_record(self, finished_at: str) -> dict[str, Any]:
        """Return what the report says of engine speeds, for `speed/*.json`."""
        return {
            "started": self.started_at,
            "finished": finished_at,
            "units": self.done,
            "input_seconds": self.input_seconds,
            "wall_seconds": self.elapsed,
            "stages": {
                name: {
                    "busy_seconds": speed.busy_seconds,
                    "audio_seconds": speed.audio_seconds,
                    "actors": speed.workers,
                    "device": speed.device,
                }
                for name, speed in self.speeds.items()
            },
        }

    def _kept(self) -> str:
        return f"{human_seconds(self.kept_seconds)} ({human_share(self.kept_seconds, self.input_seconds)})"

    def line(self) -> str:
        """Return everything in one plain line, for logs."""
        eta = self.eta_seconds()
        waits = self.waits_for()
        pace = next((name for name, why in waits.items() if why == "sets the pace"), "starting")
        factors = " ".join(f"{n}={_factor(s)}x" for n, s in self.speeds.items() if s.real_time_factor)
        stages = [f"{stage.name} {said}" for stage in self.stages if (said := self.inside(stage.name))]
        inside = f"  in work: {', '.join(stages)}" if stages else ""
        return (
            f"units {self.done_before + self.done}/{self.done_before + self.units}"
            + (f" ({self.failed} failed)" if self.failed else "")
            + f"  recordings {self.recordings}  in {human_seconds(self.input_seconds)}  kept {self._kept()}"
            + f"  {factors}  pace: {pace}{inside}"
            + f"  elapsed {clock_time(self.elapsed)}  ETA {clock_time(eta) if eta is not None else 'unknown yet'}"
        )

    def table(self) -> RenderableType:
        eta = self.eta_seconds()
        head = Text()
        head.append(f"units {self.done_before + self.done}/{self.done_before + self.units}", style="bold")
        if self.failed:
            head.append(f"  {self.failed} failed", style="bold red")
        head.append(f"   recordings {self.recordings}   in {human_seconds(self.input_seconds)}   ")
        head.append(f"kept {self._kept()}", style="green")
        head.append(f"   elapsed {clock_time(self.elapsed)}   ETA {clock_time(eta) if eta is not None else '…'}")
        stages = Table(box=None, pad_edge=False, header_style="dim")
        for column, justify in (("stage", "left"), ("× real time", "right"), ("busy", "right"), ("", "left")):
            stages.add_column(column, justify=justify)  # type: ignore[arg-type]
        for name, why in self.waits_for().items():
            factor = self.speeds[name].real_time_factor
            stages.add_row(
                name,
                _factor(self.speeds[name]) if factor else "–",
                f"{self.utilisation(name):.0%}",
                Text(self.inside(name) or why, style="dim"),
            )
        bar = ProgressBar(total=max(self.units, 1), completed=self.done + self.failed, width=60)
        return Group(head, bar, stages)


def _factor(speed: StageSpeed) -> str:
    """A real-time factor of two digits at least."""
    return human_factor(speed.real_time_factor).rstrip("×")


class Display:
    """A Display shows a Progress while it grows: a live table on a terminal, a line every few seconds elsewhere."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._live = (
            Live(console=console, get_renderable=progress.table, refresh_per_second=2) if console.is_terminal else None
        )
        self._last_line, self._changed = float("-inf"), False
        self._one_at_a_time = threading.Lock()  # what workers of Ray are doing comes from a thread of its own

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*problem)
        elif problem[0] is None and self._changed:
            self._print_line()

    def add(self, outcome: Outcome) -> None:
        """Count a unit that is through."""
        with self._one_at_a_time:
            self._progress.add(outcome)
            if outcome.error is not None:
                # it may quote names from the crawl
                why = "\n".join(printable(line) for line in outcome.error.strip().splitlines())
                line = f"unit {outcome.unit_id} failed and is left undone: {why}"
                self._console.print(line, style="red", markup=False, highlight=False)
            self._print_now_and_then()

    def tell(self, doing: Doing) -> None:
        """Show what a stage has finished inside a unit."""
        with self._one_at_a_time:
            self._progress.tell(doing)
            self._print_now_and_then()

    def _print_now_and_then(self) -> None:
        self._changed = True
        if self._live is None and time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line, self._changed = time.monotonic(), False
        self._console.print(self._progress.line(), soft_wrap=True, markup=False, highlight=False)


def write_speed(store: Any, progress: Progress) -> None:
    """Leave the speeds of this session in the run, for the report. Several sessions of one run are added up there."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    name = f"speed/{finished.replace(':', '')}.json"
    store.put(name, json.dumps(progress.speed_record(finished), indent=1, sort_keys=True).encode())
