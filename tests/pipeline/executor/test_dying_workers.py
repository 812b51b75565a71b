"""Workers that die for good, and runs that are told to stop: under Ray both must end, soon, and say why."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from operators.errors import UserError
from pipeline.executor.cluster import scatter
from tests.support import fast_engines
from tests.support.kills import start, sweep

HERE = "tests.pipeline.executor.test_dying_workers"


class Deadly(fast_engines.HashRecogniser):
    """Brings its process down over every unit with more than 12 clips, as a crash in native code does."""

    def transcribe(self, clips: Any, languages: Any) -> Any:
        if len(clips) > 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().transcribe(clips, languages)


class Stillborn(fast_engines.HashRecogniser):
    """Brings its process down while it loads, as a model larger than the machine does."""

    def __init__(self, model: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def begin(tmp_path: Path, name: str, *more: str, delay: float = 0.0) -> tuple[subprocess.Popen[bytes], Path]:
    log = tmp_path / f"{name}.log"
    return start(fast_engines.settings(str(tmp_path / name), str(tmp_path / "crawl"), *more), log, delay), log


def end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=200)
    finally:
        sweep(process.pid)


def test_a_unit_that_kills_its_workers_is_left_undone_with_the_reason(tmp_path: Path) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 60, seed=5)
    process, log = begin(tmp_path, "deadly", f"asr.engine={HERE}:Deadly", "execution.max_task_retries=1")
    assert end(process) == 1, log.read_text()
    told = log.read_text()
    assert "failed and is left undone: the worker process died each time it was tried" in told
    assert "Traceback" not in told
    assert list((tmp_path / "deadly").glob("shards/*/*.parquet")), "the other units were done"
    assert "(0 failed)" not in told


def test_a_worker_that_dies_while_it_loads_is_not_started_for_ever(tmp_path: Path) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 8, seed=5)
    process, log = begin(tmp_path, "stillborn", f"asr.engine={HERE}:Stillborn")
    assert end(process) == 2, log.read_text()
    assert "Transcribe: its worker process died 3 times in a row while it loaded the models" in log.read_text()


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak), (signal.SIGTERM, 143)]
)
def test_a_run_that_is_told_to_stop_stops_and_goes_on_later(number: signal.Signals, code: int, tmp_path: Path) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 30, seed=5)
    process, log = begin(tmp_path, "run", delay=1.0)
    until = time.monotonic() + 150
    while "ok engines" not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    while "in work: Transcribe 0/" not in log.read_text():  # a clip takes a second, a unit as many as it has
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    told = time.monotonic()
    process.send_signal(number)
    assert end(process) == code, log.read_text()
    assert time.monotonic() - told < 30
    assert "touchasp: stopped; the same command goes on from here" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert "SIGTERM" not in log.read_text()
    if number == signal.SIGTERM:
        again, log = begin(tmp_path, "run", "execution.runner=local")
        assert end(again) == 0, log.read_text()


def refuse(items: list[int]) -> list[int]:
    if 3 in items:
        raise UserError("no credentials for s3://bucket: log in again")
    return items


def test_a_users_mistake_met_on_a_node_is_one_line_here() -> None:
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        assert list(scatter(refuse, [0, 1, 2], chunk=2)) == [(0, 0), (1, 1), (2, 2)]
        with pytest.raises(UserError) as caught:
            list(scatter(refuse, [0, 1, 2, 3], chunk=2))
        assert str(caught.value) == "no credentials for s3://bucket: log in again"
    finally:
        ray.shutdown()
