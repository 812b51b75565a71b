"""The adaptor: from encoder frames of 20 ms to embeddings of the language model, four times fewer.

    encoded [B, S, D] ──3 convolutions (kernel 3, strides 1, 2, 2)──> ──4 Transformer layers──> linear ──> [B, S/4, W]

Nothing behind a clip's end is seen: it is zero before every convolution, and hidden from attention.
Source: OSUM section 3.1, "Adaptor". Shapes: B clips, S frames, D width of the encoder, H width inside, W of the LLM.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.osum.parts.whisper import within
from model_training.osum.settings import AdaptorSettings

_KERNEL = 3


class Adaptor(nn.Module):
    """An Adaptor fits an encoder of width `encoder_width` to a language model of width `llm_width`."""

    def __init__(self, settings: AdaptorSettings, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        widths = [encoder_width, *[settings.width] * len(settings.strides)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, _KERNEL, stride, padding=_KERNEL // 2)
            for before, after, stride in zip(widths, widths[1:], settings.strides)
        )
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.out = nn.Linear(settings.width, llm_width)

    @torch.no_grad()
    def fit_to(self, embeddings_VW: Tensor) -> None:
        """Scale the output to be as large as the language model's own embeddings, which its layers expect."""
        size = float(embeddings_VW.float().square().mean().sqrt())
        self.out.weight.normal_(0, size / self.out.in_features**0.5)
        self.out.bias.zero_()

    def forward(self, x_BSD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings [B, T, W] and how many each clip has."""
        x_BDS = x_BSD.transpose(1, 2)
        for convolution in self.convolutions:
            x_BDS = F.gelu(convolution(x_BDS * within(lengths_B, x_BDS.shape[2]).unsqueeze(1)))
            lengths_B = (lengths_B - 1) // convolution.stride[0] + 1  # type: ignore[operator, index]
        x_BTH = x_BDS.transpose(1, 2)
        keep_BT = within(lengths_B, x_BTH.shape[1])
        mask = torch.zeros_like(keep_BT, dtype=x_BTH.dtype).masked_fill(~keep_BT, -1e9)[:, None, None, :]
        for layer in self.layers:
            x_BTH = layer(x_BTH, mask)
        return self.out(self.norm(x_BTH)), lengths_B


class _Layer(nn.Module):
    """Self-attention and feed-forward, each behind a norm."""

    def __init__(self, settings: AdaptorSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.dropout = settings.heads, settings.dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, settings.inner), nn.Linear(settings.inner, width)

    def forward(self, x_BTH: Tensor, mask: Tensor) -> Tensor:
        batch, frames, width = x_BTH.shape
        qkv = self.qkv(self.attention_norm(x_BTH)).view(batch, frames, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
        seen_BTH = self.attention_out(seen.transpose(1, 2).reshape(batch, frames, width))
        x_BTH = x_BTH + F.dropout(seen_BTH, self.dropout, self.training)
        inner = F.dropout(F.gelu(self.inner(self.forward_norm(x_BTH))), self.dropout, self.training)
        return x_BTH + F.dropout(self.outer(inner), self.dropout, self.training)
