"""What one training consists of, how it begins or goes on, and what it leaves in a checkpoint.

    settings, hand-off, weights ──begin──> Run ──resume──> Resumed: step, choice

A run goes on only where model, data and schedule are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple

import torch
from torch import nn

from model_training import config
from model_training.config import LargeTrainSettings, Settings
from model_training.data.handoff import Handoff
from model_training.data.reading import Batch
from model_training.data.source import ClipSource, Source
from model_training.model.conformer import Encoder
from model_training.model.device import autocast_dtype
from model_training.model.dispatch import grouped_product_works
from model_training.model.speech_model import SpeechModel
from model_training.training import checkpoint as checkpoints
from model_training.training.beginning import Beginning
from model_training.training.checkpoint import Checkpoint
from model_training.training.choosing import Choice
from model_training.training.elastic import ElasticLearner
from model_training.training.greedy_errors import GreedyErrors
from model_training.training.optimizer import Averaged, make_optimizer
from model_training.training.parts import freeze, scales
from model_training.training.sharding import is_sharded, shard
from model_training.training.step import B, Learner, LoopSettings
from model_training.training.workers import Workers
from operators.errors import UserError

FREE = {"data.loaders", "data.features"} | {f"train.{item.name}" for item in fields(LargeTrainSettings)} - {
    "train.seed"
}
"""Settings that may change when a run goes on."""


@dataclass(frozen=True, kw_only=True)
class Run(Generic[B]):
    """A Run holds the parts of one training. Which they are never changes; what they hold (weights, moments) does."""

    folder: Path
    workers: Workers
    source: ClipSource[B]
    learner: Learner[B]
    optimizer: torch.optim.Optimizer
    averaged: Averaged | None
    record: dict[str, Any]
    """what every checkpoint says beside its weights: settings, vocabulary, tokenizer, data, and what else the model is
    known by"""
    texts: dict[str, str]
    """small files that every checkpoint holds, by name"""
    notes: tuple[str, ...] = ()
    """lines to say before the first step"""

    @property
    def model(self) -> nn.Module:
        """Return the model that learns."""
        return self.learner.model

    @property
    def settings(self) -> LoopSettings:
        """Return the model's settings."""
        return self.learner.settings

    @property
    def sharded(self) -> bool:
        """Say whether each worker holds a part of the model: then all take part in evaluating and in saving it."""
        return any(is_sharded(parameter) for parameter in self.model.parameters())


def begin(data: str, out: str | Path, settings: Settings, device: torch.device, workers: Workers) -> Run[Batch]:
    """Build a run at step 0: data, model and optimiser, each a function of the settings.

    Raises:
        UserError: unusable data, a folder that cannot be made, or settings that this machine cannot follow.
    """
    check_shares(settings, workers)
    autocast = autocast_dtype(settings.train.precision, device)
    if settings.model.moe.ffn != "none" and settings.model.moe.dispatch == "grouped":
        dtype, d_model, width = autocast or torch.float32, settings.model.d_model, settings.model.expert_width()
        if not grouped_product_works(torch.empty(0, d_model, dtype=dtype, device=device), width):
            raise UserError(
                f"model.moe.dispatch=grouped: this torch ({torch.__version__}) has no grouped product of {dtype} on "
                f"{device}, {d_model} by {width}; say auto"
            )
    handoff = Handoff.open(data)
    tokenizer = handoff.tokenizer()
    source = Source(handoff, tokenizer, settings, device)
    folder = make_folder(out)
    beginning = Beginning.of(settings, folder)
    source.go_on_from(beginning.normalisation(), beginning.known_labels)
    speaker = source.speaker_labels()
    torch.manual_seed(settings.train.seed)
    model = SpeechModel(settings.model, len(tokenizer))
    notes = beginning.give(model, tokenizer, settings, folder if workers.is_main else None)
    if settings.model.moe.sampling == "micro_batch" and settings.data.micro_batches == 1:
        notes.append("model.moe.sampling=micro_batch: a step has one micro-batch, so it is the same as step")
    model.to(device)
    freeze(model, settings.train.freeze)
    for part in model.modules():
        if isinstance(part, Encoder):
            part.recompute = settings.train.recompute
    if settings.train.shard and workers.size > 1:
        shard(model, device, workers)
    optimizer = make_optimizer(model, settings.optimizer, scales(model, settings.train.lr_by_part))
    errors = GreedyErrors(tokenizer, source.known_labels)
    learner = ElasticLearner(model, settings, source.open_events, autocast, errors, source.text_ends(), speaker)
    record = {
        "settings": config.to_dict(settings),
        "vocabulary": len(tokenizer),
        "tokenizer": tokenizer.fingerprint,
        "data": source.fingerprint,
        "hours": round(source.hours, 4),
        "clips": len(source.index),
        "handoff": handoff.uri,
        "learnt": source.known_labels,
    }
    return Run(
        folder=folder,
        workers=workers,
        source=source,
        learner=learner,
        optimizer=optimizer,
        averaged=averaging(learner),
        record=record,
        texts={"tokenizer.json": tokenizer.to_bytes().decode(), "cmvn.json": beginning.cmvn or handoff.cmvn_text},
        notes=tuple(notes),
    )


