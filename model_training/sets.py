"""A trained model with what belongs to it, and the test sets it is measured on.

CKPT ──load_model──> LoadedModel (weights, tokenizer, CMVN, settings)
handoff, split ──labelled_sets──> {domain: batches}, clips as they are: no augmentation, every clip once
audio files ──file_batches──> batches of one clip each
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_training import checkpoint as checkpoints
from model_training import config
from model_training.audio import BadSample, decode
from model_training.batching import BatchPlan, Planner
from model_training.config import Settings
from model_training.features import MIN_FRAMES, Cmvn
from model_training.handoff import Handoff
from model_training.index import Row
from model_training.model import SpeechModel
from model_training.perception import Targets, build_targets
from model_training.reading import Batch, Batches, Reader
from model_training.tokenizer import Tokenizer
from operators.errors import UserError
from operators.filterbank import filterbank
from operators.shard import feature_frames


@dataclass(frozen=True)
class LoadedModel:
    model: SpeechModel  # in eval mode
    tokenizer: Tokenizer
    cmvn: Cmvn
    settings: Settings
    path: Path
    step: int
    learnt: dict[str, list[str]] | None = None
    """Of each kind (language, ..., event) the labels that its training data had; None: not known, an older checkpoint."""


def load_model(path: str, *, average: int = 1, ema: bool = False, device: str = "cpu") -> LoadedModel:
    """A checkpoint's model, or the mean of the newest `average` of a run, or the run's averaged weights.

    Raises:
        UserError: no such checkpoint, or a damaged one.
    """
    found = checkpoints.open_checkpoint(path)
    settings = config.restore(found.record["settings"])
    tokenizer = Tokenizer.load(found.path)
    if tokenizer.fingerprint != found.record["tokenizer"]:
        raise UserError(f"{found.path / 'tokenizer.json'} is not the one that the model was trained with")
    if average > 1:
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
    model = SpeechModel(settings.model, int(found.record["vocabulary"]))
    checkpoints.load_weights(model, weights, found.path)
    cmvn = Cmvn.from_dict(json.loads((found.path / "cmvn.json").read_text(encoding="utf-8")))
    return LoadedModel(model.to(device).eval(), tokenizer, cmvn, settings, found.path, found.step, found.record.get("learnt"))


@dataclass(frozen=True)
class LabelledSet:
    """The batches of a test set. The first is empty and names the clips that are in no other: none goes missing unsaid."""

    planner: Planner
    batches: Batches

    def __iter__(self) -> Iterator[Batch]:
        yield Batch.of_none(tuple(BadSample(one.clip_id, one.reason, one.detail) for one in self.planner.unusable()))
        yield from self.batches


def labelled_sets(handoff: Handoff, split: str, loaded: LoadedModel, *, max_frames: int = 24_000) -> dict[str, LabelledSet]:
    """The split's clips by domain. Raises UserError for an empty split."""
    index = handoff.index(split)
    if not len(index):
        raise UserError(f"{handoff.uri}: the split {split} is empty; choose another with --split")
    sets = {}
    for domain in index.domain_names:
        part = index.of_domain(domain)
        if len(part):
            longest = max(max_frames, int(part.frames.max()))
            planner = Planner(part, BatchPlan(max_frames=longest, max_clips=32), may_be_empty=True)
            last = planner.batches_per_epoch(0)
            targets = _Targets(loaded.tokenizer)
            batches = Batches(part, planner, Reader(handoff.storage), targets, loaded.cmvn, last_global_batch=last)
            sets[domain] = LabelledSet(planner, batches)
    return sets


@dataclass(frozen=True)
class _Targets:
    tokenizer: Tokenizer

    def __call__(self, row: Row) -> Targets:
        return build_targets(row, self.tokenizer)


def file_batches(paths: Sequence[str], cmvn: Cmvn) -> Iterator[tuple[str, Batch | BadSample]]:
    """One batch per audio file, without labels. What cannot be read comes back as its BadSample."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                pcm = decode(path, file)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except BadSample as bad:
            yield path, bad
            continue
        if feature_frames(len(pcm)) < MIN_FRAMES:
            yield path, BadSample(path, "too_short", f"{len(pcm)} samples")
            continue
        yield path, _unlabelled(path, cmvn.apply(filterbank(pcm)))


def _unlabelled(name: str, features_F80: np.ndarray) -> Batch:
    frames, none = len(features_F80), torch.zeros(1, 0, dtype=torch.int64)
    row = Row(clip_id=name, shard=name, offset=0, size=0, frames=frames, label_tokens=0, label="", domain="")
    return Batch(
        features_BT80=torch.from_numpy(features_F80).unsqueeze(0),
        feature_lengths_B=torch.tensor([frames]),
        ctc_targets_BU=none,
        ctc_lengths_B=torch.zeros(1, dtype=torch.int64),
        decoder_inputs_BL=none,
        decoder_targets_BL=none,
        decoder_lengths_B=torch.zeros(1, dtype=torch.int64),
        events_known_B=torch.zeros(1, dtype=torch.bool),
        clip_ids=[name],
        rows=[row],
        global_batch=0,
        bad=(),
    )
