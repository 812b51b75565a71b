"""The elastic model as a Learner: each step trains one of its sizes, with the losses of losses.py.

Batch ──SpeechModel at the step's size──> Outputs ──losses──> objective per clip, loads of the experts
"""

from __future__ import annotations

from collections.abc import Sequence
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
from model_training.training.losses import BALANCE, SPEAKER, Losses, losses, part_names
from model_training.training.optimizer import draw_n_experts
from model_training.training.sharding import is_sharded
from model_training.training.step import PlainLearner, Totals


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

    def begin_step(self, step: int) -> int:
        """Return the number of routed experts that the step trains."""
        return draw_n_experts(self.settings.train.seed, step, self.model.sizes, self.settings.model.moe)

    def variants(self, step: int) -> tuple[int, ...]:
        """Return the sizes, whatever the step."""
        return self.model.sizes

    def losses(self, batch: Batch, n_experts: int) -> Losses:
        """Return what a batch costs, and which experts it went to; on dev also edits. Called inside `precision()`."""
        outputs, found = self.forward(batch, n_experts)
        if self.errors is not None and not self.model.training:
            found.edits = self.errors.count(outputs.ctc_logits_BSV, outputs.encoded_lengths_B, batch.rows)
        return found

    def forward(self, batch: Batch, n_experts: int) -> tuple[Outputs, Losses]:
        """Return what the model says of a batch, and what that costs."""
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
        found = losses(
            outputs,
            there(batch.ctc_targets_BU),
            batch.ctc_lengths_B,
            there(batch.decoder_targets_BL),
            self.settings.loss,
            self.settings.model.moe,
            open_BV,
            None if self.text_ends is None else there(torch.tensor(self.text_ends)),
            reverse_targets_BL,
        )
        if self.speaker is not None and outputs.speaker_logits_BV is not None:
            speaker_B = self.speaker.loss(outputs.speaker_logits_BV, there(self.speaker.targets(batch.rows)))
            found.add(SPEAKER, speaker_B, self.settings.loss.speaker_weight)
        found.loads = list(outputs.routing.loads)  # a block that is computed again reports again
        return outputs, found

    def parameters(self, n_experts: int) -> list[nn.Parameter]:
        """Return the parameters that such a step moves, in the same order on every worker: none that is frozen."""
        return [one for _, one in self.model.active_parameters(n_experts) if one.requires_grad]

    def loads(self, routing: list[Load], n_experts: int) -> dict[str, Tensor]:
        """Return this worker's frames per expert by layer, the same layers in the same order on every worker."""
        merged = merge_loads(routing)
        return {
            layer.name: merged.get(layer.name, torch.zeros(n_experts, device=self.device))
            for layer in self.model.moe_layers()
        }

    def pass_idly(self, n_experts: int) -> None:
        """Where the model is sharded, pass a moment of silence through it, forward and back, that teaches nothing."""
        if not is_sharded(next(self.model.parameters())):
            return
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

    def end_step(self, n_experts: int, loads: dict[str, Tensor]) -> None:
        """Level the experts' load after the optimiser's step, where `balance: bias` asks for it.

        What is added to a frozen router's scores is frozen with it.
        """
        if self.settings.model.moe.balance == "bias":
            tier = self.model.tier(n_experts)
            for layer in self.model.moe_layers():
                router: Router = layer.routers[tier]  # type: ignore[assignment]
                if layer.name in loads and router.weight.requires_grad:
                    layer.update_bias(tier, loads[layer.name])

    def totals(self, *, dev: bool = False) -> Totals:
        """Return sums that begin at 0. The routers' balance, which is of training, is no part of dev's."""
        return Totals(self.device, tuple(n for n in part_names(self.settings.model) if n != BALANCE or not dev))

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
