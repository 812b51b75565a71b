"""The speech-perception model: Conformer encoder, CTC head, attention decoder, elastic experts in their feed-forward
blocks.

    features_BF80 ──Encoder──> encoded_BSD ──┬── CTC head ──────────────> ctc logits_BSV    text and events
                                             ├── Decoder (+ inputs_BL) ──> logits_BLV        attributes, text, events
                      │                      └── Decoder (+ inputs_BL, their content turned) ──> the same from the end
                      └── early layers ── SpeakerHead ──> logits_BV                         attributes of the speaker

`n_experts` is the number of routed experts in use, N, one of `model.sizes`; a dense model has the one size 0. `tier` is
the place of a size among them.

Shapes: B clips, F feature frames of 10 ms, S frames of 40 ms, L tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from model_training.config import ModelSettings
from model_training.model.chunks import Chunk, EncoderCache, StreamCache
from model_training.model.conformer import Encoder, make_ffns
from model_training.model.decoder import Cache, Decoder
from model_training.model.device import to_device
from model_training.model.experts import Experts
from model_training.model.moe import ElasticMoE
from model_training.model.router import Routing
from model_training.model.speaker_head import SpeakerHead
from operators.errors import UserError


@dataclass
class Outputs:
    """Outputs are what a training step needs of one pass."""

    encoded_lengths_B: Tensor
    ctc_logits_BSV: Tensor
    logits_BLV: Tensor
    extra_logits: list[Tensor]  # of 3M's intermediate decoders, (B, L, V) each
    embedding_ctc_logits_BSV: Tensor | None  # of 3M's shared embedding network
    routing: Routing
    reverse_logits_BLV: Tensor | None = None  # of the right-to-left decoder
    extra_reverse_logits: list[Tensor] = field(default_factory=list)  # of the intermediate ones that read from the end
    speaker_logits_BV: Tensor | None = None  # of the speaker head


TRAINING_ONLY = ("extra_decoders.", "extra_reverse_decoders.", "embedding_ctc.")
"""Beginnings of the names of what is not deployed."""


class SpeechModel(nn.Module):
    """A SpeechModel is the whole model, which works at any of its sizes.

    Args:
        settings: sizes; also what a checkpoint keeps.
        vocabulary: V, blank included.
    """

    def __init__(self, settings: ModelSettings, vocabulary: int) -> None:
        super().__init__()
        self.settings, self.vocabulary = settings, vocabulary
        moe = settings.moe
        self.sizes = (0,) if moe.ffn == "none" else tuple(moe.experts)
        """Numbers of routed experts that a pass can use, N of each nested group."""
        make_ffn, make_dense = make_ffns(settings)
        self.encoder = Encoder(settings, settings.encoder_layers, make_ffn, make_dense, moe.ffn, "encoder")
        self.ctc = nn.Linear(settings.d_model, vocabulary)
        make_decoder_ffn = make_ffn if moe.ffn == "all" else make_dense
        self.decoder = Decoder(settings, settings.decoder_layers, vocabulary, make_decoder_ffn, "decoder")
        self.extra_decoders = nn.ModuleList(
            Decoder(settings, settings.decoder_layers, vocabulary, make_decoder_ffn, f"extra_decoder{number}")
            for number in range(settings.extra_decoders)
        )
        self.embedding_network: Encoder | None = None
        if moe.ffn != "none" and moe.embedding_layers:
            self.embedding_network = Encoder(
                settings, moe.embedding_layers, make_dense, make_dense, "none", "embedding"
            )
            self.embedding_ctc = nn.Linear(settings.d_model, vocabulary)
        # Behind all else: the rest begins from the same weights with and without it.
        self.reverse_decoder: Decoder | None = None
        self.extra_reverse_decoders = nn.ModuleList()
        if settings.reverse_layers:
            sizes = settings.reverse_layers, vocabulary, make_decoder_ffn
            self.reverse_decoder = Decoder(settings, *sizes, "reverse_decoder")
            self.extra_reverse_decoders.extend(
                Decoder(settings, *sizes, f"extra_reverse_decoder{number}") for number in range(settings.extra_decoders)
            )
        self.speaker_head = SpeakerHead(settings, vocabulary) if settings.speaker_head.attributes else None

    def forward(
        self,
        features_BF80: Tensor,
        lengths_B: Tensor,
        inputs_BL: Tensor,
        input_lengths_B: Tensor,
        n_experts: int,
        reverse_inputs_BL: Tensor | None = None,
        chunk: Chunk | None = None,
    ) -> Outputs:
        """Return what all heads say in one training pass, of features (B, F, 80) and decoder inputs (B, L).

        Lengths that lie on the CPU, whatever the device, spare the program waits for it.

        Args:
            reverse_inputs_BL: the same with their content `turned`; None: the right-to-left decoder is not asked.
        """
        routing = self.routing(n_experts)
        embedding_logits_BSV = self._embed(features_BF80, lengths_B, routing, chunk)
        depths = len(self.extra_decoders) + 1
        deep = tuple(self.settings.encoder_layers * depth // depths for depth in range(1, depths))
        taps = tuple(sorted({*deep, *self._early_taps}))
        encoded_BSD, encoded_lengths_B, found = self.encoder(features_BF80, lengths_B, routing, taps, chunk)
        at = dict(zip(taps, found, strict=True))
        tapped = [at[depth] for depth in deep]
        if routing.embedding_BTD is not None:
            routing = replace(routing, embedding_BTD=self._no_embedding(inputs_BL))

        def ask(decoder: nn.Module, seen_BSD: Tensor, asked_BL: Tensor) -> Tensor:
            answer_BLV: Tensor = decoder(seen_BSD, encoded_lengths_B, asked_BL, routing, lengths_B=input_lengths_B)
            return answer_BLV

        outputs = Outputs(
            encoded_lengths_B,
            logits_BLV=ask(self.decoder, encoded_BSD, inputs_BL),
            extra_logits=[ask(decoder, tap_BSD, inputs_BL) for decoder, tap_BSD in zip(self.extra_decoders, tapped)],
            ctc_logits_BSV=self.ctc(encoded_BSD),
            embedding_ctc_logits_BSV=embedding_logits_BSV,
            routing=routing,
        )
        if self.reverse_decoder is not None and reverse_inputs_BL is not None:
            outputs.reverse_logits_BLV = ask(self.reverse_decoder, encoded_BSD, reverse_inputs_BL)
            outputs.extra_reverse_logits = [
                ask(decoder, tap_BSD, reverse_inputs_BL)
                for decoder, tap_BSD in zip(self.extra_reverse_decoders, tapped)
            ]
        if self.speaker_head is not None:  # behind all else, whose dropout is the same with and without it
            early_BSD = self.speaker_head.mix([at[depth] for depth in self._early_taps])
            outputs.speaker_logits_BV = self.speaker_head(early_BSD, to_device(encoded_lengths_B, early_BSD.device))
        return outputs

    def encode(
        self, features_BF80: Tensor, lengths_B: Tensor, n_experts: int, chunk: Chunk | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the encoding (B, S, D) of features (B, F, 80), and its lengths in frames of 40 ms.

        With a chunk no frame sees beyond its chunk: what `encode_chunk` gives one chunk after the other.
        """
        return self.encode_early(features_BF80, lengths_B, n_experts, chunk)[:2]

    def encode_early(
        self, features_BF80: Tensor, lengths_B: Tensor, n_experts: int, chunk: Chunk | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `encode` does, and the early layers' mix (B, S, D) that the speaker head hears; None without."""
        routing = self.routing(n_experts)
        self._embed(features_BF80, lengths_B, routing, chunk)
        encoded_BSD, encoded_lengths_B, tapped = self.encoder(
            features_BF80, lengths_B, routing, self._early_taps, chunk
        )
        early_BSD = self.speaker_head.mix(tapped) if self.speaker_head is not None else None
        return encoded_BSD, encoded_lengths_B, early_BSD

    @property
    def _early_taps(self) -> tuple[int, ...]:
        return () if self.speaker_head is None else self.speaker_head.taps

    def stream_cache(self, clips: int = 1) -> StreamCache:
        """Return what `encode_chunk` needs before the first chunk of so many clips.

        Raises:
            UserError: the model was not trained for chunks.
        """
        settings, like = self.settings, self.ctc.weight
        if not settings.dynamic_chunks:
            raise UserError(
                "the model was not trained for chunks: train it with model.dynamic_chunks=true model.causal=true"
            )

        def empty(layers: int) -> EncoderCache:
            return EncoderCache.empty(clips, layers, settings.heads, settings.d_model, settings.kernel, like)

        embedding = None if self.embedding_network is None else empty(settings.moe.embedding_layers)
        return StreamCache(empty(settings.encoder_layers), embedding)

    def encode_chunk(self, features_BF80: Tensor, cache: StreamCache, n_experts: int) -> Tensor:
        """Return the next chunk's encoding (B, S, D), of features (B, 4 S + 3, 80).

        The last 3 feature frames are the first of the next chunk's. The cache takes the chunk in: `cache.keep` says
        how much of it stays.
        """
        return self.encode_chunk_early(features_BF80, cache, n_experts)[0]

    def encode_chunk_early(
        self, features_BF80: Tensor, cache: StreamCache, n_experts: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `encode_chunk` does, and the chunk's mix of early layers, as `encode_early` has it."""
        routing = self.routing(n_experts)
        if self.embedding_network is not None and cache.embedding is not None:
            embedding_BTD, _ = self.embedding_network.chunk(features_BF80, Routing(0), cache.embedding)
            routing = replace(routing, embedding_BTD=embedding_BTD)
        encoded_BSD, tapped = self.encoder.chunk(features_BF80, routing, cache.encoder, self._early_taps)
        return encoded_BSD, self.speaker_head.mix(tapped) if self.speaker_head is not None else None

    def ctc_logits(self, encoded_BSD: Tensor) -> Tensor:
        """Return CTC's logits (B, S, V) of an encoding."""
        return self.ctc(encoded_BSD)

    def decode(
        self,
        encoded_BSD: Tensor | None,
        lengths_B: Tensor,
        inputs_BL: Tensor,
        n_experts: int,
        cache: Cache | None = None,
        *,
        reverse: bool = False,
    ) -> Tensor:
        """Return the logits (B, L, V) after each of the inputs (B, L); with a cache, of the new inputs only.

        `reverse`: of the right-to-left decoder, which the model must have, after inputs whose content is `turned`.
        """
        routing = self.routing(n_experts)
        if self.embedding_network is not None:
            routing.embedding_BTD = self._no_embedding(inputs_BL)
        decoder = self.reverse_decoder if reverse else self.decoder
        assert decoder is not None, "a model without a right-to-left decoder"
        return decoder(encoded_BSD, lengths_B, inputs_BL, routing, cache=cache)

    def routing(self, n_experts: int) -> Routing:
        """Return the routing of a pass with so many routed experts.

        Raises:
            UserError: the model has no such size.
        """
        return Routing(self.tier(n_experts))

    def tier(self, n_experts: int) -> int:
        """Return the place of a size among the model's sizes. Raises UserError where it is none of them."""
        if n_experts not in self.sizes:
            known = ", ".join(map(str, self.sizes))
            raise UserError(f"group {n_experts} is not in this model: it has {known} (numbers of routed experts)")
        return self.sizes.index(n_experts)

    def moe_layers(self) -> list[ElasticMoE]:
        """Return every elastic layer, in the order of the modules."""
        return [module for module in self.modules() if isinstance(module, ElasticMoE)]

    def active_parameters(self, n_experts: int) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that a pass of this size uses, by name, in a fixed order. No others may change."""
        tier = self.tier(n_experts)
        idle = {
            id(parameter)
            for layer in self.moe_layers()
            for part in (*layer.tiers[tier + 1 :], *(r for number, r in enumerate(layer.routers) if number != tier))
            for parameter in part.parameters()
        }
        return [(name, parameter) for name, parameter in self.named_parameters() if id(parameter) not in idle]

    def parameter_counts(self, n_experts: int) -> dict[str, int]:
        """Return the parameters of a deployed model of this size: `total` stored, and `active` for one frame (K of N).

        What only training uses (intermediate decoders, the embedding network's CTC head) does not count.
        """
        total = sum(
            parameter.numel()
            for name, parameter in self.active_parameters(n_experts)
            if not name.startswith(TRAINING_ONLY)
        )
        idle = 0
        for layer in self.moe_layers():
            if not layer.name.startswith("extra_"):
                smallest: Experts = layer.tiers[0]  # type: ignore[assignment]
                one = sum(parameter[0].numel() for parameter in smallest.parameters())
                idle += one * (n_experts - layer.top_k)
        return {"total": total, "active": total - idle}

    def pruned(self, n_experts: int) -> SpeechModel:
        """Return a model of one size, which is what is deployed.

        It has the shared experts, the group's experts and its router, and nothing else.
        """
        tier = self.tier(n_experts)
        settings = replace(self.settings, extra_decoders=0)
        if n_experts:
            width = self.settings.expert_width()
            alone = replace(self.settings.moe, experts=[n_experts], group_weights=[], sampling="step")
            settings = replace(settings, moe=replace(alone, expert_width=width, dispatch="auto"))
        small = SpeechModel(settings, self.vocabulary)
        small.load_state_dict(self._pruned_state(tier))
        return small.train(self.training)

    def _pruned_state(self, tier: int) -> dict[str, Tensor]:
        layers = {name: module for name, module in self.named_modules() if isinstance(module, ElasticMoE)}
        state = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("extra_") and not any(name.startswith(f"{layer}.") for layer in layers)
        }
        for name, layer in layers.items():
            if name.startswith("extra_"):
                continue
            if layer.shared is not None:
                state |= {f"{name}.shared.{key}": tensor for key, tensor in layer.shared.state_dict().items()}
            stacks = [stack.state_dict() for stack in layer.active_tiers(tier)]
            state |= {f"{name}.tiers.0.{key}": torch.cat([stack[key] for stack in stacks]) for key in stacks[0]}
            state[f"{name}.routers.0.weight"] = cast(Tensor, layer.routers[tier].weight).detach()
            if (bias_N := layer.selection_bias(tier)) is not None:
                state[f"{name}.selection_bias_0"] = bias_N
        return state

    def _embed(self, features_BF80: Tensor, lengths_B: Tensor, routing: Routing, chunk: Chunk | None) -> Tensor | None:
        if self.embedding_network is None:
            return None
        embedding_BSD, _, _ = self.embedding_network(features_BF80, lengths_B, Routing(0), chunk=chunk)
        # Routers only look at it: it learns from its own CTC loss alone, as in the authors' code.
        routing.embedding_BTD = embedding_BSD.detach()
        return self.embedding_ctc(embedding_BSD)

    def _no_embedding(self, inputs_BL: Tensor) -> Tensor:
        # 3M's experts live in the encoder; where a decoder has some, there is no acoustic frame per token to show the
        # router.
        return torch.zeros(*inputs_BL.shape, self.settings.d_model, device=inputs_BL.device)
