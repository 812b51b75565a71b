"""Which checkpoints a run keeps and calls the best, when it ends early, and that neither SIGTERM nor the disk costs a
step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from model_training import config
from model_training import train as loop
from model_training.data.handoff import Handoff
from model_training.evaluation.evaluate import evaluate
from model_training.evaluation.sets import labelled_sets, load_model
from model_training.train import train
from model_training.training import checkpoint as checkpoints
from model_training.training import saving
from model_training.training.choosing import average_of, best_of
from operators.errors import UserError
from tests.model_training.test_train import REPOSITORY, command, log, same, weights
from tests.model_training.training.test_warm_start import TINY, no_pictures
from tests.support.corpus import make_handoff

__all__ = ["no_pictures"]  # a fixture of every test here
ERRORS = {1: 90.0, 2: 40.0, 3: 60.0, 4: 55.0, 5: 70.0, 6: 80.0}
CHOOSING = ["train.eval_steps=1", "train.keep_checkpoints=1", "train.keep_best=2"]


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"), train=16, dev=4)


def go(handoff: Path, run: Path, *settings: str) -> loop.Trained:
    return train(str(handoff), run, config.load(None, [*TINY, *settings]))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Errors on dev as ERRORS has them, alike at every size; returns the steps that were evaluated."""
    seen: list[int] = []
    evaluated = loop.evaluate

    def means(learner: Any, batches: Iterable[Any], variant: int) -> dict[str, float]:
        return {"loss": 1.0, "accuracy": 0.0, "clips": 4.0, "error_rate": ERRORS[seen[-1]], "reference_tokens": 10.0}

    def noted(run: Any, monitor: Any, step: int, termination: Any) -> Any:
        seen.append(step)
        return evaluated(run, monitor, step, termination)

    monkeypatch.setattr(loop, "dev_means", means)
    monkeypatch.setattr(loop, "evaluate", noted)
    return seen


def test_the_best_checkpoint_is_the_one_with_the_lowest_error_on_dev(
    handoff: Path, tmp_path: Path, scripted: list[int]
) -> None:
    run = tmp_path / "run"
    go(handoff, run, *CHOOSING, "train.max_steps=6")
    assert scripted == [1, 2, 3, 4, 5, 6]
    assert [path.name[-1] for path in checkpoints.steps(run)] == ["2", "4", "6"], "the best two, and the newest"
    assert best_of(run).step == 2
    mean = average_of(run)
    assert [one.step for one in mean.checkpoints] == [2, 4]
    for name, tensor in mean.weights.items():
        torch.testing.assert_close(tensor, (weights(run, 2)[name] + weights(run, 4)[name]) / 2)
    for choice, wanted in (("best", weights(run, 2)), ("average", mean.weights)):
        assert same(dict(load_model(f"{run}@{choice}").model.state_dict()), wanted)
    path = run / "step-00000002" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert best_of(run).step == 4, "a damaged one is passed over"


def test_patience_ends_a_run_for_good_wherever_it_was_interrupted(
    handoff: Path, tmp_path: Path, scripted: list[int]
) -> None:
    patience = [*CHOOSING, "train.patience=3", "train.max_steps=6"]
    ended = go(handoff, tmp_path / "whole", *patience)
    assert (ended.step, ended.finished, ended.because) == (5, True, "patience")
    assert go(handoff, tmp_path / "whole", *patience) == ended, "the same command adds no step"
    go(handoff, tmp_path / "parts", *patience[:-1], "train.max_steps=3")
    assert go(handoff, tmp_path / "parts", *patience).step == 5
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_run_without_dev_has_no_best(tmp_path: Path) -> None:
    folder = make_handoff(tmp_path / "handoff", train=8, dev=0)
    go(folder, tmp_path / "run", "train.max_steps=1")
    with pytest.raises(UserError, match="has an error rate on dev"):
        load_model(f"{tmp_path / 'run'}@best")


