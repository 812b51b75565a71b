"""What is counted of a run: each ledger once, however often the run was begun; and what stops it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from operators.clip import Unit
from operators.storage.fetch import open_store
from pipeline import ledger
from pipeline.__main__ import main
from pipeline.config import StopWhen
from pipeline.executor import board
from pipeline.executor.metrics import GAUGES, HISTOGRAMS
from pipeline.executor.worker import Outcome, Worker, pack
from pipeline.plan import load_plan
from pipeline.progress import Progress
from pipeline.watch import watch as watching
from pipeline.watch.totals import OTHERS, WATCH_COLUMNS, Totals
from pipeline.watch.watch import Watch
from stages.base import Doing
from tests.support import fast_engines
from tests.support.kills import digest
from tests.test_docs import BY_STAGE


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "crawl"
    fast_engines.write_crawl(folder, 30, seed=5)
    (folder / "live" / "page.mp3").write_bytes(b"<html>404</html>")
    return folder


def run(out: Path, crawl: Path, *more: str) -> int:
    config = out.parent / "empty.yaml"
    config.write_text("{}\n")
    return main(["run", str(config), *fast_engines.settings(str(out), str(crawl), "execution.runner=local", *more)])


@pytest.fixture(scope="module")
def finished(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(out, crawl) == 0
    return out


def test_totals_are_the_reports(finished: Path) -> None:
    store, totals = open_store(str(finished)), Totals()
    for unit_id in ledger.done_units(store):
        for _ in range(2):  # the second time changes nothing
            totals.add(unit_id, ledger.columns(store, unit_id, WATCH_COLUMNS))
    total = json.loads((finished / "report.json").read_text())["total"]
    assert sum(totals.samples.values()) == total["input"]["samples"]
    assert totals.retention() == pytest.approx(total["retention_percent"])
    for outcome in ("kept", "rejected"):
        clips = sum(count for account, count in totals.clips.items() if account[1] == outcome)
        of_report = total["kept"]["clips"] if outcome == "kept" else sum(row["clips"] for row in total["rejected"])
        assert clips == of_report
    lost = sum(count for (_, outcome), count in totals.recordings.items() if outcome == "quarantined")
    assert lost == total["unreadable_files"] == 1
    assert sum(totals.recordings.values()) == sum(len(unit.pieces) for unit in load_plan(store))


def test_domains_beyond_the_largest_are_counted_together(finished: Path) -> None:
    """So the series of a run are bounded by closed lists, however many domains a crawl has."""
    store, all_of_them = open_store(str(finished)), Totals()
    (largest, _), *others = load_plan(store).slugs().most_common()
    assert others
    bounded = Totals(frozenset([largest]))
    for unit_id in ledger.done_units(store):
        for totals in (all_of_them, bounded):
            totals.add(unit_id, ledger.columns(store, unit_id, WATCH_COLUMNS))
    assert {account[0] for account in bounded.samples} == {largest, OTHERS}
    assert sum(bounded.samples.values()) == sum(all_of_them.samples.values())
    assert sum(bounded.recordings.values()) == sum(all_of_them.recordings.values())
    reasons = {account[2:] for account in bounded.samples if account[1] in ("rejected", "unreadable")}
    assert reasons <= {(stage, reason) for stage, known in BY_STAGE.items() for reason in known}


def test_a_domain_that_keeps_nothing_says_so() -> None:
    """The alert on retention divides what is kept by all: a share that is missing never fires."""
    totals = Totals()
    row = {"recording_id": "r", "start": 0, "end": 160, "outcome": "rejected", "stage": "rover", "reason": "wer"}
    totals.add("talk-000000", pa.Table.from_pylist([row]))
    assert totals.samples["talk", "kept", "", ""] == 0
    assert ("talk", "kept", "", "") in totals.samples
    assert totals.first_retention() == {"talk": 0.0}


def test_where_units_wait_is_what_their_workers_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stages that count clips, and of those that only begin and end."""
    stages = [fast_engines.Named(name=name) for name in ("Segment", "Transcribe", "Rover")]
    progress = Progress(stages, units=4, expected_seconds=1.0)

    class Counts(fast_engines.Named):
        tell = None

        def process(self, unit: Unit) -> Unit:
            seen.append((progress.in_work(self.name), progress.queued(self.name)))
            if self.tell is not None:
                self.tell(doing(self.name, 1))
            return unit

        def heard_seconds(self, unit: Unit) -> float:
            return 1.0

    def doing(stage: str, clips: int) -> Doing:
        return Doing(stage=stage, clips=clips, of_clips=2, audio_seconds=1.0, of_seconds=2.0, busy_seconds=1.0)

    seen: list[tuple[int, int]] = []
    segment, transcribe = (Worker(Counts(name=name), False, progress.tell) for name in ("Segment", "Transcribe"))
    rows = [segment(pack(Unit(unit_id=f"a-00000{number}", domain="a", pieces=()))) for number in range(3)]
    assert (progress.queued("Segment"), progress.queued("Transcribe"), progress.queued("Rover")) == (0, 3, 0)
    rows[:2] = map(transcribe, rows[:2])
    assert seen == [(1, 0)] * 3 + [(1, 2), (1, 1)]
    assert (progress.queued("Transcribe"), progress.queued("Rover"), progress.in_work("Transcribe")) == (1, 2, 0)
    progress.add(Outcome(unit_id="a-000000"))
    progress.tell(replace(doing("Rover", 0), unit_id="a-000000"))  # comes too late
    assert (progress.queued("Rover"), progress.in_work("Rover")) == (1, 0)


