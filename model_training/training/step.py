"""The work of one step: micro-batches forward and backward, then sums over all workers.

    batch ──Learner.losses──> Losses per clip ──backward──> gradients ──gather──> sums over workers
                                  └──Totals: clips, frames, objective and its parts, loads of the experts

Gradients are of sums over clips. The loop divides them by the clips of all workers, so what a step does depends neither
on the number of workers nor on where batches are cut.

Shapes: B clips, T feature frames, L decoder tokens, U tokens of CTC, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model_training.config import Settings
from model_training.data.reading import Batch
from model_training.data.source import OnBad
from model_training.model.router import Load, merge_loads
from model_training.model.speech_model import Outputs, SpeechModel
from model_training.training.losses import BALANCE, Losses, finite, losses, part_names
from model_training.training.optimizer import draw_n_experts, seed_dropout
from model_training.training.workers import Workers


@dataclass(frozen=True)
class Learner:
    """A Learner is the model, and what of a step depends on which model it is."""

    model: SpeechModel
    settings: Settings
    open_events: range
    """tokens whose absence from a clip says nothing where its events are not known"""
    autocast: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def precision(self) -> torch.autocast:
        """Return the context in which the model computes: bfloat16 where the run has it, else nothing changes."""
        return torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def begin_step(self, step: int) -> int:
        """Return the number of routed experts that the step trains."""
        return draw_n_experts(self.settings.train.seed, step, self.model.sizes, self.settings.model.moe)

    def losses(self, batch: Batch, n_experts: int) -> tuple[Outputs, Losses]:
        """Return what the model says of a batch, and what that costs. Called inside `precision()`."""
        device, open_events = self.device, self.open_events

        def to_device(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        open_BV = None
        if open_events and not batch.events_known_B.all():
            open_BV = torch.zeros(len(batch.clip_ids), self.model.vocabulary, dtype=torch.bool)
            open_BV[:, open_events.start : open_events.stop] = ~batch.events_known_B[:, None]
            # Of some clips a part of the events is known.
            for own in (batch.ctc_targets_BU, batch.decoder_targets_BL):
                open_BV.scatter_(1, own.clamp(min=0).long(), False)
            open_BV = to_device(open_BV)
        outputs = self.model(
            to_device(batch.features_BT80),
            to_device(batch.feature_lengths_B),
            to_device(batch.decoder_inputs_BL),
            to_device(batch.decoder_lengths_B),
            n_experts,
        )
        found = losses(
            outputs,
            to_device(batch.ctc_targets_BU),
            to_device(batch.ctc_lengths_B),
            to_device(batch.decoder_targets_BL),
            self.settings.loss,
            self.settings.model.moe,
            open_BV,
        )
        return outputs, found

    def parameters(self, n_experts: int) -> list[nn.Parameter]:
        """Return the parameters that such a step moves, in the same order on every worker."""
        return [parameter for _, parameter in self.model.active_parameters(n_experts)]

    def end_step(self, n_experts: int, loads: dict[str, Tensor]) -> None:
        """Level the experts' load after the optimiser's step, where `balance: bias` asks for it."""
        if self.settings.model.moe.balance == "bias":
            for layer in self.model.moe_layers():
                if layer.name in loads:
                    layer.update_bias(self.model.tier(n_experts), loads[layer.name])

    def totals(self) -> Totals:
        """Return sums that begin at 0."""
        return Totals(self.device, part_names(self.settings.model))


class Totals:
    """Totals are sums of a step over its micro-batches, and after `gather` over all workers."""

    def __init__(self, device: torch.device, parts: tuple[str, ...]) -> None:
        self._names = ("clips", "frames", "correct", "tokens", "objective", *parts)
        self._parts = parts
        self.sums = torch.zeros(len(self._names), dtype=torch.float64, device=device)
        self.routing: list[Load] = []
        self.loads: dict[str, Tensor] = {}
        self.clip_ids: list[str] = []

    @property
    def clips(self) -> float:
        """Return how many clips taught something."""
        return float(self.sums[0])

    @property
    def frames(self) -> float:
        return float(self.sums[1])

    def add(self, batch: Batch, found: Losses, used_B: Tensor, loads: list[Load]) -> None:
        """Add a micro-batch, of whose clips `used_B` count."""
        clips, nothing = used_B.sum(), used_B.new_zeros((), dtype=torch.float32)
        balance = nothing if found.balance is None else found.balance.detach() * clips
        values = {
            "clips": clips,
            "frames": batch.feature_lengths_B.sum(),
            "correct": found.correct,
            "tokens": found.tokens,
            "objective": found.objective_B.detach()[used_B].sum() + balance,
            BALANCE: balance,
        } | {name: part_B[used_B].sum() for name, part_B in found.parts.items()}
        self.sums += torch.stack([values[name].to(self.sums.device, torch.float64) for name in self._names])
        self.routing += loads

    def means(self) -> dict[str, float]:
        """Return the objective and its parts per clip, the share of right tokens, and the number of clips."""
        sums = dict(zip(self._names, self.sums.tolist(), strict=True))
        clips = max(sums["clips"], 1)
        return {
            "loss": sums["objective"] / clips,
            **{name: sums[name] / clips for name in self._parts},
            "accuracy": sums["correct"] / max(sums["tokens"], 1),
            "clips": sums["clips"],
        }

    def load_arrays(self) -> dict[str, np.ndarray]:
        """Return the frames per expert by layer."""
        return {layer: counts_N.cpu().numpy() for layer, counts_N in self.loads.items()}


def accumulate(learner: Learner, batch: Batch, n_experts: int, total: Totals, on_bad: OnBad) -> None:
    """Go forward and backward over one micro-batch: gradients of the sum over its clips are added to what is there."""
    seed_dropout(learner.settings.train.seed, batch.global_batch)
    total.clip_ids += batch.clip_ids
    if not batch.clip_ids:
        return
    with learner.precision():
        while True:
            outputs, found = learner.losses(batch, n_experts)
            used_B = finite(found.objective_B)
            if used_B.all():
                break
            for place in (~used_B).nonzero().flatten().tolist():
                on_bad(batch.clip_ids[place], "non_finite_loss", f"global batch {batch.global_batch}")
            # Once more without them: even a gradient of zero, sent back through such a clip, is NaN in every weight it
            # meets.
            batch = batch.only(used_B.tolist())
            if not batch.clip_ids:
                return
        objective = found.objective_B.sum()
        if found.balance is not None:
            objective = objective + found.balance * len(batch.clip_ids)
    objective.backward()  # outside: inside, what the routers compute in float32 would come back in bfloat16
    total.add(batch, found, used_B, outputs.routing.loads)


def gather(learner: Learner, n_experts: int, workers: Workers, total: Totals) -> list[Tensor]:
    """Sum gradients, counts and loads over all workers, and return the gradients.

    Every parameter that the step moves has a gradient afterwards, no other has.
    """
    parameters = learner.parameters(n_experts)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    merged = merge_loads(total.routing)
    for layer in learner.model.moe_layers():
        total.loads[layer.name] = merged.get(layer.name, torch.zeros(n_experts, device=total.sums.device))
    workers.sum([*gradients, total.sums, *total.loads.values()])
    return gradients


@torch.inference_mode()
def dev_means(learner: Learner, batches: Iterable[Batch], n_experts: int) -> dict[str, float]:
    """Return what `Totals.means` says of dev. The routers' balance, which is of training, is no part of it."""
    parts = tuple(name for name in part_names(learner.settings.model) if name != BALANCE)
    total = Totals(learner.device, parts)
    learner.model.eval()
    for batch in batches:
        if batch.clip_ids:
            with learner.precision():
                _, found = learner.losses(batch, n_experts)
            total.add(batch, found, finite(found.objective_B), [])
    learner.model.train()
    return total.means()
