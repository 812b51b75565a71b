"""Going on after something broke: a damaged checkpoint, half a line in a log, settings of an older version, split
folders.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from model_training import config
from model_training.__main__ import main
from model_training.train import train
from model_training.training import checkpoint as checkpoints
from operators.errors import UserError
from tests.model_training.test_train import REPOSITORY, SMALL, command, same, weights
from tests.support.corpus import make_handoff

TINY = [*SMALL, "data.augment.noise_probability=0", "data.augment.reverb_probability=0", "data.max_clips=2"]


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"), train=16)


def go(handoff: Path, run: Path, *settings: str) -> None:
    train(str(handoff), run, config.load(None, [*TINY, *settings]))


def damage(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_a_damaged_newest_checkpoint_is_made_again(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=3")
    whole = {name: tensor.clone() for name, tensor in weights(run, 3).items()}
    damage(run / "step-00000003")
    go(handoff, run, "train.max_steps=3")
    assert checkpoints.open_checkpoint(run).step == 3
    assert same(weights(run, 3), whole)
    assert (run / "damaged-step-00000003").is_dir()  # nothing that cannot be made again is thrown away


def test_a_damaged_checkpoint_does_not_push_out_whole_ones(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=4", "train.checkpoint_steps=2")
    damage(run / "step-00000004")
    go(handoff, run, "train.max_steps=3", "train.keep_checkpoints=1")
    assert checkpoints.open_checkpoint(run).step == 3


def test_a_damaged_newest_checkpoint_is_not_passed_over_unsaid(
    handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=3")
    damage(run / "step-00000003")
    path = run / "step-00000002" / "trainer.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "settings"}))
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    said = capsys.readouterr()
    assert "step 1, " in said.out
    (line,) = said.err.splitlines()
    assert "step-00000001; newer, but damaged: step-00000002, step-00000003" in line
    path.write_text(json.dumps(record | {"settings": 5}))
    assert main(["inspect", str(path.parent)]) == 2
    assert "trainer.json is damaged" in capsys.readouterr().err
    damage(run / "step-00000001")
    with pytest.raises(UserError, match=r"no whole checkpoint in .*: step-00000001, step-00000002, step-00000003"):
        checkpoints.open_checkpoint(run)


def test_a_checkpoint_of_another_version_is_not_trained_over(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=1")
    path = run / "step-00000001" / "trainer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(UserError, match="version 99"):
        go(handoff, run, "train.max_steps=2")
    assert checkpoints.steps(run) == [run / "step-00000001"]


def test_half_a_line_in_a_log_stops_no_run(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=1")
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 1, "gro')
    (run / "bad_samples.jsonl").write_text('{"clip_id": "a", "reas{"clip_id": "b", "reason": "empty", "detail": ""}\n')
    go(handoff, run, "train.max_steps=2")
    assert checkpoints.open_checkpoint(run).step == 2


def test_a_run_of_before_a_setting_existed_goes_on(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=1")
    path = run / "step-00000001" / "trainer.json"
    record = json.loads(path.read_text())
    del record["settings"]["data"]["attribute_dropout"], record["settings"]["model"]["moe"]["bias_rate"]
    path.write_text(json.dumps(record))
    go(handoff, run, "train.max_steps=2")
    assert checkpoints.open_checkpoint(run).step == 2


def test_a_run_of_before_a_setting_was_renamed_goes_on(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(handoff, run, "train.max_steps=1", "data.attribute_dropout=0.5")
    path = run / "step-00000001" / "trainer.json"
    record = json.loads(path.read_text())
    record["settings"]["data"]["forget_attributes"] = record["settings"]["data"].pop("attribute_dropout")
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"another data\.attribute_dropout"):
        go(handoff, run, "train.max_steps=2")
    (tmp_path / "old.yaml").write_text("data: {forget_attributes: 0.5}\n")
    train(str(handoff), run, config.load(str(tmp_path / "old.yaml"), [*TINY, "train.max_steps=2"]))
    go(handoff, run, "train.max_steps=3", "data.forget_attributes=0.5")
    assert checkpoints.open_checkpoint(run).step == 3


def test_workers_that_do_not_share_the_folder_get_an_error(handoff: Path, tmp_path: Path) -> None:
    """Each would go on from its own checkpoint, and they would sum gradients of different models."""
    go(handoff, tmp_path / "one", "train.max_steps=1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
    workers = [
        subprocess.Popen(
            [*command(handoff, tmp_path / out, *TINY[len(SMALL) :]), "train.max_steps=3"],
            cwd=REPOSITORY,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(("one", "two"))
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 2
        assert "a folder that all of them share" in errors


@pytest.mark.parametrize(
    ("file", "keys", "value", "words"),
    [
        ("handoff.json", ("domains", "words", "weight"), "2x", "weight of the domain words"),
        ("handoff.json", ("domains",), [], "domains is"),
        ("handoff.json", ("splits", "dev"), None, r"splits\.dev is None"),
        ("handoff.json", ("splits", "train"), {}, r"splits\.train\.index is None"),
        ("handoff.json", ("storage",), [1], "storage is"),
        ("handoff.json", ("storage",), {"region": 7}, r"storage\.region is 7"),
        ("handoff.json", ("cmvn",), None, "cmvn is None"),
        ("cmvn.json", (), [1], r"cmvn\.json is damaged"),
        ("tokenizer/tokenizer.json", ("characters",), [1, 2], "single characters"),
    ],
)
def test_a_handoff_changed_by_hand_is_one_line(
    handoff: Path, tmp_path: Path, file: str, keys: tuple[str, ...], value: Any, words: str
) -> None:
    copy = Path(shutil.copytree(handoff, tmp_path / "handoff"))
    record = json.loads((copy / file).read_text())
    part = record
    for key in keys[:-1]:
        part = part[key]
    if keys:
        part[keys[-1]] = value
    (copy / file).write_text(json.dumps(record if keys else value))
    with pytest.raises(UserError, match=words) as caught:
        go(copy, tmp_path / "run", "train.max_steps=1")
    assert "\n" not in str(caught.value)
