"""`score` as a command: what it writes and prints, on local disk and on S3, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.truths import (
    SECOND,
    crawl_run,
    truth_bytes,
    whole,
)

__all__ = ["crawl_run", "whole"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with engines that need no ears, and a truth file that says what its ASR said, but for one clip in ten."""
    folder = tmp_path_factory.mktemp("finished")
    fast_engines.write_crawl(folder / "crawl", 40, seed=3)
    config = folder / "empty.yaml"
    config.write_text("{}\n")
    run = folder / "run"
    settings = fast_engines.settings(str(run), str(folder / "crawl"), "execution.runner=local")
    assert main(["run", str(config), *settings]) == 0
    lines: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(clips_of(run)):
        line = lines.setdefault(row["recording_id"], {"path": row["recording_id"], "language": "en", "segments": []})
        text = row["hypotheses"][0]["text"] + (" indeed" if number % 10 == 0 else "")
        line["segments"].append({"start_s": row["start"] / SECOND, "end_s": row["end"] / SECOND, "text": text})
    truth = folder / "truth.jsonl"
    truth.write_bytes(truth_bytes(*lines.values()))
    return run, truth


def clips_of(run: Path) -> list[dict[str, Any]]:
    paths = sorted(run.glob("shards/*/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist() if row["hypotheses"]]


def test_the_command_writes_what_it_prints(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, truth = finished
    assert main(["score", str(run), "--truth", str(truth)]) == 0
    printed = capsys.readouterr().out
    document = json.loads((run / "score.json").read_text())
    clips = clips_of(run)
    misheard = sum(row["hypotheses"][0]["text"] != row["hypotheses"][1]["text"] for row in clips)
    total = document["total"]
    asr = next(system for system in total["systems"] if system["name"] == "asr")
    assert asr["all"]["clips"] == len(clips)
    assert asr["all"]["wrong"][0]["value"] == pytest.approx(100 * len(range(0, len(clips), 10)) / len(clips))
    assert total["filter"][0]["kept"] == sum(row["outcome"] == "kept" for row in clips) == len(clips) - misheard
    assert document["headline"] in " ".join(printed.split())
    assert "Per domain" in printed
    assert "audiobook" in printed
    before = {name: (run / name).read_bytes() for name in ("score.json", "score.html")}
    assert main(["score", str(run), "--truth", str(truth)]) == 0
    assert before == {name: (run / name).read_bytes() for name in before}, "same run, same bytes"
    shown = {wrong["clip_id"] for wrong in document["wrong_labels"]}
    assert shown <= {row["clip_id"] for row in clips if row["outcome"] == "kept"}
    assert shown


def test_a_run_and_a_truth_file_on_s3(finished: tuple[Path, Path], s3_server: str, bucket: str) -> None:
    run, truth = finished
    store = open_store(f"s3://{bucket}/runs/first", S3Settings(endpoint_url=s3_server))
    for path in (path for path in run.rglob("*") if path.suffix in (".yaml", ".parquet")):
        store.put(str(path.relative_to(run)), path)
    store.put("truth.jsonl", truth)
    arguments = [store.root, f"s3.endpoint_url={s3_server}", "--truth", store.url("truth.jsonl")]
    assert main(["score", *arguments]) == 0
    assert main(["score", str(run), "--truth", str(truth)]) == 0
    assert store.read("score.json") == (run / "score.json").read_bytes()
    assert store.exists("score.html")


def test_of_an_unfinished_run_score_and_report_say_what_they_are_of(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    arguments = ["score", str(run), "--truth", str(finished[1])]

    def units() -> tuple[int | None, int | None]:
        document = json.loads((run / "score.json").read_text())
        return document["units"], document["units_done"]

    ledgers = sorted(run.glob("shards/*/*.parquet"))
    assert main(arguments) == main(["report", str(run)]) == 0
    assert "units are done" not in capsys.readouterr().out
    assert units() == (len(ledgers), len(ledgers))
    ledgers[0].unlink()
    for command, name in ((arguments, "score"), (["report", str(run)], "report")):
        assert main(command) == 0
        assert (
            f"{len(ledgers) - 1} of {len(ledgers)} units are done; this {name} is of those\n" in capsys.readouterr().out
        )
    assert units() == (len(ledgers), len(ledgers) - 1)
    assert "units are done; this score is of those" in (run / "score.html").read_text()
    (run / "plan.parquet").unlink()
    assert main(arguments) == 0
    assert units() == (None, None)


def test_what_utf8_cannot_hold_is_scored_all_the_same(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, truth = finished
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    for line in lines:
        line["language"] = "en\udce9"
        line["segments"][0]["text"] += " \udce9"
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["score", str(run), "--truth", str(tmp_path / "truth.jsonl")]) == 0
    assert [scope["name"] for scope in json.loads((run / "score.json").read_text())["languages"]] == ["en\\udce9"]


def test_a_page_that_cannot_be_drawn_leaves_the_last_score_whole(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, truth = finished
    assert main(["score", str(run), "--truth", str(truth)]) == 0
    before = (run / "score.json").read_bytes()

    def fail(_score: object) -> bytes:
        raise RuntimeError("no page")

    monkeypatch.setattr("pipeline.score.command.render_page", fail)
    with pytest.raises(RuntimeError, match="no page"):
        main(["score", str(run), "--truth", str(truth), "--right", "1"])
    assert (run / "score.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--truth", "{truth}", "--right", "few"], "--right few: expected percentages"),
        (["--truth", "{truth}", "--right", "0,100"], "percentages from 0 to below 100"),
        (["--truth", "{truth}", "--tolerance", "2"], "--silence is no less than --tolerance"),
        (["--truth", "{truth}", "--tolerance", "nan"], "are seconds"),
        (["--truth", "{truth}", "--seed", "-1"], "--seed is a whole number from 0"),
        (["--truth", "{empty}"], "holds no truth"),
    ],
)
def test_user_errors_are_one_line(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run, truth = finished
    (tmp_path / "empty.jsonl").write_text("\n")
    places = {"{truth}": str(truth), "{empty}": str(tmp_path / "empty.jsonl")}
    assert main(["score", str(run), *(places.get(each, each) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path), "--truth", "x"]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_a_run_of_the_first_schema_is_scored(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, truth = finished
    old = tmp_path / "old"
    shutil.copytree(run, old)
    for path in (old / "shards").rglob("*.parquet"):
        table = pq.read_table(path)
        known = table.schema.metadata | {b"touchasp.schema_version": b"1"}
        pq.write_table(table.drop_columns(["numbers_agree"]).replace_schema_metadata(known), path)
    assert [main(["score", str(each), "--truth", str(truth)]) for each in (run, old)] == [0, 0]
    before, after = (json.loads((folder / "score.json").read_text())["total"]["systems"][0] for folder in (run, old))
    assert after == before
