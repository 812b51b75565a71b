"""Learning rates, random choices of a step, and averaged weights: all functions of the step, so that nothing needs
restoring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_training.config import MoESettings, OptimizerSettings

MOMENTUM = 0.95
NEWTON_SCHULZ, ROUNDS = (3.4445, -4.7750, 2.0315), 5


def learning_rate(step: int, settings: OptimizerSettings, max_steps: int) -> float:
    """Of a step, counted from 0. The peak is reached at `warmup_steps`."""
    warmup = max(settings.warmup_steps, 1)
    rising = (step + 1) / warmup
    if rising < 1:
        return settings.learning_rate * rising
    if settings.schedule == "noam":
        return settings.learning_rate * math.sqrt(warmup / (step + 1))
    if settings.schedule == "cosine":
        done = min((step + 1 - warmup) / max(max_steps - warmup, 1), 1.0)
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate


def draw_group(seed: int, step: int, groups: tuple[int, ...], settings: MoESettings) -> int:
    """The group of a step: the same on every worker and after every resume, because it depends on seed and step
    alone.
    """
    weights = settings.group_weights or [2.0**index for index in range(len(groups))]
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    return int(generator.choice(groups, p=np.array(weights) / sum(weights)))


def seed_dropout(seed: int, global_batch: int) -> None:
    """Dropout of a micro-batch depends on its number, not on what this process did before, nor on how many workers
    there are.
    """
    mixed = np.random.SeedSequence([seed, 0x0D0, global_batch]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0] >> np.uint64(1)))


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices between layers and AdamW for the rest.

    Biases, norms and other vectors do not decay. A parameter without a gradient is left wholly alone.
    """
    orthogonal = set(map(id, _between(model))) if settings.name == "muon" else set()
    named = [(name, p) for name, p in model.named_parameters() if id(p) not in orthogonal]
    decayed = [p for name, p in named if _decays(name, p)]
    others = [p for name, p in named if not _decays(name, p)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    first, second = settings.betas
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(first, second), eps=1e-9)
    return Muon([p for p in model.parameters() if id(p) in orthogonal], adamw, settings) if orthogonal else adamw


def _decays(name: str, parameter: nn.Parameter) -> bool:
    last = name.rpartition(".")[2]
    return (
        parameter.ndim > 1 and not last.startswith("b_") and "bias" not in last
    )  # biases of experts and heads are matrices


def _between(model: nn.Module) -> Iterator[nn.Parameter]:
    """Weights from features to features: of linear layers, convolutions over all channels, and experts.

    Not those whose inputs are ids (embeddings) or whose outputs are logits (routers, and heads as wide as the
    vocabulary).
    """
    vocabulary = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 0)
    for name, module in model.named_modules():
        linear = isinstance(module, nn.Linear) and ".routers" not in name and module.out_features != vocabulary
        if linear or (isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1 < module.in_channels):
            yield module.weight  # type: ignore[misc]
    for name, parameter in model.named_parameters():
        if name.endswith("_EHD"):
            yield parameter


def _matrices(tensor: Tensor) -> Tensor:
    """[count, rows, columns]: experts (E, H, D) are E matrices, a convolution's kernel (D, C, ...) is one."""
    return tensor if tensor.ndim == 3 and tensor.shape[-1] > 1 else tensor.flatten(1).unsqueeze(0)


class Muon(torch.optim.Optimizer):
    """Momentum with all singular values brought near 1, in steps of AdamW's usual size, so both take one learning rate.

    Keller Jordan, "Muon" (2024); Liu et al., "Muon is scalable for LLM training" (arXiv:2502.16982). torch has it from
    2.9 on.
    """

    def __init__(self, matrices: list[nn.Parameter], adamw: torch.optim.AdamW, settings: OptimizerSettings) -> None:
        super().__init__(matrices, {"lr": settings.learning_rate, "weight_decay": settings.weight_decay})
        self.adamw, self.matrices = adamw, list(self.param_groups)
        adamw.state = (
            self.state
        )  # one state by parameter, one list of groups: to the training loop this is one optimiser
        self.param_groups.extend(adamw.param_groups)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.adamw.step()
        for group in self.matrices:
            moved = [p for p in group["params"] if p.grad is not None]
            updates = [self._momentum(p) for p in moved]
            for parameter, update in zip(moved, _orthogonal(updates), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * 0.2 * max(update.shape[1:]) ** 0.5)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].mul_(MOMENTUM).add_(parameter.grad)
        return _matrices(parameter.grad.add(momentum, alpha=MOMENTUM))


def _orthogonal(updates: list[Tensor]) -> list[Tensor]:
    """Newton-Schulz iteration on each matrix of each [count, rows, columns], all of one shape together."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, update in enumerate(updates):
        alike.setdefault(tuple(update.shape[1:]), []).append(place)
    out = list(updates)
    a, b, c = NEWTON_SCHULZ
    for (rows, columns), places in alike.items():
        x = torch.cat([updates[place] for place in places])
        y = (x.mT if rows > columns else x).bfloat16()
        y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(ROUNDS):
            gram = y @ y.mT
            y = a * y + (b * gram + c * (gram @ gram)) @ y
        solved = (y.mT if rows > columns else y).to(x.dtype)
        for place, part in zip(places, solved.split([len(updates[place]) for place in places]), strict=True):
            out[place] = part.contiguous()
    return out


class Averaged:
    """Exponential moving average of the weights, float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().float().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        state = model.state_dict()
        torch._foreach_lerp_(
            list(self.weights.values()), [state[name].float() for name in self.weights], 1 - self.decay
        )

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
