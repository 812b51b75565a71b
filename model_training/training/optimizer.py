"""How weights move: learning rates, random choices of a step, AdamW and Muon, averaged weights.

Rates and choices are functions of the step, so that nothing of them needs restoring.

Shapes: E experts (or 1) of a parameter, R rows and C columns of each of its matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_training.config import MoESettings, OptimizerSettings
from model_training.model.router import Router
from model_training.training.sharding import alike, is_sharded

MOMENTUM = 0.95
NEWTON_SCHULZ, ROUNDS = (3.4445, -4.7750, 2.0315), 5


def learning_rate(step: int, settings: OptimizerSettings, max_steps: int) -> float:
    """Return the learning rate of step `step`, counted from 0. The peak is reached at `warmup_steps`."""
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


def draw_n_experts(seed: int, number: int, sizes: tuple[int, ...], settings: MoESettings) -> int:
    """Return the number of routed experts that step `number`, or micro-batch `number`, trains.

    It is the same on every worker and after every resume, because it depends on seed and number alone. A step of one
    micro-batch has its number.
    """
    weights = settings.group_weights or [2.0**tier for tier in range(len(sizes))]
    return _draw(seed, number, sizes, weights)


def draw_sandwich(seed: int, step: int, sizes: tuple[int, ...], settings: MoESettings) -> tuple[int, ...]:
    """Return the sizes that a step trains by the sandwich rule: the largest, one drawn between, the smallest.

    Yu and Huang 2019 (Universally slimmable networks and improved training techniques), section 3.2. Two sizes have
    none between.
    """
    between = sizes[1:-1]
    weights = settings.group_weights[1:-1] or [2.0**tier for tier in range(len(between))]
    drawn = (_draw(seed, step, between, weights),) if between else ()
    return (sizes[-1], *drawn, sizes[0])


def _draw(seed: int, number: int, sizes: tuple[int, ...], weights: list[float]) -> int:
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    return int(generator.choice(sizes, p=np.array(weights) / sum(weights)))


def seed_dropout(seed: int, global_batch: int) -> None:
    """Seed torch's dropout for a micro-batch.

    It then depends on the micro-batch's number, not on what this process did before, nor on how many workers there are.
    """
    mixed = np.random.SeedSequence([seed, 0x0D0, global_batch]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0] >> np.uint64(1)))


def make_optimizer(
    model: nn.Module, settings: OptimizerSettings, scale_of: Callable[[str], float] = lambda _: 1.0
) -> torch.optim.Optimizer:
    """Return AdamW, or Muon for the matrices between layers and AdamW for the rest.

    Biases, norms and other vectors do not decay. A parameter without a gradient is left wholly alone, and a frozen one
    is not the optimiser's. `scale_of` gives a parameter's factor of the learning rate by its name.
    """
    between = {id(p) for p in _between(model) if p.requires_grad} if settings.name == "muon" else set()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    named = [(name, p) for name, p in trained if id(p) not in between]
    decayed = [(name, p) for name, p in named if decays(name, p)]
    others = [(name, p) for name, p in named if not decays(name, p)]
    groups = _by_scale(decayed, scale_of, settings.weight_decay) + _by_scale(others, scale_of, 0.0)
    first, second = settings.betas
    rate, decay = settings.learning_rate, settings.weight_decay
    matrices = _by_scale([(name, p) for name, p in trained if id(p) in between], scale_of, decay)
    stacks = [p for name, p in model.named_parameters() if _is_stack(name)]
    if not groups:  # all else is frozen
        return Muon(matrices, lr=rate, weight_decay=decay, stacks=stacks)
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(first, second), eps=1e-9, fused=_can_fuse(named) or None)
    adamw.register_step_post_hook(_say_moved)
    if not matrices:
        return adamw
    return MuonAndAdamW(matrices, adamw, lr=rate, weight_decay=decay, stacks=stacks)


def _can_fuse(named: Iterable[tuple[str, nn.Parameter]]) -> bool:
    """Say whether one native loop may move these parameters: on a CPU it takes a quarter of the time.

    It rounds elsewhere than the loop over operations does, by some 1e-7 of a weight a step. Elsewhere than on a CPU the
    step counts would have to lie on the device, and torch's own choice is quick there.
    """
    return all(p.device.type == "cpu" and p.is_floating_point() and not is_sharded(p) for _, p in named)


def _say_moved(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Count the weights' versions up: the native loop does not, and what was made of the old ones must not be used."""
    moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch.autograd.graph.increment_version(moved)


