"""Chunks of frames: what an encoder may look at that answers while somebody is still speaking (U2, Zhang et al. 2020).

    |  chunk 0  |  chunk 1  |  chunk 2  |        a frame sees its own chunk, and of the chunks before it `left` or all
     features ──Encoder.chunk──> encoded          one at a time; EncoderCache holds what the next one looks back to

Chunk by chunk with caches gives what one pass over the whole under `visible` gives. In training a chunk's size is
drawn for every micro-batch, so that one model works at any size, and on the whole as well (dynamic chunks: U2, and
U2++, Wu et al. 2021).

Shapes: B clips, S encoder frames of 40 ms, P frames kept of those before, H heads, W width of a head, D model width,
k kernel of the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGEST = 25
"""Frames of the largest chunk that training draws: one second."""
FARTHEST = 100
"""Frames that training looks back from a chunk at most, where it does not look back to the beginning: four seconds."""


class Chunk(NamedTuple):
    """A Chunk says how far a frame sees."""

    frames: int
    """of 40 ms in a chunk"""
    left: int | None = None
    """chunks before its own; None: all"""

    @property
    def kept(self) -> int | None:
        """Return the frames that the next chunk looks back to; None: all."""
        return None if self.left is None else self.left * self.frames

    def visible(self, frames: int | Tensor, device: torch.device) -> Tensor:
        """Return where a frame may look, (S, S) bool: a row for every frame."""
        number_S = torch.arange(frames, device=device) // self.frames  # type: ignore[arg-type]
        back_SS = number_S.unsqueeze(1) - number_S
        return back_SS >= 0 if self.left is None else (back_SS >= 0) & (back_SS <= self.left)


def draw_chunk(seed: int, global_batch: int) -> Chunk | None:
    """Return the chunk that a micro-batch is trained with; None: the whole.

    Half of the micro-batches see the whole, the others chunks of 1 to `LARGEST` frames alike often, half of which look
    back to the beginning. It depends on the micro-batch's number alone, so on every worker and after every resume it is
    the same.
    """
    random = np.random.default_rng(np.random.SeedSequence([seed, 0x0C4, global_batch]))
    if random.random() < 0.5:
        return None
    frames = int(random.integers(1, LARGEST + 1))
    if random.random() < 0.5:
        return Chunk(frames)
    return Chunk(frames, int(random.integers(0, FARTHEST // frames + 1)))


@dataclass
class BlockCache:
    """A BlockCache is what one block keeps of the frames before a chunk."""

    key_BHPW: Tensor
    value_BHPW: Tensor
    convolution_BDP: Tensor
    """the k - 1 inputs of the depthwise convolution before the chunk, zeros before the first"""

    def look_back(self, key_BHSW: Tensor, value_BHSW: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the kept frames and of a chunk behind them. From now on all of them are kept."""
        self.key_BHPW = torch.cat([self.key_BHPW, key_BHSW], 2)
        self.value_BHPW = torch.cat([self.value_BHPW, value_BHSW], 2)
        return self.key_BHPW, self.value_BHPW

    def continue_convolution(self, x_BDS: Tensor) -> Tensor:
        """Return a chunk's inputs of the convolution behind the k - 1 before them. The last k - 1 are kept."""
        before = self.convolution_BDP.shape[2]
        x_BDS = torch.cat([self.convolution_BDP, x_BDS], 2)
        self.convolution_BDP = x_BDS[:, :, x_BDS.shape[2] - before :]
        return x_BDS


@dataclass
class EncoderCache:
    """An EncoderCache is what an encoder keeps between chunks."""

    blocks: list[BlockCache]
    frames: int | Tensor = 0
    """that were encoded before"""

    @staticmethod
    def empty(clips: int, layers: int, heads: int, d_model: int, kernel: int, like: Tensor) -> EncoderCache:
        """Return the cache before the first chunk, of the type and on the device of `like`."""
        attended = like.new_zeros(clips, heads, 0, d_model // heads)
        before = like.new_zeros(clips, d_model, kernel - 1)
        return EncoderCache([BlockCache(attended, attended, before) for _ in range(layers)])

    def keep(self, frames: int | None) -> None:
        """Forget all keys and values but those of the last `frames`; None: forget nothing."""
        if frames is None:
            return
        for block in self.blocks:
            first = max(block.key_BHPW.shape[2] - frames, 0)
            block.key_BHPW, block.value_BHPW = block.key_BHPW[:, :, first:], block.value_BHPW[:, :, first:]


@dataclass
class StreamCache:
    """A StreamCache is what the whole model keeps between chunks."""

    encoder: EncoderCache
    embedding: EncoderCache | None = None
    """of 3M's shared embedding network"""

    def keep(self, frames: int | None) -> None:
        """Forget all keys and values but those of the last `frames`; None: forget nothing."""
        for cache in (self.encoder, self.embedding):
            if cache is not None:
                cache.keep(frames)
