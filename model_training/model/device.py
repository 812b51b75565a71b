"""Which device, in which precision, and how tensors get there without a wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from operators.errors import UserError


def pick_device(name: str) -> torch.device:
    """Return the device of a name: auto, cpu, cuda or cuda:1; under torchrun, cuda is the worker's own.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"no CUDA device here, and {name} was asked for: say cpu, or auto")
        device = torch.device(name if ":" in name else f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"no device {device} here: there are {torch.cuda.device_count()}, counted from cuda:0")
        torch.cuda.set_device(device)
        return device
    if name != "cpu":
        raise UserError(f"no device is called {name}: say auto, cpu, cuda, or cuda:1")
    return torch.device(name)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where it is asked for, or where `auto` finds the hardware for it; None is float32."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            precision = "bf16" if fast else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def evaluation_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return what a model is judged in: what it trains in, but `auto` is float32 on a CPU, so that no number moves."""
    return None if precision == "auto" and device.type == "cpu" else autocast_dtype(precision, device)


def use_tf32(wanted: bool) -> None:
    """Let products of float32 on a GPU use its tensor cores, which read 10 bits of each factor's mantissa.

    torch's own choice is no for products and yes for convolutions. A CPU is left alone.
    """
    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 in float32, whatever `use_tf32` said: where a rounded product changes a choice."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device. On the way to a GPU nobody waits: it is copied from memory that stays in place.

    From memory that may be paged out CUDA copies only while the program waits.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