def _by_scale(
    named: Iterable[tuple[str, nn.Parameter]], scale_of: Callable[[str], float], weight_decay: float
) -> list[dict[str, Any]]:
    """Return groups of parameters with one factor of the learning rate each, in the order of their first."""
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in named:
        scale = scale_of(name)
        group = groups.setdefault(scale, {"params": [], "weight_decay": weight_decay, "scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def decays(name: str, parameter: nn.Parameter) -> bool:
    last = name.rpartition(".")[2]
    # biases of experts and heads are matrices
    return parameter.ndim > 1 and not last.startswith("b_") and "bias" not in last


def _is_stack(name: str) -> bool:
    return name.endswith("_EHD")  # experts, one matrix each


def _between(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the weights from features to features: of linear layers, convolutions over all channels, and experts.

    Not those whose inputs are ids (embeddings) or whose outputs are logits (routers, and heads as wide as the
    vocabulary).
    """
    vocabulary = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 0)
    for module in model.modules():
        linear = isinstance(module, nn.Linear) and not isinstance(module, Router) and module.out_features != vocabulary
        if linear or (isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1 < module.in_channels):
            yield module.weight  # type: ignore[misc]
    for name, parameter in model.named_parameters():
        if _is_stack(name):
            yield parameter


class Muon(torch.optim.Optimizer):
    """A Muon is momentum with all singular values brought near 1, in steps of AdamW's usual size, so both take one
    learning rate.

    Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024); scaled as in Liu et al., "Muon is
    scalable for LLM training" (arXiv:2502.16982). torch has it from 2.9 on.

    Args:
        matrices: parameters of two or more dimensions, or groups of them. All dimensions but the first are columns of
            one matrix.
        stacks: those of `matrices` that hold several matrices (E, R, C).
    """

    def __init__(
        self,
        matrices: list[nn.Parameter] | list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.01,
        stacks: Iterable[nn.Parameter] = (),
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self._stacks = set(map(id, stacks))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        self._move(self.param_groups)

    @torch.no_grad()
    def _move(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            moved = [p for p in group["params"] if p.grad is not None]
            updates = [self._momentum(p) for p in moved]
            for parameter, update_ERC in zip(moved, orthogonal(updates), strict=True):
                size = group["lr"] * 0.2 * max(update_ERC.shape[1:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update_ERC.view_as(parameter), alpha=-size)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].mul_(MOMENTUM).add_(parameter.grad)
        update = parameter.grad.add(momentum, alpha=MOMENTUM)
        return update if id(parameter) in self._stacks else update.flatten(1).unsqueeze(0)


class MuonAndAdamW(Muon):
    """A MuonAndAdamW is Muon for some parameters and AdamW for others, with one state by parameter and one list of
    groups.

    To the training loop this is one optimiser. Its state is restored parameter by parameter, not by `load_state_dict`.
    """

    def __init__(self, matrices: list[dict[str, Any]], adamw: torch.optim.AdamW, **settings: Any) -> None:
        super().__init__(matrices, **settings)
        self.adamw, self.own = adamw, list(self.param_groups)
        adamw.state = self.state
        self.param_groups.extend(adamw.param_groups)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.adamw.step()
        self._move(self.own)


def orthogonal(updates: list[Tensor]) -> list[Tensor]:
    """Return each (E, R, C) with the singular vectors of its matrices and singular values near 1 (0.7 to 1.2).

    Newton-Schulz iteration in bfloat16, all matrices of one shape together.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, update_ERC in enumerate(updates):
        alike.setdefault(tuple(update_ERC.shape[1:]), []).append(place)
    out = list(updates)
    a, b, c = NEWTON_SCHULZ
    for (rows, columns), places in alike.items():
        x_ERC = torch.cat([updates[place] for place in places])
        y = (x_ERC.mT if rows > columns else x_ERC).bfloat16()
        y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(ROUNDS):
            gram = y @ y.mT
            y = a * y + (b * gram + c * (gram @ gram)) @ y
        solved_ERC = (y.mT if rows > columns else y).to(x_ERC.dtype)
        for place, part in zip(places, solved_ERC.split([len(updates[place]) for place in places]), strict=True):
            out[place] = part.contiguous()
    return out


class Averaged:
    """An Averaged is an exponential moving average of the weights, float32."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().float().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Move the average towards these weights."""
        torch._foreach_lerp_(
            list(self.weights.values()), [weights[name].float() for name in self.weights], 1 - self.decay
        )

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take the average from a checkpoint."""
        for name, tensor in weights.items():
            self.weights[name].copy_(alike(tensor, self.weights[name]))
