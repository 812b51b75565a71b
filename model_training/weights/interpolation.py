"""Weights between those that a run began from and those that training made of them.

Half of the way often hears both what the beginning heard and what was learnt (Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models", WiSE-FT): what was learnt by heart from few clips weighs half.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model_training.config import Settings
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.training.beginning import REPORT
from model_training.weights.embedding import PARTS as EMBEDDING
from model_training.weights.origin import open_origin
from model_training.weights.transfer import transfer
from operators.errors import UserError


def interpolate(
    trained: Mapping[str, Tensor], share: float, settings: Settings, tokenizer: Tokenizer, checkpoint: Path
) -> dict[str, Tensor]:
    """Return the weights at `share` of the way from the run's beginning to the trained ones.

    A tensor that began from nothing stays as it was trained; so do counts.

    Args:
        share: 0 is the beginning, 1 the trained weights.
        settings: of the run, with its `train.init_from`.
        checkpoint: its folder, in the run's.

    Raises:
        UserError: no share of a way; the run began from nothing, or what it began from is gone or is another by now.
    """
    train = settings.train
    if not 0 <= share <= 1:
        raise UserError(f"--interpolate {share:g}: must be between 0 and 1")
    if not train.init_from:
        raise UserError(f"--interpolate {share:g}: {checkpoint} began from nothing, so there is no way to go along")
    origin = open_origin(train.init_from, settings.model)
    _refuse_another(checkpoint.parent / REPORT, origin.place, train.init_from)
    model = SpeechModel(settings.model, len(tokenizer.tokens))
    # With the noise of that time, so that this is where the run began, to the bit.
    report = transfer(model, tokenizer.tokens, origin, noise=train.init_noise, seed=train.seed)
    begun = model.state_dict()
    elsewhere = tuple(EMBEDDING.values()) if train.init_embedding_from else ()
    between = {}
    for name, tensor in trained.items():
        taken = tensor.is_floating_point() and name not in report.fresh and not name.startswith(elsewhere)
        between[name] = torch.lerp(begun[name].float(), tensor.float(), share) if taken else tensor
    return between


def _refuse_another(report: Path, place: str, name: str) -> None:
    """Refuse a beginning that is not the one in the run's own report; a checkpoint that was moved away has none."""
    if not report.is_file():
        return
    began = json.loads(report.read_text(encoding="utf-8"))["origin"]
    if Path(began).resolve() != Path(place).resolve():
        raise UserError(f"the run began from {began}, and train.init_from={name} is {place} by now: put that one back")
