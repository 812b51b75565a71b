"""eval, decode, export, inspect, index and tokenizer as a user calls them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import yaml

from model_training import config
from model_training.__main__ import main
from model_training.data.index import Index
from model_training.decoding import decode
from model_training.decoding.recognize import Recognizer
from model_training.evaluation.evaluation import from_json
from model_training.export.export import export
from model_training.train import train
from operators.index import write_index
from tests.model_training.test_train import SMALL, STILL
from tests.support.corpus import beeps, encoded, make_handoff, write_tar

UNMASKED = ["data.augment.frequency_masks=0", "data.augment.time_masks=0"]


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"), dev=16)


@pytest.fixture(scope="module")
def run(handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it hears most letters."""
    folder = tmp_path_factory.mktemp("run")
    settings = [
        "train.max_steps=100",
        "train.checkpoint_steps=50",
        "train.eval_steps=100",
        *UNMASKED,
        "train.precision=fp32",
    ]
    train(str(handoff), folder, config.load(None, [*SMALL, *STILL, "optimizer.ema=0.9", *settings]))
    return folder


def test_it_learns_at_every_size(run: Path) -> None:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    first, last = np.mean([r["loss"] for r in steps[:5]]), np.mean([r["loss"] for r in steps[-10:]])
    assert last < 0.35 * first
    dev = {record["group"]: record for record in records if "dev_loss" in record}
    assert sorted(dev) == [3, 7, 15]
    assert all(record["dev_loss"] < 0.6 * first for record in dev.values())
    assert {record["group"] for record in steps} == {3, 7, 15}
    for name in ("loss.png", "expert-load.png", "groups.png"):
        assert (run / "plots" / name).stat().st_size > 1000


def test_eval_puts_every_size_into_one_table(
    handoff: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "eval",
        str(run),
        "--data",
        str(handoff),
        "--split",
        "dev",
        "--methods",
        "ctc_greedy,attention",
        "--beam",
        "3",
    ]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for word in ("3", "7", "15", "bells", "words", "eval.html"):
        assert word in printed
    evaluation = json.loads((tmp_path / "eval.json").read_text())
    assert {(r["set"], r["group"], r["method"]) for r in evaluation["results"]} == {
        (s, g, m) for s in ("bells", "words") for g in (3, 7, 15) for m in ("ctc_greedy", "attention")
    }
    assert (tmp_path / "eval.html").read_text().startswith("<!doctype html>")
    scores = from_json((tmp_path / "eval.json").read_bytes())
    gender = scores.pooled(15, "attention").attributes["gender"].accuracy
    assert gender.total == 16
    language = scores.pooled(15, "attention").attributes["language"].accuracy
    assert (language.right, language.total) == (16, 16)
    rounded = tmp_path / "bf16"
    assert main([*arguments, "--groups", "3", "--precision", "bf16", "--out", str(rounded)]) == 0
    again = from_json((rounded / "eval.json").read_bytes()).pooled(3, "attention")
    assert again.attributes["language"].accuracy.right == 16


