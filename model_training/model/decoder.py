"""The attention decoder, whole sequences at once or one token at a time.

    inputs_BL ──embedding + sinusoids──> [self-attention, attention to the encoder, feed-forward] x layers ──>
    logits_BLV

Shapes: B sequences, L tokens, S encoder frames, D model width, V vocabulary, H heads.

A right-to-left decoder (U2++: Wu et al. 2021) is the same on sequences whose content `turned` has put the other way
round: task and attributes stay where they are, so that both decoders are asked the same.

With a `Cache` a call adds tokens to what was decoded before and costs no more than they: keys and values of earlier
tokens, and those of the encoder, are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.config import ModelSettings
from model_training.model.conformer import MakeFFN, sinusoids
from model_training.model.device import to_device
from model_training.model.router import Routing


def turned(ids_BL: Tensor, content_B2: Tensor) -> Tensor:
    """Return sequences (B, L) with the places from content[0] to before content[1] in opposite order."""
    place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    first_B1, end_B1 = content_B2.unsqueeze(-1).unbind(1)
    inside_BL = (place_L >= first_B1) & (place_L < end_B1)
    return ids_BL.gather(1, torch.where(inside_BL, first_B1 + end_B1 - 1 - place_L, place_L))


@dataclass
class Cache:
    """A Cache holds keys and values per layer, (B, H, L or S, W)."""

    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    encoder: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __len__(self) -> int:
        return self.own[0][0].shape[2] if self.own else 0

    def pick(self, rows_B: Tensor) -> Cache:
        """Return the same rows in another order, once or more often: what a beam does."""
        return Cache(
            [(key[rows_B], value[rows_B]) for key, value in self.own],
            [(key[rows_B], value[rows_B]) for key, value in self.encoder],
        )


class Attention(nn.Module):
    """An Attention is one whose keys and values are computed apart, so that they can be kept."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)

    def heads_apart(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, D) as (B, H, L, W)."""
        return x_BLD.view(x_BLD.shape[0], x_BLD.shape[1], self.heads, -1).transpose(1, 2)

    def keys(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of what can be looked at, (B, H, L, W) each."""
        return self.heads_apart(self.key(x_BLD)), self.heads_apart(self.value(x_BLD))

    def forward(self, x_BLD: Tensor, key_BHSW: Tensor, value_BHSW: Tensor, mask: Tensor | None) -> Tensor:
        """Return what every token gathers (B, L, D). `mask`: true where it may look, broadcast to (B, H, L, S)."""
        attended_BHLW = F.scaled_dot_product_attention(
            self.heads_apart(self.query(x_BLD)),
            key_BHSW,
            value_BHSW,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended_BHLW.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A Layer is what one layer of the decoder holds; `Decoder.forward` computes it."""

    def __init__(self, settings: ModelSettings, ffn: nn.Module) -> None:
        super().__init__()
        self.own = Attention(settings.d_model, settings.heads, settings.dropout)
        self.encoder = Attention(settings.d_model, settings.heads, settings.dropout)
        self.ffn = ffn
        self.norms = nn.ModuleList(nn.LayerNorm(settings.d_model) for _ in range(3))
        self.dropout = nn.Dropout(settings.dropout)


class Decoder(nn.Module):
    """A Decoder is embedding, layers and output of the attention decoder."""

    def __init__(self, settings: ModelSettings, layers: int, vocabulary: int, make_ffn: MakeFFN, name: str) -> None:
        super().__init__()
        self.d_model = settings.d_model
        self.embedding = nn.Embedding(vocabulary, settings.d_model)
        self.layers = nn.ModuleList(Layer(settings, make_ffn(f"{name}.{layer}")) for layer in range(layers))
        self.norm = nn.LayerNorm(settings.d_model)
        self.out = nn.Linear(settings.d_model, vocabulary)
        self.dropout = nn.Dropout(settings.dropout)
        nn.init.normal_(self.embedding.weight, std=settings.d_model**-0.5)

    def forward(
        self,
        encoded_BSD: Tensor | None,
        encoder_lengths_B: Tensor,
        inputs_BL: Tensor,
        routing: Routing,
        *,
        lengths_B: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the logits (B, L, V) of the token after each input.

        Args:
            encoded_BSD: needed unless the cache holds the encoder's keys already.
            lengths_B: of the inputs, so that padding is not routed to experts; None: no padding.
            cache: what earlier calls decoded; this call's tokens are added to it.
        """
        L = inputs_BL.shape[1]
        before = len(cache) if cache is not None else 0
        place_L = torch.arange(before, before + L, device=inputs_BL.device)
        x_BLD = self.embedding(inputs_BL) * math.sqrt(self.d_model) + sinusoids(place_L.float(), self.d_model)
        x_BLD = self.dropout(x_BLD)
        causal_LL = place_L.unsqueeze(1) >= torch.arange(before + L, device=inputs_BL.device)
        there_BL = None if lengths_B is None else place_L < to_device(lengths_B, x_BLD.device).unsqueeze(1)
        routing = replace(routing, mask_BT=there_BL, lengths_B=lengths_B)
        encoder_mask = None
        for number, layer in enumerate(cast(list[Layer], list(self.layers))):
            own_norm, encoder_norm, ffn_norm = layer.norms
            normed_BLD = own_norm(x_BLD)
            own = layer.own.keys(normed_BLD)
            if cache is not None and number < len(cache.own):
                own = tuple(torch.cat(pair, 2) for pair in zip(cache.own[number], own))  # type: ignore[assignment]
                cache.own[number] = own
            elif cache is not None:
                cache.own.append(own)
            x_BLD = x_BLD + layer.dropout(layer.own(normed_BLD, *own, causal_LL))
            if cache is not None and number < len(cache.encoder):
                keys = cache.encoder[number]
            else:
                assert encoded_BSD is not None, "no encoder output, and none in the cache"
                keys = layer.encoder.keys(encoded_BSD)
                if cache is not None:
                    cache.encoder.append(keys)
            if encoder_mask is None:
                frame_S = torch.arange(keys[0].shape[2], device=inputs_BL.device)
                encoder_mask = (frame_S < to_device(encoder_lengths_B, x_BLD.device).unsqueeze(1))[:, None, None]
            x_BLD = x_BLD + layer.dropout(layer.encoder(encoder_norm(x_BLD), *keys, encoder_mask))
            x_BLD = x_BLD + layer.dropout(layer.ffn(ffn_norm(x_BLD), routing))
        return self.out(self.norm(x_BLD))
