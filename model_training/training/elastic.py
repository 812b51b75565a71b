"""The elastic model as a Learner: each step trains one of its sizes or several, with the losses of losses.py.

Batch ──SpeechModel at a size──> Outputs ──losses──> objective per clip, loads of the experts

Which sizes, `model.moe.sampling` says: one a step, one a micro-batch, or by the sandwich rule the largest, one between
and the smallest for every micro-batch, where the smaller ones also learn from what the largest answered
(docs/decisions/which-sizes-a-step-trains.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model_training.config import Settings
from model_training.data.reading import Batch
from model_training.data.speaker_labels import SpeakerLabels
from model_training.model.chunks import draw_chunk
from model_training.model.conformer import BINS, MIN_FRAMES
from model_training.model.decoder import turned
from model_training.model.device import to_device
from model_training.model.router import Load, Router, merge_loads
from model_training.model.speech_model import Outputs, SpeechModel
from model_training.training import checkpoint as checkpoints
from model_training.training.greedy_errors import GreedyErrors
from model_training.training.losses import (
    BALANCE,
    DISTILLATION,
    SPEAKER,
    Answers,
    Losses,
    distillation,
    losses,
    part_names,
)
from model_training.training.optimizer import draw_n_experts, draw_sandwich, seed_dropout
from model_training.training.sharding import is_sharded
from model_training.training.step import Loads, PlainLearner, Totals


@dataclass(frozen=True)
class ElasticLearner(PlainLearner):
    """An ElasticLearner trains the elastic model: a step's variant is its number of routed experts."""

    model: SpeechModel
    settings: Settings
    open_events: range
    """tokens whose absence from a clip says nothing where its events are not known"""
    autocast: torch.dtype | None = None
    errors: GreedyErrors | None = None
    """what counts errors on dev; None: nobody"""
    text_ends: Sequence[int] | None = None
    """tokens that end a text which attributes follow; None where text comes last"""
    speaker: SpeakerLabels | None = None
    """what the speaker head is taught; None where the model has none"""

    def begin_step(self, step: int) -> tuple[int, ...]:
        """Return the numbers of routed experts that the step trains, on whichever worker."""
        seed, sizes, moe = self.settings.train.seed, self.model.sizes, self.settings.model.moe
        if moe.sampling == "sandwich":
            return draw_sandwich(seed, step, sizes, moe)
        if moe.sampling == "micro_batch":
            many = self.settings.data.micro_batches
            return tuple(sorted({self._of_batch(number) for number in range(step * many, (step + 1) * many)}))
        return (draw_n_experts(seed, step, sizes, moe),)

    def _of_batch(self, global_batch: int) -> int:
        return draw_n_experts(self.settings.train.seed, global_batch, self.model.sizes, self.settings.model.moe)

    def passes(self, batch: Batch, variants: tuple[int, ...]) -> Iterator[tuple[int, Losses]]:
        """Yield a micro-batch's passes: at its own size, or at each of the step's, the largest first.

        Passes of one batch drop the same hidden units where they have the same.
        """
        if self.settings.model.moe.sampling == "micro_batch":
            variants = (self._of_batch(batch.global_batch),)
        teacher: Answers | None = None
        for n_experts in variants:
            if teacher is not None:
                seed_dropout(self.settings.train.seed, batch.global_batch)
            with self.precision():
                _, found = self.forward(batch, n_experts, teacher)
            yield n_experts, found
            teacher = teacher or found.answers

    def variants(self, step: int) -> tuple[int, ...]:
        """Return the sizes, whatever the step."""
        return self.model.sizes

    def losses(self, batch: Batch, n_experts: int) -> Losses:
        """Return what a batch costs, and which experts it went to; on dev also edits. Called inside `precision()`."""
        outputs, found = self.forward(batch, n_experts)
        if self.errors is not None and not self.model.training:
            found.edits = self.errors.count(outputs.ctc_logits_BSV, outputs.encoded_lengths_B, batch.rows)
        return found

    def forward(self, batch: Batch, n_experts: int, teacher: Answers | None = None) -> tuple[Outputs, Losses]:
        """Return what the model says of a batch, and what that costs.

        Args:
            teacher: what the largest size said of it, to learn from as well.
        """
        device, open_events = self.device, self.open_events

        def there(tensor: Tensor) -> Tensor:
            return to_device(tensor, device)

        open_BV = None
        if open_events and not batch.events_known_B.all():
            open_BV = torch.zeros(len(batch.clip_ids), self.model.vocabulary, dtype=torch.bool)
            open_BV[:, open_events.start : open_events.stop] = ~batch.events_known_B[:, None]
            # Of some clips a part of the events is known.
            for own in (batch.ctc_targets_BU, batch.decoder_targets_BL):
                open_BV.scatter_(1, own.clamp(min=0).long(), False)
            open_BV = there(open_BV)
        reverse_inputs_BL = reverse_targets_BL = None
        if self.model.reverse_decoder is not None:
            reverse_inputs_BL = there(turned(batch.decoder_inputs_BL, batch.content_B2 + 1))
            reverse_targets_BL = there(turned(batch.decoder_targets_BL, batch.content_B2))
        by_chunks = self.settings.model.dynamic_chunks and self.model.training
        # Lengths stay where they are: the program asks for them.
        outputs = self.model(
            there(batch.features_BT80),
            batch.feature_lengths_B,
            there(batch.decoder_inputs_BL),
            batch.decoder_lengths_B,
            n_experts,
            reverse_inputs_BL,
            draw_chunk(self.settings.train.seed, batch.global_batch) if by_chunks else None,
        )
        targets_BL = there(batch.decoder_targets_BL)
        found = losses(
            outputs,
            there(batch.ctc_targets_BU),
            batch.ctc_lengths_B,
            targets_BL,
            self.settings.loss,
            self.settings.model.moe,
            open_BV,
            None if self.text_ends is None else there(torch.tensor(self.text_ends)),
            reverse_targets_BL,
        )
        if self.speaker is not None and outputs.speaker_logits_BV is not None:
            speaker_B = self.speaker.loss(outputs.speaker_logits_BV, there(self.speaker.targets(batch.rows)))
            found.add(SPEAKER, speaker_B, self.settings.loss.speaker_weight)
        if self.model.training and self.settings.model.moe.sampling == "sandwich":
            if teacher is None:
                found.answers = Answers(outputs.ctc_logits_BSV.detach(), outputs.logits_BLV.detach())
                apart_B = torch.zeros_like(found.objective_B.detach())
            else:
                open_B1V = None if open_BV is None else open_BV.unsqueeze(1)
                apart_B = distillation(outputs, teacher, targets_BL, self.settings.loss, open_B1V)
            found.add(DISTILLATION, apart_B, self.settings.loss.distill_weight)
        found.loads = list(outputs.routing.loads)  # a block that is computed again reports again
        return outputs, found

    def parameters(self, variants: tuple[int, ...]) -> list[nn.Parameter]:
        """Return the parameters that such a step moves, in the same order on every worker: none that is frozen."""
        active = {id(one) for n_experts in variants for _, one in self.model.active_parameters(n_experts)}
        return [one for one in self.model.parameters() if id(one) in active and one.requires_grad]

    def loads(self, routing: list[Load], n_experts: int) -> dict[str, Tensor]:
        """Return this worker's frames per expert by layer, the same layers in the same order on every worker."""
        merged = merge_loads(routing)
        return {
            layer.name: merged.get(layer.name, torch.zeros(n_experts, device=self.device))
            for layer in self.model.moe_layers()
        }

    def pass_idly(self, variants: tuple[int, ...]) -> None:
        """Where the model is sharded, pass moments of silence through it, forward and back, that teach nothing.

        As many as the others' micro-batches have passes.
        """
        if not is_sharded(next(self.model.parameters())):
            return
        for n_experts in variants[:1] if self.settings.model.moe.sampling == "micro_batch" else variants:
            self._pass_silence(n_experts)

    def _pass_silence(self, n_experts: int) -> None:
        features_BF80 = torch.zeros(1, 4 * MIN_FRAMES, BINS, device=self.device)
        inputs_BL = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        one = torch.ones(1, dtype=torch.int64)
        with self.precision():
            outputs = self.model(features_BF80, 4 * MIN_FRAMES * one, inputs_BL, one, n_experts, inputs_BL)
        said = [outputs.ctc_logits_BSV, outputs.logits_BLV, *outputs.extra_logits, *outputs.extra_reverse_logits]
        for more in (outputs.embedding_ctc_logits_BSV, outputs.reverse_logits_BLV, outputs.speaker_logits_BV):
            if more is not None:
                said.append(more)
        (0.0 * torch.stack([logits.float().sum() for logits in said]).sum()).backward()

    def end_step(self, loads: Loads) -> None:
        """Level the experts' load after the optimiser's step, where `balance: bias` asks for it.

        What is added to a frozen router's scores is frozen with it.
        """
        if self.settings.model.moe.balance != "bias":
            return
        for n_experts, of_layers in loads.items():
            tier = self.model.tier(n_experts)
            for layer in self.model.moe_layers():
                router: Router = layer.routers[tier]  # type: ignore[assignment]
                if layer.name in of_layers and router.weight.requires_grad:
                    layer.update_bias(tier, of_layers[layer.name])

    def totals(self, *, dev: bool = False) -> Totals:
        """Return sums that begin at 0. What is of training alone, balance and distillation, is no part of dev's."""
        names = part_names(self.settings.model)
        return Totals(self.device, tuple(n for n in names if not dev or n not in (BALANCE, DISTILLATION)))

    def weights(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, by name: all of the model."""
        return self.model.state_dict()

    def load(self, weights: dict[str, Tensor], path: Path) -> None:
        """Take a checkpoint's weights. Raises UserError when they are of another model."""
        checkpoints.load_weights(self.model, weights, path)

    def describe(self) -> str:
        """Say how many parameters each size has."""
        counts = {n: self.model.parameter_counts(n) for n in self.model.sizes}
        return ", ".join(
            f"N={n}: {c['total'] / 1e6:.1f} M ({c['active'] / 1e6:.1f} M active)" for n, c in counts.items()
        )
