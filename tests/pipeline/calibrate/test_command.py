"""`calibrate` as a command: what it writes, that `redecide` takes it, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.truths import SECOND, truth_bytes

LONG = 3.3
"""Seconds from which on both engines are wrong alike, by the truth file of `finished`."""


def clips_of(run: Path) -> list[dict[str, Any]]:
    paths = sorted(run.glob("shards/*/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist() if row["hypotheses"]]


def run_settings(folder: Path, output: Path) -> list[str]:
    return fast_engines.settings(str(output), str(folder / "crawl"), "execution.runner=local", "plan.unit_minutes=10")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with engines that need no ears, and a truth from which labels of long clips differ in every other word."""
    folder = tmp_path_factory.mktemp("finished")
    fast_engines.write_crawl(folder / "crawl", 160, seed=3)
    config = folder / "empty.yaml"
    config.write_text("{}\n")
    run = folder / "run"
    assert main(["run", str(config), *run_settings(folder, run)]) == 0
    lines: dict[str, dict[str, Any]] = {}
    for row in clips_of(run):
        line = lines.setdefault(row["recording_id"], {"path": row["recording_id"], "language": "en", "segments": []})
        start, end = row["start"] / SECOND, row["end"] / SECOND
        words = row["hypotheses"][0]["text"].split()
        if end - start >= LONG:
            words[::2] = ["boat"] * len(words[::2])
        line["segments"].append({"start_s": start, "end_s": end, "text": " ".join(words)})
    truth = folder / "truth.jsonl"
    truth.write_bytes(truth_bytes(*lines.values()))
    return run, truth


def test_redecide_takes_what_calibrate_writes_and_equals_a_fresh_run(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = finished
    asked = ["calibrate", str(run), "--truth", str(truth), "--target-cer", "2"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert f"python -m pipeline redecide {run} --settings {run}/calibration.yaml" in " ".join(printed.split())
    assert "do the probabilities hold" in printed
    written = {name: (run / name).read_bytes() for name in ("calibration.yaml", "calibration.json")}
    assert main(asked) == 0
    assert written == {name: (run / name).read_bytes() for name in written}, "same run, same bytes"

    again, fresh = tmp_path / "again", tmp_path / "fresh"
    fragment = str(run / "calibration.yaml")
    assert main(["redecide", str(run), "--settings", fragment, "--output", str(again)]) == 0
    assert main(["run", fragment, *run_settings(run.parent, fresh)]) == 0
    assert shards_of(again) == shards_of(fresh)

    reasons = Counter(row["reason"] for row in clips_of(again))
    assert reasons["low_confidence"] > 20
    kept_before = [row for row in clips_of(run) if row["outcome"] == "kept"]
    gone = {row["clip_id"] for row in clips_of(again) if row["reason"] == "low_confidence"}
    for row in kept_before:
        seconds = (row["end"] - row["start"]) / SECOND
        if not LONG - 0.5 < seconds < LONG + 0.5:  # tokens are whole: near the edge both are possible
            assert (row["clip_id"] in gone) == (seconds >= LONG)
    one = next(row for row in clips_of(again) if row["reason"] == "low_confidence")
    assert one["stage"] == "rover"
    assert "right with a probability of" in one["detail"]
    assert main(["score", str(again), "--truth", str(truth)]) == 0
    label = json.loads((again / "score.json").read_text())["total"]["systems"][0]
    assert label["kept"]["cer"]["value"] <= 2


def shards_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "shards").rglob("*.*"))}


