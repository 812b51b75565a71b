"""`plan --estimate` from the command line, with fast engines: nothing is left; the whole plan is what a run gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.__main__ import main
from tests.support import fast_engines


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimated") / "crawl"
    fast_engines.write_crawl(folder, 60, seed=7)
    (folder / "live" / "not audio.mp3").write_bytes(b"<html>404</html>")
    return folder


def command(name: str, tmp_path: Path, crawl: Path, *more: str) -> int:
    config = tmp_path / "empty.yaml"
    config.write_text("{}\n")
    settings = fast_engines.settings(str(tmp_path / "run"), str(crawl), f"execution.scratch={tmp_path / 'scratch'}")
    return main([name, str(config), *settings, "execution.runner=local", *more])


def left_over(tmp_path: Path) -> list[Path]:
    """Everything but the settings file and the folder that holds what is there for as long as this process."""
    return [
        path
        for path in tmp_path.rglob("*")
        if path.name not in ("empty.yaml", "scratch", "lock") and not path.name.startswith("touchasp-scratch-")
    ]


def test_a_sample_gives_hours_with_intervals_and_leaves_nothing(
    tmp_path: Path, crawl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ["execution.prices.cpu_hour=0.04", "execution.prices.currency=EUR"]
    assert command("plan", tmp_path, crawl, "--estimate", "3", *prices) == 0
    out = capsys.readouterr().out
    for stage in ("Segment", "Transcribe", "Copilot", "Rover", "WriteShard"):
        assert re.search(rf"^{stage} +[\d.<]+ \([\d.<]+ to [\d.<]+\)", out, re.MULTILINE), stage
    assert re.search(r"^kept +.* min \(.* to .*\)", out, re.MULTILINE)
    assert re.search(r"^cost +.* EUR for the hours of work", out, re.MULTILINE)
    assert "2 of 2 domain(s)" in out
    assert "GPU hours" not in out
    assert left_over(tmp_path) == []


def test_the_whole_plan_keeps_what_a_run_keeps(tmp_path: Path, crawl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("plan", tmp_path, crawl, "--estimate", "1000") == 0
    out = capsys.readouterr().out
    assert "the whole plan" in out
    assert "cost" not in out, "nothing has a price"
    kept = re.search(r"^kept +([\d.]+ min), ([\d.]+ %)", out, re.MULTILINE)
    shards = re.search(r"^shards +(\d+) *$", out, re.MULTILINE)
    assert command("run", tmp_path, crawl) == 0
    total = json.loads((tmp_path / "run" / "report.json").read_text())["total"]
    assert kept is not None
    assert shards is not None
    assert kept[1] == f"{total['kept']['samples'] / 16_000 / 60:.1f} min"
    assert int(shards[1]) == len([*(tmp_path / "run").rglob("*.tar")])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert command("plan", tmp_path, crawl, "--estimate", "1") == 0, "with the plan that is there"
    assert command("plan", tmp_path, crawl, "--estimate", "1", "rover.max_wer=50") == 0, "and under other settings"
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("minutes", ["0", "-3", "nan", "inf"])
def test_minutes_that_are_none_are_one_line(
    tmp_path: Path, crawl: Path, minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("plan", tmp_path, crawl, f"--estimate={minutes}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give minutes of audio to try" in line
    assert left_over(tmp_path) == []


def test_sources_without_audio_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nothing").mkdir()
    assert command("plan", tmp_path, tmp_path / "nothing", "--estimate", "5") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no audio" in line
    (tmp_path / "nothing" / "broken.mp3").write_bytes(b"<html>")
    assert command("plan", tmp_path, tmp_path / "nothing", "--estimate", "5") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing to estimate from" in line


def test_a_stop_leaves_nothing(
    tmp_path: Path, crawl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(self: fast_engines.HashCopilot, *clips: object) -> None:
        assert [*tmp_path.rglob("plan.parquet")], "the sample lies somewhere while it is worked on"
        raise KeyboardInterrupt

    monkeypatch.setattr(fast_engines.HashCopilot, "transcribe", stopped)
    assert command("plan", tmp_path, crawl, "--estimate", "3") == 130
    assert "nothing of the sample is left" in capsys.readouterr().err
    assert left_over(tmp_path) == []


def test_failed_chunks_are_said_and_left_out(
    tmp_path: Path, crawl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fails(self: fast_engines.HashCopilot, pcm: object) -> list[str]:
        calls.append(pcm)
        if len(calls) > 40:
            raise RuntimeError("out of paper")
        return ["one"]

    monkeypatch.setattr(fast_engines.HashCopilot, "words", fails)
    assert command("plan", tmp_path, crawl, "--estimate", "4") == 0
    out = capsys.readouterr().out
    assert re.search(r"^[1-9] chunk\(s\) failed and are not in it", out, re.MULTILINE)
    calls += [None] * 100
    assert command("plan", tmp_path, crawl, "--estimate", "4") == 2
    assert "every chunk of the sample failed" in capsys.readouterr().err