def test_eval_names_every_clip_that_is_in_no_score(
    handoff: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A label too long for CTC, a clip without any label, and a domain that has nothing else."""
    other = Path(shutil.copytree(handoff, tmp_path / "handoff"))
    index = Index.open(str(handoff / "dev.arrow"))
    rows = [index.row(number) for number in range(len(index))]
    rows[0] = replace(rows[0], label_tokens=500)
    rows[2] = replace(rows[2], label="", label_tokens=0)
    rows = [replace(row, frames=3) if row.domain == "bells" else row for row in rows]
    write_index(other / "dev.arrow", rows)
    arguments = ["eval", str(run), "--data", str(other), "--split", "dev", "--methods", "ctc_greedy", "--groups", "3"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    evaluation = json.loads((tmp_path / "eval.json").read_text())
    assert [(r["set"], r["clips"]) for r in evaluation["results"]] == [("words", 6)]
    assert {name: len(clips) for name, clips in evaluation["unusable"].items()} == {"bells": 8, "words": 2}
    assert sorted(reason for _, reason in evaluation["unusable"]["words"]) == ["empty_label", "label_too_long"]
    assert main(["decode", str(run), "--data", str(other), "--split", "dev", "--method", "ctc_greedy"]) == 0
    captured = capsys.readouterr()
    assert all(row.clip_id in captured.err for row in rows if row.domain == "bells")


@pytest.mark.parametrize("more", [["--ema"], ["--average", "2"], ["--group", "3", "--method", "ctc_greedy"]])
def test_decode_writes_one_json_object_a_clip(
    handoff: Path, run: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert main(["decode", str(run), "--data", str(handoff), "--split", "dev", "--beam", "2", *more]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 16
    assert {"clip", "text", "label", "gender", "language"} <= lines[0].keys()


def test_decode_names_files_it_cannot_read_and_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.flac", tmp_path / "bad.flac"
    good.write_bytes(encoded(beeps("abc", 1, np.random.default_rng(0))))
    bad.write_bytes(b"fLaC" + bytes(500))
    assert main(["decode", str(run), str(bad), str(good), "--given", "language=en"]) == 2
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert json.loads(line)["clip"] == str(good)
    assert json.loads(line)["language"] == "en"
    assert "bad.flac" in err


def test_decode_hears_a_long_recording_as_recognize_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clips of training had 4 s at most."""
    random, lengths = np.random.default_rng(1), []
    pcm = np.concatenate([beeps("".join(random.choice(list("abcdefgh"), 6)), 2, random) for _ in range(10)])
    soundfile.write(tmp_path / "long.flac", pcm, 16_000)

    class Scorer(decode.ModelScorer):
        def __init__(self, model: Any, features_BF80: Any, lengths_B: Any, group: int, autocast: Any = None) -> None:
            lengths.append(features_BF80.shape[1])
            super().__init__(model, features_BF80, lengths_B, group, autocast)

    monkeypatch.setattr(decode, "ModelScorer", Scorer)
    assert main(["decode", str(run), str(tmp_path / "long.flac"), "--beam", "2"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert len(lengths) > 3
    assert max(lengths) <= 400
    (done,) = export(run, 15, "onnx", tmp_path / "onnx", measure=False)
    (want,) = Recognizer(done.folder, threads=1).recognize([tmp_path / "long.flac"], beam=2)
    assert got["text"]
    assert (got["text"], got["gender"], got["language"]) == (want.text, want.gender, want.language)


def changed(run: Path, folder: Path, part: str, **values: Any) -> Path:
    """A copy of the run's newest checkpoint with other settings in its record."""
    copy = Path(shutil.copytree(run / "step-00000100", folder / "step-00000100"))
    record = json.loads((copy / "trainer.json").read_text())
    record["settings"][part] |= values
    (copy / "trainer.json").write_text(json.dumps(record))
    return copy


def test_only_a_trained_task_is_asked_and_not_by_ctc(
    handoff: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = changed(run, tmp_path, "data", tasks={"transcribe": 0.0, "gender": 1.0})
    arguments = ["eval", str(copy), "--data", str(handoff), "--split", "dev", "--groups", "3", "--task", "gender"]
    assert main([*arguments, "--methods", "attention"]) == 0
    scores = from_json((copy / "eval.json").read_bytes()).pooled(3, "attention")
    assert scores.attributes["gender"].accuracy.total == 16
    for more, words in ((["--methods", "ctc_greedy"], "no gender"), (["--task", "transcribe"], "it has gender")):
        capsys.readouterr()
        assert main([*arguments, *more]) == 2
        assert words in capsys.readouterr().err


def test_a_model_trained_with_a_gpus_dispatch_is_heard_without_one(handoff: Path, run: Path, tmp_path: Path) -> None:
    moe = json.loads((run / "step-00000100" / "trainer.json").read_text())["settings"]["model"]["moe"]
    copy = changed(run, tmp_path, "model", moe=moe | {"dispatch": "grouped"})
    arguments = ["decode", str(copy), "--data", str(handoff), "--split", "dev", "--method", "ctc_greedy"]
    assert main([*arguments, "--device", "cpu"]) == 0


def test_eval_keeps_the_results_of_every_twin(
    handoff: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = changed(run, tmp_path / "other", "data")
    arguments = ["eval", str(run / "step-00000100"), "--data", str(handoff), "--split", "dev", "--groups", "3"]
    arguments += ["--methods", "ctc_greedy", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--twin", str(tmp_path / "nowhere")]) == 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["eval.json", "eval.jsonl"]
    assert main([*arguments, "--twin", str(copy), "--twin", str(run)]) == 0
    found = [from_json(file.read_bytes()).model for file in sorted((tmp_path / "out").glob("*.json"))]
    assert found == ["other-step-00000100", f"{run.name} step 100", f"{run.name}-step-00000100"]
    capsys.readouterr()
    assert main([*arguments, "--twin", str(copy), "--twin", str(copy)]) == 2
    assert "stands there twice" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "eval"])
def test_only_a_stopped_training_is_said_to_go_on(
    handoff: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model_training.data.handoff.Handoff.open", stop)
    where = ["--out", str(tmp_path)] if command == "train" else [str(run)]
    assert main([command, *where, "--data", str(handoff)]) == 130
    assert ("goes on from the last checkpoint" in capsys.readouterr().err) == (command == "train")


def _deaf(ready: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(60)


def test_ctrl_c_twice_does_not_wait_for_loaders_that_outlive_sigterm(
    handoff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second interrupts their end, and at its own end Python ends children by SIGTERM and joins them."""
    ready = multiprocessing.Event()
    loader = multiprocessing.Process(target=_deaf, args=(ready,), daemon=True)

    def stop(*_: Any) -> None:
        loader.start()
        assert ready.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr("model_training.data.handoff.Handoff.open", stop)
    assert main(["train", "--out", str(tmp_path), "--data", str(handoff)]) == 130
    loader.join(10)
    assert loader.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "{handoff}", "--config", "{latin}"],
        ["tokenizer", "--texts", "{handoff}/handoff.json", "--scheme", "{latin}", "--out", "{out}"],
        ["tokenizer", "--texts", "{latin}", "--out", "{out}"],
    ],
)
def test_a_file_that_is_not_utf_8_is_named(
    handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("# Größe\n".encode("latin-1"))
    assert main([a.format(handoff=handoff, latin=latin, out=tmp_path / "out") for a in arguments]) == 2
    assert f"touchasp: {latin} is not UTF-8" in capsys.readouterr().err


def test_inspect_tells_the_sizes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "step 100" in printed
    assert printed.count("active for a frame") == 3
    assert main(["inspect", "--config", "paper-1b", "model.d_ff=2048"]) == 0
    assert '"d_ff": 2048' in capsys.readouterr().out


def test_tars_from_elsewhere_are_indexed_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(3)
    words = ["".join(random.choice(list("abcd"), 3)) for _ in range(30)]
    members = []
    for number, word in enumerate(words):
        members += [(f"k{number}.flac", encoded(beeps(word, 1, random))), (f"k{number}.txt", word.encode())]
    write_tar(tmp_path / "theirs" / "set.tar", members)
    out = tmp_path / "handoff"
    arguments = ["index", str(tmp_path / "theirs" / "set.tar"), "--out", str(out), "--dev", "0.2", "--test", "0.1"]
    assert main([*arguments, "--bpe-size", "10"]) == 0
    assert main(["train", "--data", str(out), "--out", str(tmp_path / "run"), *SMALL, "train.max_steps=2"]) == 0
    assert "finished at step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "{run}", "--data", "{handoff}", "--split", "test"], ["no split 'test'", "train, dev"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--groups", "5"], ["group 5", "3, 7, 15"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--groups", "three"], ["--groups three"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--methods", "magic"], ["magic", "ctc_greedy"]),
        (["eval", "nowhere", "--data", "{handoff}", "--split", "dev"], ["no checkpoint in nowhere"]),
        (["decode", "{run}"], ["audio files"]),
        (["decode", "{run}", "nowhere.wav"], ["nowhere.wav"]),
        (["decode", "{run}", "{handoff}/handoff.json", "--given", "language=klingon"], ["klingon"]),
        (["decode", "{run}", "--data", "{handoff}", "--average", "9"], ["--average 9", "2 checkpoints"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--average", "0"], ["--average 0", "at least 1"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--threads", "-1"], ["--threads -1", "at least 0"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--device", "tpu"], ["tpu", "cpu"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--ctc-weight", "7"], ["CTC", "7"]),
        (["train", "--data", "{handoff}", "--out", "{handoff}/handoff.json", *SMALL], ["handoff.json", "--out"]),
        (
            ["train", "--data", "{handoff}", "--out", "y", "data.max_frames=100"],
            ["data.max_frames=100", "data.max_clip_frames"],
        ),
        (["train", "--data", "{handoff}", "--out", "y", "data.tasks.emotion=1"], ["no clip", "a label for emotion"]),
        (["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--device", "cuda"], ["no CUDA device", "say cpu"]),
        (
            ["eval", "{run}", "--data", "{handoff}", "--split", "dev", "--ema", "--average", "2"],
            ["--ema", "--average 2"],
        ),
        (
            ["decode", "{run}", "--data", "{handoff}", "--split", "dev", "--ema", "--average", "2"],
            ["--ema", "--average 2"],
        ),
        (["export", "{run}", "--out", "x", "--ema", "--average", "2"], ["--ema", "--average 2"]),
        (
            ["eval", "{run}", "--data", "{handoff}", "--task", "gender", "--split", "dev"],
            ["not trained for the task 'gender'", "transcribe"],
        ),
        (
            ["decode", "{run}", "--data", "{handoff}", "--task", "gender"],
            ["not trained for the task 'gender'", "transcribe"],
        ),
        (
            ["eval", "nowhere", "--data", "{handoff}", "--out", "/proc/none/x", "--split", "dev"],
            ["cannot write to /proc/none/x", "--out"],
        ),
        (
            ["eval", "nowhere", "--data", "{handoff}", "--out", "{handoff}/handoff.json", "--split", "dev"],
            ["cannot write to", "--out"],
        ),
        (["export", "{run}", "--group", "3", "--out", "/proc/none/x"], ["cannot make /proc/none/x", "--out"]),
        (["index", "nowhere.tar", "--out", "/proc/none/x"], ["cannot write to /proc/none/x", "--out"]),
        (["tokenizer", "--texts", "{handoff}/handoff.json", "--out", "/proc/none/x"], ["cannot write to /proc/none/x"]),
        (
            ["train", "--data", "{handoff}", "--out", "y", "data.augment.time_masks=-1"],
            ["time_masks=-1", "at least 0"],
        ),
        (
            ["train", "--data", "{handoff}", "--out", "y", "data.augment.frequency_mask_bins=-1"],
            ["mask_bins=-1", "at least 0"],
        ),
        (["train", "--data", "{handoff}", "--out", "y", "data.augment.snr_db=[15,.inf]"], ["data.augment.snr_db"]),
        (["train", "--data", "{handoff}", "--out", "y", "train.seed=99999999999999999999"], ["train.seed=99", "below"]),
        (
            ["train", "--data", "{handoff}", "--out", "y", "model.moe.dispatch=grouped"],
            ["dispatch=grouped", "say auto"],
        ),
        (["inspect", "--config", "tiny", "--vocabulary", "-1"], ["--vocabulary -1", "at least 1"]),
        (["inspect"], ["give a checkpoint"]),
        (["tokenizer", "--texts", "nowhere.txt", "--out", "x"], ["nowhere.txt"]),
        (
            ["tokenizer", "--texts", "{handoff}/handoff.json", "--languages", "{handoff}/cmvn.json", "--out", "x"],
            ["cmvn.json has", "one for each"],
        ),
        (["index", "nowhere.tar", "--out", "x"], ["nowhere.tar"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    handoff: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([a.format(run=run, handoff=handoff) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("touchasp: ")
    assert not list(tmp_path.iterdir())
    assert all(word in error[0] for word in words), error


def test_settings_are_printed_as_a_file_that_loads_and_as_a_schema_that_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings"]) == 0
    page = tmp_path / "all.yaml"
    page.write_text(capsys.readouterr().out, encoding="utf-8")
    assert config.load(str(page), []) == config.Settings()
    assert main(["settings", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(page.read_text(encoding="utf-8")), schema)
    for preset in config.presets():
        jsonschema.validate(yaml.safe_load((config.PRESETS / f"{preset}.yaml").read_text(encoding="utf-8")), schema)
    for bad in ({"modle": {}}, {"model": {"dropout": 1}}, {"model": {"moe": {"ffn": "some"}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
