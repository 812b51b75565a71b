"""OSUM as a Learner of the training loop: phases, what is trained in each, what a checkpoint keeps.

OsumBatch ──Osum.losses──> a loss per clip        step ──phase──> parts that move
checkpoint: trained parameters alone; everything else is named by its source and digest
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model_training.osum.data import OsumBatch
from model_training.osum.model import Osum
from model_training.osum.settings import OsumSettings
from model_training.training.losses import Losses
from model_training.training.step import PlainLearner, take_weights


@dataclass(frozen=True)
class OsumLearner(PlainLearner):
    """An OsumLearner trains an Osum: a step's variant is its phase."""

    model: Osum
    settings: OsumSettings
    autocast: torch.dtype | None = None
    units: tuple[int, ...] = ()
    """what the adaptor is aligned with: the blank, then every token of the transcripts"""

    def variants(self, step: int) -> tuple[int, ...]:
        """Return the phase that the last of `step` steps was of."""
        return (self.settings.phase(max(step - 1, 0)),)

    def begin_step(self, step: int) -> tuple[int]:
        """Return the phase of a step; only its parts are given gradients."""
        phase = (self.settings.phase(step),)
        moving = set(map(id, self.parameters(phase)))
        for parameter in self.trained().values():
            parameter.requires_grad_(id(parameter) in moving)
        return phase

    def losses(self, batch: OsumBatch, variant: int) -> Losses:
        """Return what the answers of a batch cost, a sum over tokens for each clip."""
        phase, exercises = self.settings.phases[variant], batch.exercises
        speech = self.model.speech(batch.features_BFM.to(self.device), batch.mel_lengths_B.to(self.device))
        loss_B = torch.zeros(len(exercises), device=self.device)
        correct = tokens = torch.zeros((), dtype=torch.long)
        if phase.answers or not self.model.training:  # dev is of answers, whatever the phase
            questions, answers = zip(*((exercise.question, exercise.answer) for exercise in exercises), strict=True)
            found = self.model.answer_losses(speech, questions, answers)
            loss_B, correct, tokens = found.loss_B, found.correct, found.tokens
        if phase.align and self.model.training:
            words = [exercise.words for exercise in exercises]
            loss_B = loss_B + phase.align * self.model.align(
                speech, words, torch.tensor(self.units, device=self.device)
            )
        return Losses(loss_B, {}, None, correct, tokens)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that any phase trains, by name."""
        return trained_parameters(self.model, self.settings)

    def parameters(self, variants: tuple[int, ...]) -> list[nn.Parameter]:
        """Return the parameters that such a step moves, in the same order on every worker."""
        parts = tuple(f"{part}." for phase in variants for part in self.settings.phases[phase].parts)
        return [parameter for name, parameter in self.trained().items() if name.startswith(parts)]

    def weights(self) -> dict[str, Tensor]:
        """Return what was trained, by name."""
        return {name: parameter.data for name, parameter in self.trained().items()}

    def load(self, weights: dict[str, Tensor], path: Path) -> None:
        """Take a checkpoint's weights. Raises UserError when they are of another model."""
        load_trained(self.model, self.settings, weights, path)

    def describe(self) -> str:
        """Say how many parameters there are, and how many are trained."""
        total, trained = (sum(map(torch.numel, part)) for part in (self.model.parameters(), self.trained().values()))
        return f"{total / 1e6:.1f} M, {trained / 1e6:.1f} M trained"


def trained_parameters(model: nn.Module, settings: OsumSettings) -> dict[str, nn.Parameter]:
    """Return the parameters that any phase trains, by name: of a language model with LoRA, LoRA's."""
    parts = tuple(f"{part}." for part in settings.trained())
    lora = settings.model.llm.lora_rank > 0  # the encoder's positions are fixed sines
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(parts)
        and (not lora or not name.startswith("llm.") or "lora_" in name)
        and "embed_positions" not in name
    }


def load_trained(model: Osum, settings: OsumSettings, weights: dict[str, Tensor], path: Path) -> None:
    """Take a checkpoint's weights. Raises UserError when they are of another model."""
    take_weights(trained_parameters(model, settings), weights, path)


def rate_of(settings: OsumSettings) -> Callable[[str], float]:
    """Return what gives a parameter's factor of the learning rate by its name: its part's."""
    return lambda name: settings.rates.get(name.partition(".")[0], 1.0)
