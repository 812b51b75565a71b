"""Whatever is killed whenever, the shards are those of an uninterrupted run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import STAGES
from tests.conftest import REPOSITORY
from tests.support import fast_engines
from tests.support.kills import digest, run_with_kills, start, sweep


def peaceful(tmp_path: Path, crawl: Path) -> dict[str, str]:
    settings = fast_engines.settings(
        str(tmp_path / "peaceful"), str(crawl), fast_engines.SHARING, "execution.runner=local"
    )
    process = start(settings, tmp_path / "peaceful.log")
    code = process.wait(timeout=600)
    sweep(process.pid)
    assert code == 0, (tmp_path / "peaceful.log").read_text()
    return digest(tmp_path / "peaceful")


def test_kills_leave_no_trace(tmp_path: Path) -> None:
    clips = fast_engines.write_crawl(tmp_path / "crawl", 160)
    expected = peaceful(tmp_path, tmp_path / "crawl")
    settings = fast_engines.settings(str(tmp_path / "killed"), str(tmp_path / "crawl"), fast_engines.SHARING)
    record = run_with_kills(settings, tmp_path / "killed.log", kills=3, seed=1, window=(0.2, 2.0), delay=0.05)
    assert sum(record.kills.values()) >= 3, f"only {record.kills} of {clips} clips' run were killed"
    assert digest(tmp_path / "killed") == expected


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_thirty_kills_over_two_thousand_clips(tmp_path: Path) -> None:
    clips = fast_engines.write_crawl(tmp_path / "crawl", 2000, domains=("audiobook", "interview", "live", "sports"))
    assert clips >= 2000
    expected = peaceful(tmp_path, tmp_path / "crawl")
    settings = fast_engines.settings(str(tmp_path / "killed"), str(tmp_path / "crawl"), fast_engines.SHARING)
    record = run_with_kills(settings, tmp_path / "killed.log", kills=33, seed=7, window=(0.2, 12.0), delay=0.25)
    print(f"{clips} clips, {record.starts} starts, kills: {dict(record.kills)}")
    assert sum(record.kills.values()) >= 30
    assert digest(tmp_path / "killed") == expected


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_crash_at_every_write_leaves_no_trace(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 3, seed=3, domains=("audiobook",))
    (tmp_path / "crawl" / "audiobook" / "broken.mp3").write_bytes(b"this is no audio")
    arguments = [str(tmp_path / "crawl"), str(tmp_path)]
    if where == "s3":
        arguments += [request.getfixturevalue("s3_server"), f"crash-{random.randrange(10**9)}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.crash_points", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    crashes = int(done.stdout.split()[0])
    assert crashes >= (12 if where == "local" else 6), done.stdout


def test_the_account_adds_up_with_a_fifth_of_the_workers_killed(tmp_path: Path) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 120, seed=4)
    expected = peaceful(tmp_path, tmp_path / "crawl")
    two = [f"execution.{stage}.{bound}=2" for stage in STAGES for bound in ("max_workers", "min_workers")]
    settings = fast_engines.settings(str(tmp_path / "killed"), str(tmp_path / "crawl"), fast_engines.SHARING, *two)
    record = run_with_kills(
        settings, tmp_path / "killed.log", kills=2, seed=2, window=(0.1, 1.0), delay=0.08, victims=("worker",)
    )
    assert record.kills["worker"] == 2, "of ten workers"
    assert record.starts == 1, "Ray brought them back by itself"
    account = json.loads((tmp_path / "killed" / "report.json").read_text())
    for domain in [account["total"], *account["domains"]]:
        assert domain["identity"]["difference"] == 0
    assert digest(tmp_path / "killed") == expected