def test_a_board_tells_of_every_unit_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes no second for a unit has written of the next one by then."""
    kept: dict[bytes, bytes] = {}

    class Store:
        @staticmethod
        def _internal_kv_put(key: bytes, value: bytes) -> None:
            kept[key] = value

        _internal_kv_get = staticmethod(kept.get)
        _internal_kv_del = staticmethod(kept.pop)

        @staticmethod
        def _internal_kv_list(prefix: bytes) -> list[bytes]:
            return [key for key in kept if key.startswith(prefix)]

    monkeypatch.setattr("ray.experimental.internal_kv", Store)
    monkeypatch.setattr(board, "_prefix", lambda: "doing-")
    monkeypatch.setattr(board, "_actor", lambda: "worker")
    monkeypatch.setattr(board, "SECONDS_BETWEEN", 0.05)
    told: list[Doing] = []
    worker, blank = (
        board.Board(),
        Doing(stage="Rover", clips=0, of_clips=0, audio_seconds=0.0, of_seconds=0.0, busy_seconds=0.0),
    )
    for number in range(5):
        for through in (False, True):
            worker.tell(replace(blank, unit_id=f"a-00000{number}", through=through))
    with board.Board().watched(told.append):
        until = time.monotonic() + 10
        while len(told) < 5 and time.monotonic() < until:
            time.sleep(0.01)
    assert [(doing.unit_id, doing.through) for doing in told] == [(f"a-00000{number}", True) for number in range(5)]
    assert not kept, "the driver clears up"


class Kept:
    """Metrics that remember what they were last set to, as Ray's gauges do."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.history: list[dict[tuple[str, ...], float]] = []

    def set(self, name: str, value: float, **labels: str) -> None:
        assert tuple(labels) == GAUGES[name][1]
        self.values[name, *labels.values()] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        assert tuple(labels) == HISTOGRAMS[name][1]


COUNTED = ("touchasp_units_total", "touchasp_clips_total", "touchasp_audio_seconds_total", "touchasp_recordings_total")


def counted(values: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in values.items() if key[0] in COUNTED}


@pytest.mark.parametrize("done_before", [0, 1, 3])
def test_a_run_that_goes_on_counts_no_clip_twice(
    done_before: int, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever earlier sessions did, and though a unit is told of twice, or its ledger cannot be read at first."""
    monkeypatch.setattr(watching, "PUBLISHED_EVERY_SECONDS", 0.01)
    store = open_store(str(finished))
    plan = load_plan(store)
    names = list(plan.unit_ids())
    before = names[:done_before]
    progress = Progress([fast_engines.Named(name="Segment")], units=len(names), expected_seconds=1.0)
    todo = plan.without(set(before))
    watch, metrics = Watch(store, plan, todo, StopWhen(), progress), Kept()
    real, refused = ledger.columns, set(names[-1:])

    def flaky(*arguments: object) -> object:
        if arguments[1] in refused:
            refused.clear()
            raise OSError("the store is away")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "columns", flaky)
    with watch.published(metrics):
        for unit_id in [*todo.unit_ids(), *todo.unit_ids()]:
            watch.add(Outcome(unit_id=unit_id, busy_seconds={"Segment": 1.0}, heard_seconds={"Segment": 3.0}))
        until = time.monotonic() + 20
        while ("touchasp_units_waiting",) not in metrics.values and time.monotonic() < until:
            time.sleep(0.01)  # the ledgers of before are read beside the work
    whole = Totals()
    for unit_id in names:
        whole.add(unit_id, real(store, unit_id, WATCH_COLUMNS))
    clips = sum(value for key, value in metrics.values.items() if key[0] == "touchasp_clips_total")
    assert clips == sum(whole.clips.values())
    assert sum(value for key, value in metrics.values.items() if key[0] == "touchasp_units_total") == len(names)
    assert metrics.values["touchasp_units_waiting",] == 0
    kinds = {key[0] for key in counted(metrics.values)}
    assert kinds == set(COUNTED)


def test_a_bound_stops_the_run_and_a_changed_one_lets_it_go_on(
    crawl: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    bounds = ["execution.stop_when.after_hours=0", "execution.stop_when.after_units=2"]
    assert run(out, crawl, *bounds, "execution.stop_when.min_retention=99") == 3
    told = capsys.readouterr().out
    assert told.count("stopped by execution.stop_when") == 1
    assert "is kept, and min_retention is 99 %" in told
    done = sorted(out.glob("shards/*/*.parquet"))
    assert len(done) == 2
    assert "This run is not finished: 2 of" in (out / "report.html").read_text()
    assert run(out, crawl, *bounds, "execution.stop_when.min_retention=99") == 3, "at once, by what is done already"
    assert "ok engines" not in capsys.readouterr().out
    assert sorted(out.glob("shards/*/*.parquet")) == done
    assert run(out, crawl, *bounds, "execution.stop_when.max_quarantine=0") == 3, "one page among the recordings"
    assert "in quarantine, and max_quarantine is 0 %" in capsys.readouterr().out
    assert run(out, crawl, *bounds, "execution.stop_when.min_retention=0.001") == 0
    assert digest(out) == digest(finished), "what was done stays, and the rest is as it would have been"
    assert "This run is not finished" not in (out / "report.html").read_text()
