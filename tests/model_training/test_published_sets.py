"""Official test sets, each evaluated by one command as it is published."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from model_training.__main__ import main
from tests.support.corpus import beeps, encoded, make_checkpoint, write_tar


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained: what is evaluated matters here, not how well it hears."""
    return make_checkpoint(tmp_path_factory.mktemp("run"), "model.moe.experts=[3]")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six words of beeps, one a file, and a recording that holds all of them."""
    folder, draw = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    clips = [beeps("abcde"[at % 5] * 3, 1 + at % 2, draw) for at in range(6)]
    for at, pcm in enumerate(clips):
        soundfile.write(folder / f"{at}.wav", pcm, 16_000, subtype="PCM_16")
    soundfile.write(folder / "all.flac", np.concatenate(clips), 16_000)
    return folder


def evaluate(run: Path, out: Path, *more: str, code: int = 0) -> dict[str, Any]:
    arguments = ["eval", str(run), "--groups", "3", "--methods", "ctc_greedy", "--out", str(out), *more]
    assert main(arguments) == code
    return json.loads((out / "eval.json").read_text()) if not code else {}


def test_a_kaldi_folder_is_evaluated_by_one_command(run: Path, sounds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"all {sounds}/all.flac\n")
    (folder / "segments").write_text("u1 all 0 0.9\nu2 all 0.9 2\nu3 all 2 2000\n")
    (folder / "text").write_text("u1 aaa\nu2 bbb\nu3 ccc\n")
    (folder / "utt2spk").write_text("u1 kim\nu2 lee\nu3 kim\n")
    found = evaluate(run, tmp_path / "out", "--set", str(folder))
    ((result,), bad) = found["results"], found["unusable"]["test"]
    assert (result["set"], result["clips"], result["tokens"]["recordings"]) == ("test", 2, 2)
    assert [reason for _, reason in bad] == ["bad_span"], "named, and in no number"
    assert "test" in (tmp_path / "out" / "eval.html").read_text()
    lines = [json.loads(line) for line in (tmp_path / "out" / "eval.jsonl").read_text().splitlines()]
    assert sorted((line["reference"], line["recording"], line["audio"]["start_sample"]) for line in lines) == [
        ("aaa", "kim", 0),
        ("bbb", "lee", 14_400),
    ]


def test_of_a_manifest_with_a_split_only_the_test_rows_are_evaluated(
    run: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = ["train", "test", "dev", "test-other", "train", "validation"]
    path = sounds / "words.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["uri", "text", "split", "language"])
        rows.writerows([f"{at}.wav", "abcde"[at % 5] * 3, split, "en"] for at, split in enumerate(splits))

    def said(folder: str) -> list[str]:
        lines = (tmp_path / folder / "eval.jsonl").read_text().splitlines()
        return sorted(json.loads(line)["reference"] for line in lines)

    found = evaluate(run, tmp_path / "a", "--set", str(path))
    assert [result["set"] for result in found["results"]] == ["words"]
    assert said("a") == ["bbb", "ddd"]
    two = evaluate(run, tmp_path / "b", "--set", f"held-out={path}@dev", "--set", f"other={path}@test-other")
    assert [(result["set"], result["clips"]) for result in two["results"]] == [("held-out", 2), ("other", 1)]
    evaluate(run, tmp_path / "c", "--set", f"{path}@5", code=2)
    assert "is of the split 5: it has dev, test, test-other, train, validation" in capsys.readouterr().err
    path.write_text(path.read_text().replace("test-other", "tset"))
    evaluate(run, tmp_path / "d", "--set", str(path), code=2)
    assert f"{path}:5: the split 'tset' is not known" in capsys.readouterr().err


def test_a_fold_and_a_mistake_in_naming(
    run: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"uri": f"{at}.wav", "text": "abc", "fold": at % 3 + 1} for at in range(6)]
    path = sounds / "folds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(run, tmp_path / "a", "--set", f"{path}@2")["results"][0]["clips"] == 2
    for more, words in (
        (["--set", str(path), "--set", str(path)], "two sets are called folds"),
        (["--set", str(sounds / "gone.csv")], "there is no manifest"),
        ([], "--data with a hand-off, or --set"),
    ):
        evaluate(run, tmp_path / "b", *more, code=2)
        assert words in capsys.readouterr().err


def test_tars_are_indexed_for_evaluation_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(1)
    members = [
        (f"{at}.{ending}", data)
        for at in range(3)
        for ending, data in (("flac", encoded(beeps("abc", 1, draw))), ("txt", b"abc"))
    ]
    write_tar(tmp_path / "sets" / "x.tar", members)
    out = tmp_path / "handoff"
    assert main(["index", str(tmp_path / "sets" / "x.tar"), "--out", str(out), "--test", "1"]) == 0
    assert f"eval CKPT --data {out}" in capsys.readouterr().out
    assert evaluate(run, tmp_path / "a", "--data", str(out))["results"][0]["clips"] == 3
    assert main(["train", "--data", str(out), "--config", "tiny", "--out", str(tmp_path / "model")]) == 2
    assert "nothing to train on" in capsys.readouterr().err


def test_two_models_and_one_of_before_are_compared(
    run: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sounds / "all.jsonl"
    path.write_text("".join(json.dumps({"uri": f"{at}.wav", "text": "abc"}) + "\n" for at in range(6)))
    evaluate(run, tmp_path / "a", "--set", str(path))
    before = str(tmp_path / "a" / "eval.json")
    evaluate(run, tmp_path / "b", before, "--set", str(path))
    assert "the same" in capsys.readouterr().out
    assert "What changed" in (tmp_path / "b" / "eval.html").read_text()
    (tmp_path / "c").mkdir()
    assert main(["eval", before, str(tmp_path / "b" / "eval.json"), "--out", str(tmp_path / "c")]) == 0
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["eval.html"]
