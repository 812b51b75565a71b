"""A run that begins from another's weights: what it takes, what it keeps, what stands still, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model_training import config
from model_training.__main__ import main
from model_training.data.index import Index
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.train import train
from model_training.training import checkpoint as checkpoints
from model_training.training.monitor import Monitor
from operators.errors import UserError
from operators.index import write_index
from tests.model_training.test_train import SMALL, same, weights
from tests.support.corpus import make_handoff

TINY = [*SMALL, "data.augment.noise_probability=0", "data.augment.reverb_probability=0", "data.max_clips=2"]
TINY += ["train.checkpoint_steps=100", "data.micro_batches=1"]


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"), train=16, dev=0)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the steps."""
    monkeypatch.setattr(Monitor, "pictures", lambda self: lambda: None)


@pytest.fixture(scope="module")
def base(handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("base") / "run"
    go(handoff, run, "train.max_steps=2")
    return run


@pytest.fixture(scope="module")
def other(handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another hand-off: a dialect and a sound more, another normalisation, and no label of gender."""
    folder = Path(shutil.copytree(handoff, tmp_path_factory.mktemp("other") / "handoff"))
    scheme = Scheme(events=("dog", "kettle"), languages=("zh", "en", "yue", "sichuan", "minnan", "wuu"))
    Tokenizer.train("ABCDEFGH", scheme, bpe_size=9).save(folder / "tokenizer")
    cmvn = json.loads((folder / "cmvn.json").read_text())
    (folder / "cmvn.json").write_text(json.dumps(cmvn | {"mean": [value + 1 for value in cmvn["mean"]]}))
    index = Index.open(str(folder / "train.arrow"))
    write_index(folder / "train.arrow", [replace(index.row(number), gender=None) for number in range(len(index))])
    return folder


def go(handoff: Path, run: Path, *settings: str) -> None:
    train(str(handoff), run, config.load(None, [*TINY, *settings]))


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoints.steps(run)[-1] / "trainer.json").read_text())
    return found


def test_weights_go_on_on_other_data_with_a_larger_vocabulary(base: Path, other: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = [f"train.init_from={base}", "optimizer.learning_rate=0", "optimizer.weight_decay=0"]
    go(other, run, *start, "train.max_steps=1")
    before, after = weights(base), weights(run)
    assert all(torch.equal(after[name], one) for name, one in before.items() if one.shape == after[name].shape)
    grown = {name for name, one in before.items() if one.shape != after[name].shape}
    assert grown == {"ctc.weight", "ctc.bias", "decoder.embedding.weight", "decoder.out.weight", "decoder.out.bias"}
    report = json.loads((run / "init_from.json").read_text())
    assert report["grown"] == ["2 tokens: <lang:wuu> <event:kettle>"]
    assert (report["fresh"], report["left"]) == ([], [])
    checkpoint = checkpoints.steps(run)[-1]
    assert json.loads((checkpoint / "cmvn.json").read_text()) == json.loads(
        (checkpoints.steps(base)[-1] / "cmvn.json").read_text()
    ), "the weights expect the normalisation that they were trained with"
    assert record(run)["learnt"]["gender"] == ["female", "male"], "what they know is not forgotten for want of labels"


def test_a_warm_run_goes_on_exactly_also_when_its_origin_is_gone(base: Path, other: Path, tmp_path: Path) -> None:
    origin = shutil.copytree(base, tmp_path / "origin")
    start = [f"train.init_from={origin}", "train.lr_by_part={encoder: 0.5}"]
    go(other, tmp_path / "whole", *start, "train.max_steps=3")
    go(other, tmp_path / "parts", *start, "train.max_steps=2")
    shutil.rmtree(origin)
    go(other, tmp_path / "parts", *start, "train.max_steps=3")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert record(tmp_path / "whole")["learnt"] == record(tmp_path / "parts")["learnt"]
    with pytest.raises(UserError, match=r"begun with another train\.init_from"):
        go(other, tmp_path / "parts", "train.max_steps=4")
    with pytest.raises(UserError, match=r"begun with another train\.freeze"):
        go(other, tmp_path / "parts", *start, "train.freeze=[ctc]", "train.max_steps=4")


def test_an_embedding_network_that_was_trained_before_stays_what_it_was_and_so_does_what_it_hears(
    handoff: Path, other: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "dense"
    go(handoff, dense, "model.moe.ffn=none", "loss.ctc_weight=1", "train.max_steps=1")
    layers = config.load(None, TINY).model.encoder_layers
    run, network = tmp_path / "run", f"model.moe.embedding_layers={layers}"
    start = [f"train.init_embedding_from={dense}", network, "train.max_steps=1"]
    go(other, run, *start, "optimizer.learning_rate=0", "optimizer.weight_decay=0")
    before, after = weights(dense), weights(run)
    assert all(
        torch.equal(after[name.replace("encoder.", "embedding_network.", 1)], one)
        for name, one in before.items()
        if name.startswith("encoder.")
    )
    assert (run / "init_embedding_from.json").is_file()
    for folder in (dense, run):
        assert (checkpoints.steps(folder)[-1] / "cmvn.json").read_text() == (handoff / "cmvn.json").read_text()
    go(other, run, *start[:2], "optimizer.learning_rate=0", "optimizer.weight_decay=0", "train.max_steps=2")
    foreign = tmp_path / "foreign"
    go(other, foreign, "train.max_steps=1")
    with pytest.raises(UserError, match=r"train\.init_embedding_from: .*normalised otherwise"):
        go(other, tmp_path / "both", f"train.init_from={foreign}", *start)
    with pytest.raises(UserError, match=r"train\.init_embedding_from=.*set model\.moe\.embedding_layers"):
        go(other, tmp_path / "more", start[0], f"model.moe.embedding_layers={layers + 1}")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_frozen_part_stays_as_it_is_to_the_bit(base: Path, handoff: Path, tmp_path: Path, name: str) -> None:
    parts = ["encoder.subsampling", "encoder.blocks.0", "decoder.embedding"]
    settings = [f"train.init_from={base}", f"train.freeze=[{','.join(parts)}]", f"optimizer.name={name}"]
    # Without a warm-up, and with decay and levelled experts: all that could move a weight
    settings += [
        "optimizer.warmup_steps=0",
        "model.moe.balance=bias",
        "optimizer.ema=0.5",
        "optimizer.weight_decay=0.5",
    ]
    run = tmp_path / "run"
    go(handoff, run, *settings, "train.max_steps=3", "model.moe.group_weights=[0,0,1]")
    before, after = weights(base), weights(run)
    moments = load_file(checkpoints.steps(run)[-1] / "optimizer.safetensors")
    ema = load_file(checkpoints.steps(run)[-1] / "ema.safetensors")
    moved = {key for key, one in before.items() if not torch.equal(one, after[key])}
    frozen = {key for key in after if key.startswith(tuple(f"{part}." for part in parts))}
    assert len(frozen) > 30
    for key in frozen:
        if "selection_bias" in key:
            assert not after[key].any(), key
        else:
            assert torch.equal(after[key], before[key]), key
            assert torch.equal(ema[key], before[key]), key
        assert not any(moment.startswith(f"{key}/") for moment in moments), key
    assert {"ctc.weight", "encoder.blocks.1.attention.query.weight", "decoder.out.weight"} <= moved
    assert after["encoder.blocks.1.first_ffn.selection_bias_2"].any(), "else nothing was levelled"


def test_parts_learn_at_their_own_rate(base: Path, handoff: Path, tmp_path: Path) -> None:
    """AdamW's first step is the learning rate, whatever the gradient."""
    parts = "{encoder: 0.5, encoder.blocks.1: 0.1, ctc: 2.0}"
    still = ["optimizer.warmup_steps=0", "optimizer.schedule=constant", "optimizer.weight_decay=0"]
    run = tmp_path / "run"
    go(handoff, run, f"train.init_from={base}", f"train.lr_by_part={parts}", *still, "train.max_steps=1")
    before, after = weights(base), weights(run)
    for name, scale in (
        ("encoder.blocks.0.attention.query.weight", 0.5),
        ("encoder.blocks.1.attention.query.weight", 0.1),
        ("ctc.weight", 2.0),
        ("decoder.out.weight", 1.0),
    ):
        step = (after[name] - before[name]).abs().max()
        assert float(step) == pytest.approx(0.003 * scale, rel=0.02), name


def cut(run: Path) -> str:
    path = checkpoints.steps(run)[-1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    return str(run)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.init_from={base}", "model.encoder_layers=3"], "set model.encoder_layers=2"),
        (["train.init_from={base}", "model.moe.experts=[3,7]"], "set model.moe.expert_width=16"),
        (["train.init_from={base}@best"], "has an error rate on dev"),
        (["train.init_from={cut}"], "no whole checkpoint in"),
        (["train.init_from={base}/nothing"], "no such file or folder"),
        (["train.freeze=[encoder.sub_sampling]"], "did you mean encoder.subsampling?"),
        (["train.freeze=[encoder,decoder,ctc]"], "nothing is left to learn"),
        (["train.lr_by_part={encodr: 0.1}"], "did you mean encoder?"),
        (["train.lr_by_part={encoder: 0}"], "above 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    base: Path, handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: str
) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    places = {"base": str(copy)} | ({"cut": cut(copy)} if "{cut}" in settings[0] else {})
    given = [one.format(**places) if "{base}" in one or "{cut}" in one else one for one in settings]
    assert main(["train", "--data", str(handoff), "--out", str(tmp_path / "run"), *TINY, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not checkpoints.steps(tmp_path / "run")
