"""Training: it learns, a killed run goes on as if nothing had happened, workers agree, mistakes are named."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model_training import config
from model_training.__main__ import main
from model_training.data.index import Index
from model_training.train import train
from model_training.training import checkpoint as checkpoints
from operators.errors import UserError
from operators.index import write_index
from tests.support.corpus import make_handoff

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = [
    "model.d_model=32",
    "model.heads=2",
    "model.d_ff=32",
    "model.encoder_layers=2",
    "model.decoder_layers=1",
    "model.kernel=5",
    "data.max_frames=2000",
    "data.max_clip_frames=400",
    "data.max_clips=8",
    "data.micro_batches=2",
    "data.loaders=0",
    "optimizer.warmup_steps=20",
    "optimizer.learning_rate=0.003",
    "optimizer.weight_decay=0.1",
    "train.precision=fp32",
    "train.threads=1",
    "train.checkpoint_steps=1",
    "train.keep_checkpoints=100",
    "train.eval_steps=1000",
    "train.log_steps=1",
    "train.tensorboard=false",
]
STILL = ["data.augment.noise_probability=0", "data.augment.reverb_probability=0", "data.augment.speed_factors=[]"]


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"))


def weights(run: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    folder = checkpoints.steps(run)[-1] if step is None else run / f"step-{step:08d}"
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def command(handoff: Path, out: Path, *settings: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "model_training",
        "train",
        "--data",
        str(handoff),
        "--out",
        str(out),
        *SMALL,
        *settings,
    ]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_stopped_and_gone_on_anywhere_has_the_same_weights(handoff: Path, tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    extra = ["optimizer.ema=0.9", "model.moe.balance=bias", f"optimizer.name={name}", "train.checkpoint_steps=50"]
    extra += ["model.causal=true", "model.dynamic_chunks=true", "model.reverse_layers=1"]
    train(str(handoff), whole, config.load(None, [*SMALL, *extra, "train.max_steps=12"]))
    for stop in (1, 7):
        parts = tmp_path / f"parts-{stop}"
        for steps in (stop, 12):
            train(str(handoff), parts, config.load(None, [*SMALL, *extra, f"train.max_steps={steps}"]))
        assert same(weights(whole), weights(parts))
        for file in ("ema", "optimizer"):
            a, b = (load_file(run / "step-00000012" / f"{file}.safetensors") for run in (whole, parts))
            assert same(a, b)


def test_reading_ahead_in_processes_changes_nothing(handoff: Path, tmp_path: Path) -> None:
    for loaders in (0, 2):
        settings = config.load(None, [*SMALL, f"data.loaders={loaders}", "train.max_steps=4"])
        train(str(handoff), tmp_path / f"run-{loaders}", settings)
    assert same(weights(tmp_path / "run-0"), weights(tmp_path / "run-2"))


def kill_and_resume(handoff: Path, run: Path, *, kills: int, steps: int, seed: int) -> None:
    """Go through a training with SIGKILLs at seeded moments after the first step of each start."""
    chance = random.Random(seed)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        before = len(checkpoints.steps(run))
        process = subprocess.Popen(
            command(handoff, run, f"train.max_steps={steps}"),
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        goal = before + chance.randint(1, max(1, (steps - before) // (kills + 1)))
        while len(checkpoints.steps(run)) < min(goal, steps - 1) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        command(handoff, run, f"train.max_steps={steps}"), cwd=REPOSITORY, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_sigkill_and_resume_gives_the_weights_of_a_run_in_peace(handoff: Path, tmp_path: Path) -> None:
    peaceful = config.load(None, [*SMALL, "train.max_steps=14", "train.checkpoint_steps=14"])
    train(str(handoff), tmp_path / "peace", peaceful)
    kill_and_resume(handoff, tmp_path / "war", kills=2, steps=14, seed=1)
    assert same(weights(tmp_path / "peace", 14), weights(tmp_path / "war", 14))
    assert not list((tmp_path / "war").glob(".step-*"))


@pytest.mark.soak
def test_twenty_sigkills_and_resumes_give_the_weights_of_a_run_in_peace(handoff: Path, tmp_path: Path) -> None:
    train(str(handoff), tmp_path / "peace", config.load(None, [*SMALL, "train.max_steps=200"]))
    kill_and_resume(handoff, tmp_path / "war", kills=20, steps=200, seed=2)
    assert same(weights(tmp_path / "peace", 200), weights(tmp_path / "war", 200))


def run_workers(handoff: Path, out: Path, size: int, *settings: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(size),
    }
    workers = [
        subprocess.Popen(
            command(handoff, out, *settings),
            cwd=REPOSITORY,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()


def test_two_workers_equal_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    """Lengths are skewed, so that one worker often waits for the other; only the order of sums differs."""
    handoff = make_handoff(tmp_path / "handoff", train=40, longest=12)
    eight_steps = ["model.speaker_head.attributes=[gender,language]", "train.max_steps=8"]
    eight_steps += ["model.causal=true", "model.dynamic_chunks=true", "model.reverse_layers=1"]
    run_workers(handoff, tmp_path / "two", 2, *eight_steps)
    # Its own process too: other tests may have changed torch's state.
    run_workers(handoff, tmp_path / "one", 1, *eight_steps)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = weights(tmp_path / "one", 1)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-5)
    for part in ("", "speaker_head."):
        moved = max(float((one[name] - start[name]).abs().max()) for name in one if name.startswith(part))
        assert moved > 1e-3, "the weights must have moved for this to be a test"
    assert [r["group"] for r in log(tmp_path / "one")] == [r["group"] for r in log(tmp_path / "two")]
    # A team of two goes on where one stopped
    shutil.copytree(tmp_path / "one", tmp_path / "mixed", ignore=shutil.ignore_patterns("step-0000000[5-8]"))
    assert len(checkpoints.steps(tmp_path / "mixed")) == 4
    run_workers(handoff, tmp_path / "mixed", 2, *eight_steps, "train.checkpoint_steps=4")
    for name, tensor in weights(tmp_path / "mixed").items():
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=2e-5)
    # Each with a part of the model, and blocks computed again: from nothing, and from what one worker wrote
    shared = ["train.shard=true", "train.recompute=true", *eight_steps]
    shutil.copytree(tmp_path / "one", tmp_path / "sharded", ignore=shutil.ignore_patterns("step-0000000[4-8]"))
    run_workers(handoff, tmp_path / "sharded", 2, *shared, "train.eval_steps=7")
    for name, tensor in weights(tmp_path / "sharded").items():
        assert tensor.shape == one[name].shape, "a checkpoint holds whole tensors"
        # What shifts all of a softmax's scores has no gradient but rounding, which AdamW makes steps of.
        idle = name.endswith(("key.bias", "position.weight"))
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=1e-3 if idle else 2e-5)
    # One worker goes on from what the two wrote
    shutil.copytree(tmp_path / "sharded", tmp_path / "again", ignore=shutil.ignore_patterns("step-0000000[6-8]"))
    train(str(handoff), tmp_path / "again", config.load(None, [*SMALL, *eight_steps]))
    for name, tensor in weights(tmp_path / "again").items():
        idle = name.endswith(("key.bias", "position.weight"))
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=1e-3 if idle else 2e-5)
    # What a step did not draw did not move, for two workers with weight decay as for one
    drawn = [int(r["group"]) for r in log(tmp_path / "two")]
    for run in ("one", "two"):
        for step in range(2, 9):
            before, after = weights(tmp_path / run, step - 1), weights(tmp_path / run, step)
            index = (3, 7, 15).index(drawn[step - 1])
            changed = {name for name in before if not torch.equal(before[name], after[name])}
            for name in before:
                for part in ("tiers", "routers"):
                    if f".{part}." in name:
                        number = int(name.split(f".{part}.")[1][0])
                        active = number <= index if part == "tiers" else number == index
                        assert active == (name in changed), (run, step, name)


def test_a_batch_without_usable_clips_stops_nobody(handoff: Path, tmp_path: Path) -> None:
    data = bytearray((handoff / "train.tar").read_bytes())
    # Each clip's audio is spoilt behind its header: the tar is whole, every clip is bad but those of one stretch
    from model_training.data.index import Index

    index = Index.open(str(handoff / "train.arrow"))
    rows = [index.row(number) for number in range(len(index))]
    for row in rows[:-4]:
        data[row.offset : row.offset + 64] = bytes(64)
    (handoff / "train.tar").rename(tmp_path / "train.tar")
    try:
        (handoff / "train.tar").write_bytes(bytes(data))
        settings = config.load(None, [*SMALL, "data.max_clips=1", "train.max_steps=32", "train.checkpoint_steps=100"])
        done = train(str(handoff), tmp_path / "run", settings)
    finally:
        (tmp_path / "train.tar").replace(handoff / "train.tar")
    assert done.finished
    named = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert {record["clip_id"] for record in named} == {row.clip_id for row in rows[:-4]}
    assert all(record["reason"] and record["detail"] for record in named)


def test_labels_that_the_vocabulary_lacks_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_handoff(tmp_path / "handoff")
    index = Index.open(str(folder / "train.arrow"))
    rows = [index.row(number) for number in range(64)]
    rows[3] = replace(rows[3], label=rows[3].label + "龘")
    rows[5] = replace(rows[5], emotion="bored")
    write_index(folder / "train.arrow", rows)
    train(str(folder), tmp_path / "run", config.load(None, [*SMALL, "train.max_steps=8", "train.checkpoint_steps=8"]))
    named = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(bad["clip_id"], bad["reason"]) for bad in named] == [(rows[3].clip_id, "unknown_token")]
    assert "龘" in named[0]["detail"]
    assert "emotion=bored" in capfd.readouterr().err


def test_a_dev_split_without_usable_clips_has_no_loss(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_handoff(tmp_path / "handoff", train=8, dev=3)
    index = Index.open(str(folder / "dev.arrow"))
    rows = [index.row(number) for number in range(len(index))]
    rows = [replace(rows[0], label="龘"), replace(rows[1], label="龘"), replace(rows[2], frames=5000)]
    write_index(folder / "dev.arrow", rows)
    train(str(folder), tmp_path / "run", config.load(None, [*SMALL, "train.max_steps=2"]))
    named = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    reasons = ["unknown_token", "unknown_token", "too_long"]
    assert {bad["clip_id"]: bad["reason"] for bad in named} == {row.clip_id: why for row, why in zip(rows, reasons)}
    assert "no clip of dev can be used" in capfd.readouterr().err
    assert "dev_loss" not in (tmp_path / "run" / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], ["nowhere", "handoff"]),
        (["model.d_modle=3"], ["model.d_modle", "did you mean model.d_model?"]),
        (["modle.d_model=3"], ["modle.d_model", "did you mean model.d_model?"]),
        (["model=3"], ["model is a table of settings"]),
        (["--config", "huge"], ["huge", "tiny"]),
        (["model.moe.experts=[3,2]"], ["model.moe.experts", "increasing"]),
        (["model.heads=5"], ["model.d_model"]),
        (["model.heads=0"], ["model.heads", "at least 1"]),
        (["model.dropout=1.5"], ["model.dropout", "below 1"]),
        (["model.extra_decoders=5"], ["model.extra_decoders", "encoder_layers"]),
        (["model.moe.expert_width=-3"], ["model.moe.expert_width", "at least 0"]),
        (["model.moe.group_weights=[0,0,0]"], ["model.moe.group_weights", "above"]),
        (["model.moe.group_weights=[-1,1,1]"], ["model.moe.group_weights", "at least 0"]),
        (["optimizer.betas=[0.9]"], ["optimizer.betas", "two"]),
        (["optimizer.betas=[0.9,1.5]"], ["optimizer.betas", "below 1"]),
        (["optimizer.clip_norm=0"], ["optimizer.clip_norm", "above 0"]),
        (["optimizer.ema=1.5"], ["optimizer.ema", "below 1"]),
        (["optimizer.learning_rate=inf"], ["optimizer.learning_rate"]),
        (["loss.label_smoothing=2"], ["loss.label_smoothing", "below 1"]),
        (["train.seed=-1"], ["train.seed", "at least 0"]),
        (["train.device=cuda"] if not torch.cuda.is_available() else ["train.device=cuda:99"], ["cuda"]),
        (["data.max_clip_frames=5"], ["data.max_clip_frames"]),
        (["data.augment.noises=[nowhere.wav]"], ["nowhere.wav"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    given = [
        "train",
        "--out",
        str(tmp_path / "run"),
        *SMALL,
        *(() if "--data" in arguments else ("--data", str(handoff))),
    ]
    options = [a for a in arguments if "=" not in a]
    assert main([given[0], *options, *given[1:], *[a for a in arguments if "=" in a]]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words)


def test_damaged_checkpoints_are_passed_over_or_named(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(str(handoff), run, config.load(None, [*SMALL, "train.max_steps=3"]))
    path = run / "step-00000003" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    found = checkpoints.latest(run)
    assert found is not None
    assert found.step == 2
    with pytest.raises(UserError, match=r"step-00000003/model\.safetensors"):
        checkpoints.open_checkpoint(run / "step-00000003")
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoints.open_checkpoint(tmp_path)


def test_a_run_does_not_go_on_with_other_settings_or_another_tokenizer(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(str(handoff), run, config.load(None, [*SMALL, "train.max_steps=1"]))
    with pytest.raises(UserError, match=r"another loss\.ctc_weight"):
        train(str(handoff), run, config.load(None, [*SMALL, "train.max_steps=2", "loss.ctc_weight=0.5"]))
    other = Path(shutil.copytree(handoff, tmp_path / "handoff"))
    from model_training.text.tokenizer import Tokenizer
    from model_training.text.tokens import Scheme

    Tokenizer.train("ABCDEFGHI", Scheme(events=("dog",)), bpe_size=10).save(other / "tokenizer")
    with pytest.raises(UserError, match="another tokenizer"):
        train(str(other), run, config.load(None, [*SMALL, "train.max_steps=2"]))


def test_the_average_of_checkpoints_is_their_mean(handoff: Path, tmp_path: Path) -> None:
    train(str(handoff), tmp_path / "run", config.load(None, [*SMALL, "train.max_steps=3"]))
    found = [checkpoints.open_checkpoint(path) for path in checkpoints.steps(tmp_path / "run")]
    mean = checkpoints.average(found)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, torch.stack([c.weights()[name] for c in found]).mean(0))