def check_shares(settings: LoopSettings, workers: Workers) -> None:
    """Raise UserError where a step's micro-batches cannot be shared evenly by the workers."""
    if settings.data.micro_batches % workers.size:
        raise UserError(f"data.micro_batches={settings.data.micro_batches}: must divide among {workers.size} workers")


def make_folder(out: str | Path) -> Path:
    """Return the folder of a run, made where it was not there. Raises UserError when it cannot be."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder} ({error.strerror}): give --out a folder that can be written to"
        ) from None
    return folder


def averaging(learner: Learner[Any]) -> Averaged | None:
    """Return the averaged weights that the settings ask for, or None."""
    decay = learner.settings.optimizer.ema
    return Averaged(learner.weights(), decay) if decay else None


class Resumed(NamedTuple):
    """A Resumed says where a run stands."""

    step: int
    choice: Choice


def resume(run: Run[Any]) -> Resumed:
    """Load the newest whole checkpoint of the run's folder, and return where it stands; step 0 where there is none.

    Raises:
        UserError: it is of a run with other settings, data or tokenizer, or the workers see different folders.
    """
    found = checkpoints.latest(run.folder)
    if found is not None:
        check_same_run(found, run)
        run.learner.load(found.weights(), found.path)
        checkpoints.restore_moments(run.model, run.optimizer, found.optimizer())
        if run.averaged is not None and found.has_ema():
            run.averaged.load(found.weights(ema=True))
    step = found.step if found is not None else 0
    if not run.workers.same(step, run.learner.device):
        raise UserError(
            f"the workers found different checkpoints in {run.folder}: give --out a folder that all of them share"
        )
    return Resumed(step, Choice.from_dict(found.record.get("choice") if found is not None else None))


def check_same_run(found: Checkpoint, run: Run[Any]) -> None:
    """Refuse a checkpoint of another run: going on is only going on when model, data and schedule are the same."""
    if found.record["tokenizer"] != run.record["tokenizer"]:
        raise UserError(f"{found.path} was trained with another tokenizer: use its handoff, or another output folder")
    # Restored first: a setting that is younger than the checkpoint had its default then.
    before = config.flat(config.restore_as(type(run.settings), found.record["settings"]))
    now = config.flat(run.settings)
    for key, value in now.items():
        if key not in FREE and before[key] != value:
            raise UserError(
                f"{found.path.parent} was begun with another {key}: give the same settings, or another output folder"
            )
    if found.record["data"] != run.record["data"]:
        raise UserError(f"{found.path.parent} was begun on other data: give the same handoff, or another output folder")
