"""Muon for the weights between layers, AdamW for the rest: a third to a quarter of AdamW's steps to the same loss.

    gradient of a matrix ──momentum──> Newton-Schulz: all singular values near 1 ──> step of AdamW's usual size

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024); scaled to AdamW's step size as in Liu
et al., "Muon is scalable for LLM training" (arXiv:2502.16982), so that both take one learning rate. torch has it from
2.9 on; whisperX holds torch at 2.8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for parameters of two or more dimensions; all but the first are taken together."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(momentum, alpha=group["momentum"]).flatten(1)
                alike[tuple(update.shape)].append((parameter, update))  # type: ignore[index]
            for shape, pairs in alike.items():
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for (parameter, _), update in zip(pairs, orthogonal(torch.stack([u for _, u in pairs])), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=-size)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """[batch, rows, columns] with the same singular vectors and singular values near 1 (0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[1] > x.shape[2]
    y = (x.mT if tall else x).bfloat16()
    y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = y @ y.mT
        y = a * y + (b * gram + c * (gram @ gram)) @ y
    return (y.mT if tall else y).to(x.dtype)


def optimisers(
    model: torch.nn.Module, output: torch.nn.Module, head: torch.nn.Module, lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the linear layers and convolutions of `model` but for its `output` layer; AdamW for everything else and
    `head`.
    """
    layers = [
        m for m in model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv1d)) and getattr(m, "groups", 1) == 1
    ]
    hidden = [m.weight for m in layers if m is not output and m.weight.requires_grad]
    chosen = set(map(id, hidden))
    rest = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad and id(p) not in chosen]
    return [Muon(hidden, lr=lr), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]
