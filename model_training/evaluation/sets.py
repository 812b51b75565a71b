"""A trained model with what belongs to it, and the test sets it is measured on.

CKPT ──load_model──> LoadedModel (weights, tokenizer, CMVN, settings)
handoff, split ──labelled_sets──┐
sets as published ──────────────┴──> {name: batches}, clips as they are: no augmentation, every clip once
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model_training import config
from model_training.config import Settings
from model_training.data.audio import BadSample
from model_training.data.batching import BatchPlan, Planner
from model_training.data.features import Cmvn
from model_training.data.handoff import Handoff
from model_training.data.index import Index
from model_training.data.published import IndexedSet
from model_training.data.reading import Batch, Batches, Reader
from model_training.model.device import evaluation_dtype
from model_training.model.speech_model import SpeechModel
from model_training.text.perception import Targets, build_targets
from model_training.text.tokenizer import Tokenizer
from model_training.training import checkpoint as checkpoints
from model_training.training.choosing import average_of, open_chosen, split_choice
from model_training.weights import interpolation
from operators.errors import UserError
from operators.index import Row
from operators.storage.base import S3Settings


@dataclass(frozen=True)
class LoadedModel:
    model: SpeechModel  # in eval mode
    tokenizer: Tokenizer
    cmvn: Cmvn
    settings: Settings
    path: Path
    step: int
    known_labels: dict[str, list[str]] | None = None
    """Of each kind (language, ..., event) the labels that its training data had; None: not known, an older
    checkpoint.
    """
    autocast: torch.dtype | None = None
    """what it is judged in; None: float32"""

    @property
    def tasks(self) -> list[str]:
        """Return the tasks that it was trained for."""
        return sorted(task for task, weight in self.settings.data.tasks.items() if weight)


def load_model(
    path: str,
    *,
    average: int = 1,
    ema: bool = False,
    interpolate: float = 1.0,
    device: str = "cpu",
    precision: str = "fp32",
) -> LoadedModel:
    """Return a checkpoint's model, or the mean of the newest `average` of a run, or the run's averaged weights.

    RUN@best is the checkpoint with the lowest error on dev, RUN@average the mean of the best.

    Args:
        interpolate: of the way from what the run began from to those weights, this share (WiSE-FT).
        precision: what it is judged in: auto (bfloat16 on a card that has it), bf16 or fp32.

    Raises:
        UserError: no such checkpoint, or a damaged one; both `average` and `ema`; `interpolate` without a beginning.
    """
    if average > 1 and ema:
        raise UserError(f"--average {average} and --ema are two ways to average: give one of them")
    run, choice = split_choice(path)
    if choice is not None and (average > 1 or ema):
        raise UserError(f"{path} chooses among checkpoints: give --average or --ema with the run itself")
    found = open_chosen(path)
    settings = config.restore(found.record["settings"])
    if settings.model.moe.dispatch == "grouped":  # the training machine could; `auto` does so where this one can, too
        settings.model.moe.dispatch = "auto"
    tokenizer = Tokenizer.load(found.path)
    if tokenizer.fingerprint != found.record["tokenizer"]:
        raise UserError(
            f"{found.path / 'tokenizer.json'} is not the one that the model was trained with: put that one back"
        )
    if choice == "average":
        weights = average_of(run).weights
    elif average > 1:
        folders = checkpoints.steps(found.path.parent)
        until = folders[: folders.index(found.path) + 1][-average:]
        if len(until) < average:
            raise UserError(f"--average {average}: there are {len(until)} checkpoints in {found.path.parent}")
        weights = checkpoints.average([checkpoints.open_checkpoint(folder) for folder in until])
    elif ema:
        if not found.has_ema():
            raise UserError(f"{found.path} has no averaged weights: train with optimizer.ema=0.999, or use --average 5")
        weights = found.weights(ema=True)
    else:
        weights = found.weights()
    if interpolate != 1:
        weights = interpolation.interpolate(weights, interpolate, settings, tokenizer, found.path)
    model = SpeechModel(settings.model, int(found.record["vocabulary"]))
    checkpoints.load_weights(model, weights, found.path)
    cmvn = Cmvn.from_dict(json.loads((found.path / "cmvn.json").read_text(encoding="utf-8")))
    return LoadedModel(
        model.to(device).eval(),
        tokenizer,
        cmvn,
        settings,
        found.path,
        found.step,
        found.record.get("learnt"),
        evaluation_dtype(precision, torch.device(device)),
    )


@dataclass(frozen=True)
class LabelledSet:
    """A LabelledSet yields the batches of a test set.

    The first is empty and names the clips that are in no other: none goes missing unsaid.
    """

    planner: Planner
    batches: Batches
    unusable: tuple[BadSample, ...] = ()
    """Found before there was an index."""

    def __iter__(self) -> Iterator[Batch]:
        bad = (BadSample(one.clip_id, one.reason, one.detail) for one in self.planner.unusable())
        yield Batch.of_none((*self.unusable, *bad))
        yield from self.batches


def labelled_sets(
    handoff: Handoff, split: str, loaded: LoadedModel, *, max_frames: int = 24_000
) -> dict[str, LabelledSet]:
    """Return the split's clips by domain. Raises UserError for an empty split."""
    index = handoff.index(split)
    if not len(index):
        raise UserError(f"{handoff.uri}: the split {split} is empty; choose another with --split")
    sets = {}
    for domain in index.domain_names:
        part = index.of_domain(domain)
        if len(part):
            sets[domain] = _labelled_set(part, loaded, handoff.s3, max_frames)
    return sets


def published_sets(
    found: Sequence[IndexedSet], loaded: LoadedModel, s3: S3Settings, *, max_frames: int = 24_000
) -> dict[str, LabelledSet]:
    """Return sets as published, each under its name."""
    return {each.name: _labelled_set(each.index, loaded, s3, max_frames, each.unusable) for each in found}


def _labelled_set(
    part: Index, loaded: LoadedModel, s3: S3Settings, max_frames: int, unusable: tuple[BadSample, ...] = ()
) -> LabelledSet:
    longest = max(max_frames, int(part.frames.max()))
    planner = Planner(part, BatchPlan(max_frames=longest, max_clips=32), may_be_empty=True)
    targets = _Targets(loaded.tokenizer)
    last = planner.batches_per_epoch(0)
    batches = Batches(part, planner, Reader(s3), targets, loaded.cmvn, last_global_batch=last)
    return LabelledSet(planner, batches, unusable)


@dataclass(frozen=True)
class _Targets:
    tokenizer: Tokenizer

    def __call__(self, row: Row) -> Targets:
        return build_targets(row, self.tokenizer)