def test_the_error_rate_on_dev_is_that_of_an_evaluation_with_greedy_ctc(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Without its warm-up an untrained model is far from silent
    go(handoff, run, "train.max_steps=2", "optimizer.warmup_steps=0", "optimizer.learning_rate=0.02")
    loaded = load_model(str(run))
    sets = labelled_sets(Handoff.open(str(handoff)), "dev", loaded)
    found = evaluate(loaded.model, loaded.tokenizer, sets, methods=["ctc_greedy"], known_labels=loaded.known_labels)
    logged = {int(one["group"]): one["dev_error_rate"] for one in log(run) if "dev_error_rate" in one}
    assert sorted(logged) == [3, 7, 15]
    for n_experts, error in logged.items():
        assert error == pytest.approx(found.pooled(n_experts, "ctc_greedy").tokens.percent)
    kept = json.loads((checkpoints.steps(run)[-1] / "trainer.json").read_text())["dev"]
    assert kept["error"] == pytest.approx(sum(logged.values()) / 3)


def test_the_loss_is_the_objective_and_each_part_of_it_is_logged(handoff: Path, tmp_path: Path) -> None:
    moe = ["ffn=second", "shared=0", "experts=[4]", "top_k=1", "balance=sparsity", "embedding_layers=1"]
    go(handoff, tmp_path / "run", "train.max_steps=2", "model.extra_decoders=1", *(f"model.moe.{one}" for one in moe))
    steps = [one for one in log(tmp_path / "run") if "loss" in one]
    (dev,) = [one for one in log(tmp_path / "run") if "dev_loss" in one]
    assert len(steps) == 2
    for one, start, balance in [*((step, "", step["balance"]) for step in steps), (dev, "dev_", 0.0)]:
        decoders = one[f"{start}attention"] + one[f"{start}extra_attention"]
        objective = 0.3 * one[f"{start}ctc"] + 0.7 * decoders + 0.01 * one[f"{start}embedding_ctc"] + balance
        assert one[f"{start}loss"] == pytest.approx(objective, rel=1e-4)


def test_sigterm_saves_the_step_that_it_came_in_also_when_it_reaches_the_loaders(handoff: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command(handoff, run, *TINY), "train.max_steps=100000", "data.loaders=1", "train.eval_steps=100000"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not (run / "log.jsonl").exists() or len(log(run)) < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    last = log(run)[-1]["step"]
    assert [path.name for path in checkpoints.steps(run)] == [f"step-{last:08d}"]
    assert f"stopped by SIGTERM; the same command goes on at step {last}" in out
    ended = go(handoff, run, f"train.max_steps={last + 1}", "train.eval_steps=100000")
    assert (ended.step, ended.finished) == (last + 1, True)


def test_training_goes_on_while_a_checkpoint_is_written(
    handoff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(handoff, tmp_path / "plain", "train.max_steps=3", "train.checkpoint_steps=1")
    begun, may_write, write = threading.Event(), threading.Event(), checkpoints.save
    seen: list[int] = []

    def slow(folder: Path, step: int, *rest: Any, **more: Any) -> Path:
        begun.set()
        assert may_write.wait(60)
        return write(folder, step, *rest, **more)

    def noted(self: Any, step: int, *rest: Any) -> None:
        seen.append(step)
        if step == 2:  # the next step was taken although the first checkpoint is not written
            assert begun.wait(60)
            assert not checkpoints.steps(tmp_path / "run")
            may_write.set()
        logged(self, step, *rest)

    logged = loop.Monitor.step
    monkeypatch.setattr(saving.checkpoints, "save", slow)
    monkeypatch.setattr(loop.Monitor, "step", noted)
    go(handoff, tmp_path / "run", "train.max_steps=3", "train.checkpoint_steps=1")
    assert seen == [1, 2, 3]
    for step in (1, 2, 3):
        assert same(weights(tmp_path / "plain", step), weights(tmp_path / "run", step))


def test_a_full_disk_ends_the_run(handoff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.checkpoints, "save", full)
    with pytest.raises(OSError, match="No space left"):
        go(handoff, tmp_path / "run", "train.max_steps=2", "train.checkpoint_steps=1")
