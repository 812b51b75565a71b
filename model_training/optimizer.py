"""Learning rates, random choices of a step, and averaged weights: all functions of the step, so that nothing needs restoring."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from model_training.config import MoESettings, OptimizerSettings


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
    """The group of a step: the same on every worker and after every resume, because it depends on seed and step alone."""
    weights = settings.group_weights or [2.0**index for index in range(len(groups))]
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    return int(generator.choice(groups, p=np.array(weights) / sum(weights)))


def seed_dropout(seed: int, global_batch: int) -> None:
    """Dropout of a micro-batch depends on its number, not on what this process did before, nor on how many workers there are."""
    mixed = np.random.SeedSequence([seed, 0x0D0, global_batch]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0] >> np.uint64(1)))


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; biases, norms and other vectors do not decay. A parameter without a gradient is left wholly alone."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    first, second = settings.betas
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(first, second), eps=1e-9)


class Averaged:
    """Exponential moving average of the weights, float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().float().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        state = model.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [state[name].float() for name in self.weights], 1 - self.decay)

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
