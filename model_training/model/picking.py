"""Some rows of many, and back to their places, by numbers that are known before: no scatter-add, and no wait for a GPU.

    x_TD ──pick(kept_K)──> x_KD ──layers──> y_KD ──put_back──> y_TD, zero elsewhere

A mask as an index gives as many rows as it has true places, so that a GPU must first say how many these are. The
gradient of rows picked once each is a copy into place; torch's own adds them up one after the other.

Shapes: T rows, K of them, D columns.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def pick(x_TD: Tensor, kept_K: Tensor) -> Tensor:
    """Return the rows at the places `kept_K` (K, D), none of them twice."""
    return cast(Tensor, _Pick.apply(x_TD, kept_K))


def put_back(y_KD: Tensor, kept_K: Tensor, rows: int) -> Tensor:
    """Return so many rows (T, D): `y_KD` at the places `kept_K`, zero elsewhere."""
    return cast(Tensor, _PutBack.apply(y_KD, kept_K, rows))


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, kept_K: Tensor) -> Tensor:
        ctx.save_for_backward(kept_K)
        ctx.rows = len(x_TD)
        return x_TD.index_select(0, kept_K)

    @staticmethod
    def backward(ctx: Any, grad_KD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (kept_K,) = ctx.saved_tensors
        return grad_KD.new_zeros(ctx.rows, grad_KD.shape[1]).index_copy_(0, kept_K, grad_KD), None


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_KD: Tensor, kept_K: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(kept_K)
        return y_KD.new_zeros(rows, y_KD.shape[1]).index_copy_(0, kept_K, y_KD)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (kept_K,) = ctx.saved_tensors
        return grad_TD.index_select(0, kept_K), None, None
