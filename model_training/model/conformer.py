"""The Conformer encoder: macaron feed-forward, relative attention, convolution, feed-forward (Gulati et al. 2020).

    features_BF80 ──2 strided convolutions, 1/4 of the frames──> x_BSD ──blocks──> encoded_BSD, and after which depths
    asked for

Shapes: B clips, F feature frames of 10 ms, S frames of 40 ms, K frames that are looked at (S, and those in a cache), D
model width, H heads, R distances or places.

What lies behind a clip's end never reaches a frame inside it: outputs of the sub-sampling that would touch padding are
cut, and attention and convolution are masked. A clip's encoding therefore does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model_training.config import ModelSettings
from model_training.model.chunks import BlockCache, Chunk, EncoderCache
from model_training.model.device import to_device
from model_training.model.experts import FeedForward
from model_training.model.moe import ElasticMoE
from model_training.model.router import Routing

BINS = 80
MIN_FRAMES = 7  # feature frames that give one encoder frame

MakeFFN = Callable[[str], nn.Module]


def subsampled(lengths: Tensor) -> Tensor:
    """Return the encoder frames of so many feature frames: those whose receptive field of 7 lies inside."""
    return torch.clamp(((lengths - 1) // 2 - 1) // 2, min=0)


class Subsampling(nn.Module):
    """A Subsampling is two 3x3 convolutions of stride 2, from frames of 10 ms to frames of 40 ms."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, d_model, 3, 2), nn.ReLU(), nn.Conv2d(d_model, d_model, 3, 2), nn.ReLU()
        )
        self.out = nn.Linear(d_model * (((BINS - 1) // 2 - 1) // 2), d_model)

    def forward(self, features_BF80: Tensor) -> Tensor:
        # These strides mean channels last: otherwise a CPU spends half of the convolutions' time on laying their inputs
        # out again
        x_BDSW = self.convolutions(features_BF80.unsqueeze(-1).permute(0, 3, 1, 2))
        return self.out(x_BDSW.transpose(1, 2).flatten(2))


class RelativeAttention(nn.Module):
    """A RelativeAttention is self-attention with relative positions (Transformer-XL, Dai et al. 2019).

    Args:
        by_distance: false: scores go by the place of the frame that is looked at, as in WeNet, not by its distance.
    """

    def __init__(self, d_model: int, heads: int, dropout: float, by_distance: bool = True) -> None:
        super().__init__()
        self.by_distance = by_distance
        self.heads, self.width, self.dropout = heads, d_model // heads, dropout
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        self.position = nn.Linear(d_model, d_model, bias=False)
        self.content_bias_HW = nn.Parameter(torch.zeros(heads, self.width))
        self.position_bias_HW = nn.Parameter(torch.zeros(heads, self.width))

    def forward(
        self, x_BSD: Tensor, positions_RD: Tensor, mask_BSS: Tensor | None, cache: BlockCache | None = None
    ) -> Tensor:
        """Return what every frame gathers from the others (B, S, D).

        Args:
            positions_RD: encodings of the distances K-1 ... -(S-1); without `by_distance` of the K frames' places.
            mask_BSS: true where a frame may look; B1S will do. None: everywhere.
            cache: of the frames before these.
        """
        B, S, _ = x_BSD.shape
        query_BSHW, key_BSHW, value_BSHW = (
            part(x_BSD).view(B, S, self.heads, self.width) for part in (self.query, self.key, self.value)
        )
        position_HWR = self.position(positions_RD).view(-1, self.heads, self.width).permute(1, 2, 0)
        key_BHKW, value_BHKW, keys = key_BSHW.transpose(1, 2), value_BSHW.transpose(1, 2), S
        if cache is not None:
            key_BHKW, value_BHKW = cache.look_back(key_BHKW, value_BHKW)
            keys = key_BHKW.shape[2]
        scale = self.width**-0.5
        by_position_BHSR = torch.matmul((query_BSHW + self.position_bias_HW).transpose(1, 2), position_HWR)
        bias_BHSK = (_shift(by_position_BHSR, keys) if self.by_distance else by_position_BHSR) * scale
        if mask_BSS is not None:
            bias_BHSK = bias_BHSK.masked_fill(~mask_BSS.unsqueeze(1), torch.finfo(bias_BHSK.dtype).min)
        attended_BHSW = F.scaled_dot_product_attention(
            (query_BSHW + self.content_bias_HW.to(query_BSHW.dtype)).transpose(1, 2),
            key_BHKW,
            value_BHKW,
            attn_mask=bias_BHSK,
            dropout_p=self.dropout if self.training else 0.0,
            scale=scale,
        )
        return self.out(attended_BHSW.transpose(1, 2).reshape(B, S, -1))


def _shift(scores_BHSR: Tensor, keys: int | Tensor) -> Tensor:
    """Turn scores by distance, R = K + S - 1, into scores by frame, K: row i keeps the distances K-S+i ... i-S+1."""
    B, H, S, R = scores_BHSR.shape
    padded = F.pad(scores_BHSR, (1, 0)).view(B, H, R + 1, S)[:, :, 1:]
    return padded.reshape(B, H, S, R)[..., :keys]


def relative_positions(length: int | Tensor, d_model: int, like: Tensor, looking: int | Tensor | None = None) -> Tensor:
    """Return the sinusoids of the distances length-1 ... -(looking-1), float32, a row each.

    They are those of the last `looking` of `length` frames to all of them; the default is all: 2 length - 1 rows.
    """
    nearest = -length if looking is None else -looking
    distance = torch.arange(length - 1, nearest, -1, device=like.device, dtype=torch.float32)  # type: ignore[arg-type]
    return sinusoids(distance, d_model)


def sinusoids(position_P: Tensor, d_model: int) -> Tensor:
    """Return sine and cosine of every position at D/2 frequencies, interleaved: (P, D), float32."""
    frequency = torch.exp(
        torch.arange(0, d_model, 2, device=position_P.device).float() * (-math.log(10_000.0) / d_model)
    )
    angle = position_P.unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class ConvolutionModule(nn.Module):
    """A ConvolutionModule is a gated pointwise convolution, then depthwise over time.

    LayerNorm, since BatchNorm's statistics would tie the clips of a batch together.
    """

    def __init__(self, d_model: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, 2 * d_model)
        self.padding = (kernel - 1, 0) if causal else ((kernel - 1) // 2, (kernel - 1) // 2)
        self.depthwise = nn.Conv1d(d_model, d_model, kernel, groups=d_model)
        self.norm = nn.LayerNorm(d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor | None, cache: BlockCache | None = None) -> Tensor:
        """Return the module's answer (B, S, D). A cache, which takes a causal module, replaces mask and padding."""
        x_BSD = F.glu(self.gate(x_BSD), -1)
        if mask_BS is not None:
            x_BSD = x_BSD.masked_fill(~mask_BS.unsqueeze(-1), 0.0)
        x_BDS = x_BSD.transpose(1, 2)
        x_BDS = self.depthwise(F.pad(x_BDS, self.padding) if cache is None else cache.continue_convolution(x_BDS))
        return self.out(F.silu(self.norm(x_BDS.transpose(1, 2))))


class Block(nn.Module):
    """A Block is one Conformer block: half a feed-forward, attention, convolution, half a feed-forward, norm."""

    def __init__(self, settings: ModelSettings, first_ffn: nn.Module, second_ffn: nn.Module) -> None:
        super().__init__()
        d_model = settings.d_model
        self.first_ffn, self.second_ffn = first_ffn, second_ffn
        by_distance = settings.encoder != "wenet"
        self.attention = RelativeAttention(d_model, settings.heads, settings.dropout, by_distance)
        self.convolution = ConvolutionModule(d_model, settings.kernel, settings.causal)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(5))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(
        self,
        x_BSD: Tensor,
        positions_RD: Tensor,
        mask_BSS: Tensor | None,
        mask_BS: Tensor | None,
        routing: Routing,
        cache: BlockCache | None = None,
    ) -> Tensor:
        first, attention, convolution, second, last = self.norms
        x_BSD = x_BSD + 0.5 * self.dropout(self.first_ffn(first(x_BSD), routing))
        x_BSD = x_BSD + self.dropout(self.attention(attention(x_BSD), positions_RD, mask_BSS, cache))
        x_BSD = x_BSD + self.dropout(self.convolution(convolution(x_BSD), mask_BS, cache))
        x_BSD = x_BSD + 0.5 * self.dropout(self.second_ffn(second(x_BSD), routing))
        return last(x_BSD)


class Encoder(nn.Module):
    """An Encoder is sub-sampling and blocks.

    Args:
        make_ffn, make_dense: make a routed and a plain feed-forward block of a name.
        place: which feed-forward blocks are routed, as `model.moe.ffn` says it.
        name: the beginning of the blocks' names.
    """

    def __init__(
        self, settings: ModelSettings, layers: int, make_ffn: MakeFFN, make_dense: MakeFFN, place: str, name: str
    ) -> None:
        super().__init__()
        self.settings = settings
        self.subsampling = Subsampling(settings.d_model)
        self.dropout = nn.Dropout(settings.dropout)
        blocks = []
        for layer in range(layers):
            first = make_ffn if place == "all" else make_dense
            second = make_dense if place == "none" else make_ffn
            blocks.append(Block(settings, first(f"{name}.{layer}.first"), second(f"{name}.{layer}.second")))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(settings.d_model) if settings.encoder == "wenet" else None
        self.recompute = False
        """Whether blocks keep nothing for the way back, and are computed again there."""

    def forward(
        self,
        features_BF80: Tensor,
        lengths_B: Tensor,
        routing: Routing,
        taps: tuple[int, ...] = (),
        chunk: Chunk | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode normalised features (B, F, 80), whose lengths are in feature frames; by chunks where one is given.

        Lengths that lie on the CPU, whatever the device, spare the program a wait for it.

        Returns: encoded (B, S, D); lengths in encoder frames, where they lay; encodings after the blocks that `taps`
        counts, of which 0 is the sub-sampling.
        """
        x_BSD = self.subsampling(features_BF80)
        lengths_B = subsampled(lengths_B)
        S = x_BSD.shape[1]
        x_BSD = self.dropout(x_BSD * math.sqrt(self.settings.d_model))
        frame_S = torch.arange(S, device=x_BSD.device)
        mask_BS = frame_S < to_device(lengths_B, x_BSD.device).unsqueeze(1)
        mask_BSS = mask_BS.unsqueeze(1)
        if chunk is not None:
            mask_BSS = mask_BSS & chunk.visible(S, x_BSD.device)
        elif self.settings.causal and not self.settings.dynamic_chunks:
            mask_BSS = mask_BSS & (frame_S.unsqueeze(1) >= frame_S)
        if self.norm is None:
            positions_RD = relative_positions(S, self.settings.d_model, x_BSD)
        else:
            positions_RD = sinusoids(frame_S.float(), self.settings.d_model)
        # Its own, since a block that is computed again must find what it found before; the loads are the pass's.
        routing = replace(routing, mask_BT=mask_BS, lengths_B=lengths_B)
        tapped = [x_BSD] if 0 in taps else []
        for number, block in enumerate(self.blocks, 1):
            seen = (x_BSD, positions_RD, mask_BSS, mask_BS, routing)
            again = self.recompute and torch.is_grad_enabled()
            x_BSD = checkpoint(block, *seen, use_reentrant=False) if again else block(*seen)
            if number in taps:
                tapped.append(x_BSD)
        return x_BSD if self.norm is None else self.norm(x_BSD), lengths_B, tapped

    def chunk(
        self, features_BF80: Tensor, routing: Routing, cache: EncoderCache, taps: tuple[int, ...] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the next chunk's encoding (B, S, D), and those at `taps`, as `forward` does.

        Its frames see each other and those in the cache, which grows.

        The features are the chunk's own, 4 S frames, and the 3 behind them, with which the next chunk begins.
        """
        d_model = self.settings.d_model
        x_BSD = self.dropout(self.subsampling(features_BF80) * math.sqrt(d_model))
        S, kept = x_BSD.shape[1], cache.blocks[0].key_BHPW.shape[2]
        if self.norm is None:
            positions_RD = relative_positions(kept + S, d_model, x_BSD, S)
        else:
            place_K = torch.arange(kept + S, device=x_BSD.device) + (cache.frames - kept)
            positions_RD = sinusoids(place_K.float(), d_model)
        tapped = [x_BSD] if 0 in taps else []
        for number, (block, block_cache) in enumerate(zip(self.blocks, cache.blocks, strict=True), 1):
            x_BSD = block(x_BSD, positions_RD, None, None, routing, block_cache)
            if number in taps:
                tapped.append(x_BSD)
        cache.frames = cache.frames + S
        return x_BSD if self.norm is None else self.norm(x_BSD), tapped


def make_ffns(settings: ModelSettings) -> tuple[MakeFFN, MakeFFN]:
    """Return what makes a routed feed-forward block by its name, and what makes a plain one."""

    def dense(name: str) -> nn.Module:
        return FeedForward(settings.d_model, settings.d_ff, settings.dropout)

    def routed(name: str) -> nn.Module:
        return ElasticMoE(name, settings.d_model, settings.expert_width(), settings.moe, settings.expert_dropout())

    return (dense if settings.moe.ffn == "none" else routed), dense
