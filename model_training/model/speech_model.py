"""The speech-perception model: Conformer encoder, CTC head, attention decoder, elastic experts in their feed-forward
blocks.

    features_BF80 ──Encoder──> encoded_BSD ──┬── CTC head ──────────────> ctc logits_BSV    text and events
                                             └── Decoder (+ inputs_BL) ──> logits_BLV        attributes, text, events

A `group` is the number of routed experts in use, N, one of `model.groups`; a dense model has the one group 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from model_training.config import ModelSettings
from model_training.model.conformer import Encoder, make_ffns
from model_training.model.decoder import Cache, Decoder
from model_training.model.moe import ElasticMoE, Experts, Routing
from operators.errors import UserError


@dataclass
class Outputs:
    """What a training step needs of one pass."""

    encoded_lengths_B: Tensor
    ctc_logits_BSV: Tensor
    logits_BLV: Tensor
    extra_logits: list[Tensor]  # of 3M's intermediate decoders, (B, L, V) each
    embedding_ctc_logits_BSV: Tensor | None  # of 3M's shared embedding network
    routing: Routing


class SpeechModel(nn.Module):
    """
    Args:
        settings: sizes; also what a checkpoint keeps.
        vocabulary: V, blank included.
    """

    def __init__(self, settings: ModelSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings, self.vocabulary = settings, vocabulary
        moe = settings.moe
        self.groups = (0,) if moe.ffn == "none" else tuple(moe.experts)
        make_ffn, make_dense = make_ffns(settings)
        self.encoder = Encoder(settings, settings.encoder_layers, make_ffn, make_dense, moe.ffn, "encoder")
        self.ctc = nn.Linear(settings.d_model, vocabulary)
        make_decoder_ffn = make_ffn if moe.ffn == "all" else make_dense
        self.decoder = Decoder(settings, vocabulary, make_decoder_ffn, "decoder")
        self.extra_decoders = nn.ModuleList(
            Decoder(settings, vocabulary, make_decoder_ffn, f"extra_decoder{number}")
            for number in range(settings.extra_decoders)
        )
        self.embedding_network: Encoder | None = None
        if moe.ffn != "none" and moe.embedding_layers:
            self.embedding_network = Encoder(
                settings, moe.embedding_layers, make_dense, make_dense, "none", "embedding"
            )
            self.embedding_ctc = nn.Linear(settings.d_model, vocabulary)

    def forward(
        self, features_BF80: Tensor, lengths_B: Tensor, inputs_BL: Tensor, input_lengths_B: Tensor, group: int
    ) -> Outputs:
        """One training pass: all heads, of features (B, F, 80) and decoder inputs (B, L)."""
        routing = self.routing(group)
        embedding_logits = self._embed(features_BF80, lengths_B, routing)
        depths = len(self.extra_decoders) + 1
        taps = tuple(self.settings.encoder_layers * depth // depths for depth in range(1, depths))
        encoded, encoded_lengths, tapped = self.encoder(features_BF80, lengths_B, routing, taps)
        routing.embedding_BTD = None if routing.embedding_BTD is None else self._no_embedding(inputs_BL)
        logits = self.decoder(encoded, encoded_lengths, inputs_BL, routing, lengths_B=input_lengths_B)
        extra = [
            decoder(tap, encoded_lengths, inputs_BL, routing, lengths_B=input_lengths_B)
            for decoder, tap in zip(self.extra_decoders, tapped)
        ]
        return Outputs(encoded_lengths, self.ctc(encoded), logits, extra, embedding_logits, routing)

    def encode(self, features_BF80: Tensor, lengths_B: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Features (B, F, 80), lengths in feature frames -> encoded (B, S, D), lengths in encoder frames (40 ms)."""
        routing = self.routing(group)
        self._embed(features_BF80, lengths_B, routing)
        encoded, encoded_lengths, _ = self.encoder(features_BF80, lengths_B, routing)
        return encoded, encoded_lengths

    def ctc_logits(self, encoded_BSD: Tensor) -> Tensor:
        return self.ctc(encoded_BSD)

    def decode(
        self, encoded_BSD: Tensor | None, lengths_B: Tensor, inputs_BL: Tensor, group: int, cache: Cache | None = None
    ) -> Tensor:
        """Logits (B, L, V) after each of the inputs (B, L); with a cache, of the new inputs only."""
        routing = self.routing(group)
        if self.embedding_network is not None:
            routing.embedding_BTD = self._no_embedding(inputs_BL)
        return self.decoder(encoded_BSD, lengths_B, inputs_BL, routing, cache=cache)

    def routing(self, group: int) -> Routing:
        if group not in self.groups:
            known = ", ".join(map(str, self.groups))
            raise UserError(f"group {group} is not in this model: it has {known} (numbers of routed experts)")
        return Routing(self.groups.index(group))

    def moe_layers(self) -> list[ElasticMoE]:
        return [module for module in self.modules() if isinstance(module, ElasticMoE)]

    def active_parameters(self, group: int) -> list[tuple[str, nn.Parameter]]:
        """Parameters that a pass with this group uses, by name, in a fixed order. The others must not change."""
        index = self.groups.index(group)
        idle = {
            id(parameter)
            for layer in self.moe_layers()
            for part in (*layer.tiers[index + 1 :], *(r for number, r in enumerate(layer.routers) if number != index))
            for parameter in part.parameters()
        }
        return [(name, parameter) for name, parameter in self.named_parameters() if id(parameter) not in idle]

    def parameter_counts(self, group: int) -> dict[str, int]:
        """Of a deployed model of this group: `total` stored, and `active` for one frame (K of N experts). Without what
        only training uses (intermediate decoders, the embedding network's CTC head)."""
        total = sum(
            parameter.numel()
            for name, parameter in self.active_parameters(group)
            if not name.startswith(("extra_decoders", "embedding_ctc"))
        )
        idle = 0
        for layer in self.moe_layers():
            if not layer.name.startswith("extra_decoder"):
                tier: Experts = layer.tiers[0]  # type: ignore[assignment]
                one = sum(parameter[0].numel() for parameter in tier.parameters())
                idle += one * (group - layer.top_k)
        return {"total": total, "active": total - idle}

    def pruned(self, group: int) -> SpeechModel:
        """A model of its own with the shared experts, the group's experts and its router, and nothing else: what is
        deployed.
        """
        self.routing(group)
        settings = replace(self.settings, extra_decoders=0)
        if group:
            moe = self.settings.moe
            width = moe.expert_width or self.settings.d_ff * 8 // (moe.shared + moe.experts[-1])
            settings = replace(
                settings, moe=replace(moe, experts=[group], expert_width=width, group_weights=[], dispatch="auto")
            )
        small = SpeechModel(settings, self.vocabulary)
        small.load_state_dict(self._pruned_state(group))
        return small.train(self.training)

    def _pruned_state(self, group: int) -> dict[str, Tensor]:
        index = self.groups.index(group)
        layers = {name: module for name, module in self.named_modules() if isinstance(module, ElasticMoE)}
        state = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("extra_decoders.") and not any(name.startswith(f"{layer}.") for layer in layers)
        }
        for name, layer in layers.items():
            if name.startswith("extra_decoders."):
                continue
            if layer.shared is not None:
                state |= {f"{name}.shared.{key}": tensor for key, tensor in layer.shared.state_dict().items()}
            tiers = [tier.state_dict() for tier in layer.active_tiers(index)]
            state |= {f"{name}.tiers.0.{key}": torch.cat([tier[key] for tier in tiers]) for key in tiers[0]}
            state[f"{name}.routers.0.weight"] = cast(Tensor, layer.routers[index].weight).detach()
            if self.settings.moe.balance == "bias":
                state[f"{name}.selection_bias_0"] = getattr(layer, f"selection_bias_{index}")
        return state

    def _embed(self, features_BF80: Tensor, lengths_B: Tensor, routing: Routing) -> Tensor | None:
        if self.embedding_network is None:
            return None
        embedding_BSD, _, _ = self.embedding_network(features_BF80, lengths_B, Routing(0))
        routing.embedding_BTD = embedding_BSD
        return self.embedding_ctc(embedding_BSD)

    def _no_embedding(self, inputs_BL: Tensor) -> Tensor:
        # 3M's experts live in the encoder; where a decoder has some, there is no acoustic frame per token to show the
        # router.
        return torch.zeros(*inputs_BL.shape, self.settings.d_model, device=inputs_BL.device)
