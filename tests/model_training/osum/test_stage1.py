"""Stage 1: Whisper learns more tags, one task a pass, and stage 2 begins with its encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_training.data.handoff import Handoff
from model_training.osum import stage1
from model_training.osum.build import build
from model_training.osum.data import OsumSource
from model_training.osum.settings import load
from model_training.osum.tasks import parse_task
from model_training.osum.train import train
from operators.errors import UserError
from tests.model_training.osum.questions import make_parts, make_questions
from tests.model_training.osum.test_training import WHISPER

SETTINGS = [
    WHISPER,
    "stage=1",
    "data.tasks={asr: 1, gender: 1, style: 1}",
    "data.max_clips=12",
    "data.max_frames=6000",
    "data.micro_batches=1",
    "data.loaders=0",
    "model.checkpointing=false",
    "optimizer.learning_rate=0.001",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=5",
    "train.precision=fp32",
    "train.threads=1",
    "train.max_steps=140",
    "train.eval_steps=1000",
    "train.tensorboard=false",
]


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def run(handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1") / "run"
    train(str(handoff), folder, load(None, SETTINGS))
    return folder


def test_each_task_has_a_tag_that_was_nobodys(run: Path) -> None:
    model, _ = stage1.open_tagged(run)
    tags = model.writer.tags
    vocabulary = set(model.writer._tokenizer.get_vocab(with_added_tokens=True).values())
    assert len(set(tags.values())) == 8
    assert not {tag for task, tag in tags.items() if task != "asr"} & vocabulary
    assert model.whisper.get_input_embeddings().weight.shape[0] == model.writer.size


def test_each_tag_asks_for_its_own_and_a_clip_in_a_batch_costs_as_alone(run: Path, handoff: Path) -> None:
    model, _ = stage1.open_tagged(run)
    source = OsumSource(Handoff.open(str(handoff)), load(None, SETTINGS), model.writer, model.bins)
    batch = next(source.batches(0, lambda *_: None))
    question, answer = model.writer.question(parse_task("gender"), "en", 0), model.writer.answer("female")
    with torch.inference_mode():
        together = model.losses(
            batch.features_BFM, batch.mel_lengths_B, [question] * len(batch), [answer] * len(batch)
        )[0]
        for place in range(len(batch)):
            length = int(batch.mel_lengths_B[place])
            alone = batch.features_BFM[place : place + 1, :length], batch.mel_lengths_B[place : place + 1]
            torch.testing.assert_close(
                model.losses(*alone, [question], [answer])[0][0], together[place], atol=1e-4, rtol=0
            )
    # 140 steps teach no clip by heart; they do teach which tag asks for which kind of answer.
    cost: dict[tuple[str, str], float] = {}
    for task in ("gender", "style"):
        question = model.writer.question(parse_task(task), "en", 0)
        for kind in ("gender", "style"):
            true = [model.writer.answer(getattr(row, kind)) for row in batch.rows]
            with torch.inference_mode():
                found = model.losses(batch.features_BFM, batch.mel_lengths_B, [question] * len(batch), true)[0]
            cost[task, kind] = float(found.mean())
    assert cost["gender", "gender"] < cost["gender", "style"], cost
    assert cost["style", "style"] < cost["style", "gender"], cost


def test_its_encoder_begins_stage_two(run: Path, tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    model, _ = stage1.open_tagged(run)
    begun = build(load(None, [*parts, f"model.encoder.source={run}"]), None)
    fresh = build(load(None, [*parts, WHISPER]), None)
    weight = begun.model.encoder.conv1.weight  # type: ignore[union-attr]
    assert torch.equal(weight, model.whisper.model.encoder.conv1.weight)
    assert not torch.equal(weight, fresh.model.encoder.conv1.weight)  # type: ignore[union-attr]
    assert begun.digests["encoder"] != fresh.digests["encoder"]


def test_two_tasks_at_once_are_for_stage_two(handoff: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage 1 has one task a pass: take gender instead of asr"):
        train(str(handoff), tmp_path / "run", load(None, [*SETTINGS, "data.tasks={asr+gender: 1}"]))
