"""Comparing runs: the numbers against a plain loop over rows, the files that are written, hostile names, mistakes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from operators.shard import read_ledger
from pipeline.__main__ import main
from tests.support import fast_engines


def curate(folder: Path, name: str, crawl: Path, *more: str) -> Path:
    (folder / "empty.yaml").write_text("{execution: {runner: local}}\n")
    out = folder / name
    assert main(["run", str(folder / "empty.yaml"), *fast_engines.settings(str(out), str(crawl), *more)]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A run, the same with other thresholds and labels, and one of other recordings."""
    folder = tmp_path_factory.mktemp("compared")
    fast_engines.write_crawl(folder / "crawl", 50, seed=3)
    fast_engines.write_crawl(folder / "other", 12, seed=4, domains=["<b>meeting</b>"])
    first = curate(folder, "first", folder / "crawl")
    lenient = folder / "lenient"
    more = ["execution.runner=local", "rover.drop_when=both", "rover.max_wer=90", "rover.label_form=written"]
    assert main(["redecide", str(first), *more[1:], "--output", str(lenient)]) == 0
    return first, lenient, curate(folder, "other-run", folder / "other")


def rows(run: Path) -> dict[str, dict[str, Any]]:
    tables = (read_ledger(path.read_bytes())[0] for path in sorted(run.glob("shards/*/*.parquet")))
    return {row["clip_id"]: row for table in tables for row in table.to_pylist() if row["clip_id"]}


def outcome(row: dict[str, Any]) -> str:
    return "kept" if row["outcome"] == "kept" else f"{row['stage']}: {row['reason']}"


def compared(tmp_path: Path, *runs: Path) -> tuple[dict[str, Any], str]:
    assert main(["report", *map(str, runs), "--out", str(tmp_path)]) == 0
    return json.loads((tmp_path / "comparison.json").read_text()), (tmp_path / "comparison.html").read_text()


def test_clips_that_changed_outcome(
    runs: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, lenient, _ = runs
    document, page = compared(tmp_path, first, lenient)
    before, after = rows(first), rows(lenient)
    shared = before.keys() & after.keys()
    moved = Counter(
        (outcome(before[name]), outcome(after[name]))
        for name in shared
        if outcome(before[name]) != outcome(after[name])
    )
    samples: Counter[tuple[str, str]] = Counter()
    for name in shared:
        samples[outcome(before[name]), outcome(after[name])] += after[name]["end"] - after[name]["start"]
    clips = document["changes"][0]["clips"]
    assert moved, "the thresholds changed nothing: this test tests nothing"
    assert {(move["before"], move["after"]): move["clips"] for move in clips["moves"]} == moved
    assert all(samples[move["before"], move["after"]] == move["samples"] for move in clips["moves"])
    assert (clips["shared"], clips["only_before"], clips["only_after"]) == (len(shared), 0, 0)
    assert clips["same"] == len(shared) - sum(moved.values())
    kept = [name for name in shared if outcome(before[name]) == outcome(after[name]) == "kept"]
    assert clips["relabelled"] == sum(before[name]["label"] != after[name]["label"] for name in kept)
    settings = {each["key"]: (each["before"], each["after"]) for each in document["changes"][0]["settings"]}
    assert settings["rover.drop_when"] == ("either", "both")
    assert settings.keys() == {"rover.drop_when", "rover.max_wer", "rover.label_form"}
    printed = capsys.readouterr().out
    for words in ("rover.drop_when: either → both", "first", "lenient", "Clips with another outcome"):
        assert words in printed
    assert "rover.drop_when" in page
    assert f"{clips['shared']:,}" in page


def test_domains_side_by_side(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    document, page = compared(tmp_path, *runs)
    assert [run["name"] for run in document["runs"]] == ["first", "lenient", "other-run"]
    for run, compared_run in zip(runs, document["runs"], strict=True):
        own = json.loads((run / "report.json").read_text())
        assert {each["domain"]: each["kept"] for each in compared_run["domains"]} == {
            each["domain"]: each["kept"]["samples"] for each in own["domains"]
        }
        assert compared_run["total"]["input"] == own["total"]["input"]["samples"]
        assert compared_run["total"]["retention_percent"] == own["total"]["retention_percent"]
    assert document["changes"][1]["clips"]["shared"] == 0
    assert document["changes"][1]["clips"]["only_after"] == len(rows(runs[2]))
    assert "<b>meeting" not in page
    assert "&lt;b&gt;meeting" in page
    assert "<script" not in page
    assert "style=" not in page, "the page's policy would not apply it"


def test_the_same_runs_give_the_same_bytes_in_the_last_run(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    compared(tmp_path, runs[0], runs[1])
    assert main(["report", str(runs[0]), str(runs[1])]) == 0
    for name in ("comparison.json", "comparison.html"):
        assert (runs[1] / name).read_bytes() == (tmp_path / name).read_bytes()
        assert not (runs[0] / name).exists()


@pytest.mark.parametrize(
    ("second", "words"),
    [("{run}", "given twice"), ("{tmp}/none", "no run directory"), ("rover.max_wer=3", "only s3.*")],
)
def test_mistakes_are_one_line(
    second: str, words: str, runs: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs[0]), second.format(run=runs[0], tmp=tmp_path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
