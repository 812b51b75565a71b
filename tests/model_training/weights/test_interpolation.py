"""Half of the way from what a run began from to what training made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from model_training.evaluation.sets import load_model
from operators.errors import UserError
from tests.model_training.test_train import same, weights
from tests.model_training.training.test_warm_start import base, go, handoff, no_pictures, other

__all__ = ["base", "handoff", "no_pictures", "other"]


def test_half_of_the_way_is_the_mean_of_beginning_and_end(base: Path, other: Path, tmp_path: Path) -> None:
    # A group more, whose experts are noisy copies, and two tokens more: the beginning must be drawn again to the bit.
    start = [
        f"train.init_from={base}",
        "model.moe.experts=[3,7,15,31]",
        "model.moe.expert_width=16",
        "train.init_noise=0.1",
    ]
    go(other, tmp_path / "begun", *start, "optimizer.learning_rate=0", "train.max_steps=1")
    go(other, tmp_path / "run", *start, "optimizer.warmup_steps=0", "train.max_steps=2")
    begun, trained = weights(tmp_path / "begun"), weights(tmp_path / "run")
    moved = {name for name, one in trained.items() if not torch.equal(one, begun[name])}
    assert {"ctc.weight", "decoder.embedding.weight", "encoder.blocks.1.attention.query.weight"} <= moved
    found = {
        share: dict(load_model(str(tmp_path / "run"), interpolate=share).model.state_dict()) for share in (0, 0.5, 1)
    }
    assert same(found[0], begun)
    assert same(found[1], trained)
    for name in moved:
        torch.testing.assert_close(found[0.5][name], (begun[name] + trained[name]) / 2, atol=1e-7, rtol=1e-5)


def test_without_a_beginning_there_is_no_way(base: Path, handoff: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="began from nothing"):
        load_model(str(base), interpolate=0.5)
    origin = shutil.copytree(base, tmp_path / "origin")
    run = tmp_path / "run"
    go(other, run, f"train.init_from={origin}", "train.max_steps=1")
    with pytest.raises(UserError, match="must be between 0 and 1"):
        load_model(str(run), interpolate=1.5)
    go(handoff, origin, "train.max_steps=3")
    with pytest.raises(UserError, match=r"began from .*00000002, and train.init_from=.*00000003 by now"):
        load_model(str(run), interpolate=0.5)
    shutil.rmtree(origin)
    with pytest.raises(UserError, match="no such file or folder"):
        load_model(str(run), interpolate=0.5)