def test_what_is_given_on_the_command_line_has_the_last_word(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, truth = finished
    assert main(["calibrate", str(run), "--truth", str(truth), "--target-cer", "2"]) == 0
    again = tmp_path / "again"
    more = ["--settings", str(run / "calibration.yaml"), "rover.calibration.en.min_right=0", "--output", str(again)]
    assert main(["redecide", str(run), *more]) == 0
    kept = [{row["clip_id"] for row in clips_of(each) if row["outcome"] == "kept"} for each in (run, again)]
    assert kept[0] == kept[1]


def test_the_settings_are_readable_and_say_where_they_are_from(finished: tuple[Path, Path]) -> None:
    run, truth = finished
    assert main(["calibrate", str(run), "--truth", str(truth), "--target-cer", "2", "--right", "1"]) == 0
    text = (run / "calibration.yaml").read_text()
    assert text.startswith("# Written by `python -m pipeline calibrate --target-cer 2 --right 1`.\n")
    table = yaml.safe_load(text)["rover"]["calibration"]["en"]
    assert table["log_tokens"] < 0, "long clips are wrong"
    assert table["avg_logprob"] == 0, "these engines are always as sure"
    assert 0 < table["min_right"] < 100


def test_a_run_and_a_truth_file_on_s3(finished: tuple[Path, Path], s3_server: str, bucket: str) -> None:
    run, truth = finished
    reach = S3Settings(endpoint_url=s3_server)
    store = open_store(f"s3://{bucket}/runs/first", reach)
    for path in (path for path in run.rglob("*") if path.suffix in (".yaml", ".parquet", ".tar")):
        store.put(str(path.relative_to(run)), path)
    store.put("truth.jsonl", truth)
    s3 = f"s3.endpoint_url={s3_server}"
    assert main(["calibrate", store.root, s3, "--truth", store.url("truth.jsonl"), "--target-cer", "2"]) == 0
    assert main(["calibrate", str(run), "--truth", str(truth), "--target-cer", "2"]) == 0
    assert store.read("calibration.yaml") == (run / "calibration.yaml").read_bytes()
    again = f"s3://{bucket}/runs/again"
    assert main(["redecide", store.root, s3, "--settings", store.url("calibration.yaml"), "--output", again]) == 0
    assert open_store(again, reach).exists("report.json")


def test_a_language_without_truth_is_named_and_the_others_are_calibrated(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    path = next(run.glob("shards/live/*.parquet"))
    found = pq.read_table(path)
    rows = found.to_pylist()
    kept = next(row for row in rows if row["outcome"] == "kept")
    french = {"language": "fr", "recording_id": "chanson", "uri": "crawl/chanson.flac"}
    stranger = [row | (french if row is kept else {}) for row in rows]
    pq.write_table(type(found).from_pylist(stranger, schema=found.schema), path)
    assert main(["calibrate", str(run), "--truth", str(finished[1]), "--target-cer", "2"]) == 0
    assert "fr: not calibrated: the truth file has none of its clips" in " ".join(capsys.readouterr().out.split())
    assert set(yaml.safe_load((run / "calibration.yaml").read_text())["rover"]["calibration"]) == {"en"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "no/such/file.jsonl"], "no truth file no/such/file.jsonl"),
        (["--truth", "{truth}", "--target-cer", "0"], "--target-cer 0: expected a percentage above 0"),
        (["--truth", "{truth}", "--target-cer", "nan"], "--target-cer nan"),
        (["--truth", "{truth}", "--right", "100"], "--right 100: expected a percentage"),
        (["--truth", "{truth}", "--seed", "-1"], "--seed is a whole number from 0"),
        (["--truth", "{truth}", "--tolerance", "2"], "--silence is no less than --tolerance"),
        (["--truth", "{few}"], "nothing was calibrated: en: too little truth"),
        (["--truth", "{strange}"], "nothing was calibrated: en: the truth file has none of its clips"),
        (["--truth", "{truth}", "--target-cer", "0.0001", "--right", "60"], "nothing was calibrated: en: "),
    ],
)
def test_user_errors_are_one_line(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run, truth = finished
    few, strange = tmp_path / "few.jsonl", tmp_path / "strange.jsonl"
    few.write_text(truth.read_text().splitlines()[0] + "\n")
    strange.write_text('{"path": "elsewhere", "segments": []}\n')
    places = {"{truth}": str(truth), "{few}": str(few), "{strange}": str(strange)}
    given = [places.get(each, each) for each in arguments]
    assert main(["calibrate", str(run), "--target-cer", "2", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "nothing to redecide"),
        ("no/such.yaml", "no settings file no/such.yaml"),
        ("rover: {calibration: {en: {wert: 1}}}", "no setting is called rover.calibration.en.wert"),
        ("rover: {calibration: {en: {min_right: 101}}}", "rover.calibration.en.min_right=101.0: must be at most 100"),
        ("rover: {calibration: {en: 3}}", "rover.calibration.en is a table of settings"),
        ("asr: {model: other}", "limits of annotate.quality only, not asr.model"),
        ("- a list", "holds no settings"),
        ("rover: {[", "not valid YAML in"),
    ],
)
def test_a_settings_file_that_redecide_cannot_take(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str | None, message: str
) -> None:
    given = []
    if file is not None:
        path = tmp_path / "new.yaml"
        path.write_text(f"{file}\n")
        given = ["--settings", file if file.startswith("no/") else str(path)]
    assert main(["redecide", str(finished[0]), *given, "--output", str(tmp_path / "again")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
