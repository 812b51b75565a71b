"""What a run writes down of itself, and that it is closed whatever happens."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from model_training import config
from model_training.train import train
from model_training.training.monitor import Monitor
from tests.model_training.test_train import SMALL, log
from tests.support.corpus import make_handoff


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"), train=16)


def test_tensorboard_has_the_numbers(handoff: Path, tmp_path: Path) -> None:
    settings = config.load(None, [*SMALL, "train.max_steps=2", "train.tensorboard=true"])
    train(str(handoff), tmp_path / "run", settings)
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"gradient_norm/N15" in events.read_bytes()


def test_what_is_logged_is_what_is_optimised(handoff: Path, tmp_path: Path) -> None:
    """Of a model with every part: decoders both ways, an embedding network, routers with a loss of their own."""
    parts = [
        "model.extra_decoders=1",
        "model.reverse_layers=1",
        "model.moe.embedding_layers=1",
        "model.moe.balance=sparsity",
    ]
    settings = config.load(None, [*SMALL, *parts, "train.max_steps=1", "train.eval_steps=1"])
    train(str(handoff), tmp_path / "run", settings)
    step, *dev = log(tmp_path / "run")
    for prefix, record in (("", step), *(("dev_", one) for one in dev)):
        part = {name.removeprefix(prefix): value for name, value in record.items() if name.startswith(prefix)}
        assert part["loss"] == pytest.approx(
            0.3 * part["ctc"]
            + 0.7 * 0.7 * (part["attention"] + part["extra_attention"])
            + 0.7 * 0.3 * (part["reverse_attention"] + part["extra_reverse_attention"])
            + 0.01 * part["embedding_ctc"]
            + part.get("balance", 0.0)
        )
        assert ("balance" in part) == (prefix == ""), "routers are pushed in training only"
    assert len(dev) == 3
    plain = config.load(None, [*SMALL, "train.max_steps=1"])
    train(str(handoff), tmp_path / "plain", plain)
    assert not {"reverse_attention", "extra_attention", "embedding_ctc", "balance"} & log(tmp_path / "plain")[0].keys()


def test_loaders_and_the_log_are_closed_when_a_step_fails(
    handoff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr("model_training.train.update", lambda *_: 1 / 0)
    monkeypatch.setattr(Monitor, "__exit__", lambda *_: closed.append("monitor"))
    settings = config.load(None, [*SMALL, "data.loaders=1", "train.max_steps=2"])
    with pytest.raises(ZeroDivisionError):
        train(str(handoff), tmp_path / "run", settings)
    assert closed == ["monitor"]
    assert not multiprocessing.active_children()


def test_the_time_left_is_that_of_the_command_when_minutes_end_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command of two minutes and a million steps is not said to take days."""
    settings = config.load(None, ["train.max_steps=1000000", "train.max_minutes=2"]).train
    with Monitor(tmp_path, settings, 0) as monitor:
        time.sleep(0.05)
        monitor.step(1, (3,), 100, {"loss": 1.0, "accuracy": 0.5, "learning_rate": 0.1}, {3: {}})
    assert "ETA 0:01:5" in capsys.readouterr().err
