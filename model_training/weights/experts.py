"""One elastic layer from what another model has in its place: its experts, or a dense block.

    experts of N' ──by number, or copied where N > N'──> tiers, routers, shared experts ──┐
    dense block ──hidden units dealt out──> shared and routed experts, a little noise ────┴──> tensors of the layer

"Upcycling" (Komatsuzaki et al. 2023; 3M starts its experts from a dense base, You et al. 2022): the shared experts and
any one routed expert together hold every hidden unit of the dense block, so the layer answers what the block did as
long as gates add up to 1 (`norm_topk`, or N = K) and (S + 1) experts are at least as wide as the block. Where they are
narrower, routed experts hold different stretches of it, and the answer is the block's on the average.

Shapes: D model width, H width of one expert, E experts of a stack, F hidden units of a dense block, N experts of
a group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from model_training.model.experts import Experts
from model_training.model.moe import ElasticMoE
from operators.errors import UserError

PARTS = ("w_in_EHD", "b_in_EH", "w_out_EHD", "b_out_ED")
DENSE = ("w_in.weight", "w_in.bias", "w_out.weight", "w_out.bias")


@dataclass
class Layer:
    """A Layer is what was found for one elastic layer: tensors by their names below the layer, and what was done."""

    tensors: dict[str, Tensor]
    grown: list[str] = field(default_factory=list)
    """in words"""
    fresh: list[str] = field(default_factory=list)
    """names that stay as they were drawn"""
    left: list[str] = field(default_factory=list)
    """in words, what has no place here"""


def from_experts(layer: ElasticMoE, there: Mapping[str, Tensor], noise: float, generator: torch.Generator) -> Layer:
    """Return the layer's tensors from those of another elastic layer, whose sizes may be others.

    Raises:
        UserError: its experts have another width or number of shared ones, or it lacks a tensor.
    """
    made = Layer({})
    stacks = {part: torch.cat(_numbered(there, rf"tiers\.(\d+)\.{part}", f"tiers.0.{part}")) for part in PARTS}
    have, want = len(stacks[PARTS[0]]), layer.sizes[-1]
    ours: Experts = layer.tiers[0]  # type: ignore[assignment]
    _refuse_other_width(stacks["w_in_EHD"], ours.w_in_EHD)
    source = [expert % have for expert in range(want)]
    for part, stack in stacks.items():
        full = stack[source]
        full[have:] = _stirred(full[have:], stack, noise, generator)
        for tier, piece in enumerate(full.split([cast(Experts, tier).n_experts for tier in layer.tiers])):
            made.tensors[f"tiers.{tier}.{part}"] = piece
    if want > have:
        made.grown.append(f"{want - have} experts, copies of the first")
    if want < have:
        made.left.append(f"{have - want} experts")
    if layer.shared is not None:
        for part in PARTS:
            found = there.get(f"shared.{part}")
            shape = getattr(layer.shared, part).shape
            if found is None or found.shape != shape:
                number = 0 if found is None else len(found)
                raise UserError(f"it has {number} shared experts: set model.moe.shared={number}")
            made.tensors[f"shared.{part}"] = found
    elif "shared.w_in_EHD" in there:
        number = len(there["shared.w_in_EHD"])
        raise UserError(f"it has {number} shared experts: set model.moe.shared={number}")
    _routers(layer, there, made, noise, generator)
    return made


def _routers(
    layer: ElasticMoE, there: Mapping[str, Tensor], made: Layer, noise: float, generator: torch.Generator
) -> None:
    """Take the router of each group by its number of experts; a group that is new takes rows of the next larger one."""
    routers = {len(router): router for router in _numbered(there, r"routers\.(\d+)\.weight", "routers.0.weight")}
    biases = {len(bias): bias for bias in _numbered(there, r"selection_bias_(\d+)")}
    for tier, size in enumerate(layer.sizes):
        router = routers[min((n for n in routers if n >= size), default=max(routers))]
        ours = cast(Tensor, layer.routers[tier].weight)
        if router.shape[1] != ours.shape[1]:  # one of them also sees 3M's embedding
            made.fresh.append(f"routers.{tier}.weight")
            continue
        have = len(router)
        taken = router[[expert % have for expert in range(size)]]
        taken[have:] = _stirred(taken[have:], router, noise, generator)
        made.tensors[f"routers.{tier}.weight"] = taken
        if size not in routers:
            made.grown.append(f"the router of {size} experts, from that of {have}")
        if layer.selection_bias(tier) is not None and size in biases:
            made.tensors[f"selection_bias_{tier}"] = biases[size]


def from_dense(layer: ElasticMoE, there: Mapping[str, Tensor], noise: float, generator: torch.Generator) -> Layer:
    """Return the layer's tensors from those of a dense block; its routers stay as they were drawn.

    Raises:
        UserError: the block lacks a tensor.
    """
    for name in DENSE:
        if name not in there:
            raise UserError(f"it lacks {name} of a dense block: the file is not whole")
    w_in_FD, b_in_F, w_out_DF, b_out_D = (there[name] for name in DENSE)
    units, shared = len(w_in_FD), layer.settings.shared
    ours: Experts = layer.tiers[0]  # type: ignore[assignment]
    width = ours.w_in_EHD.shape[1]
    stretches = max(1, -(-(units - shared * width) // width))  # of what the shared experts do not hold

    def held(slot: int) -> Tensor:
        return (slot * width + torch.arange(width)) % units

    # How often a unit is heard, all stretches being equally likely: what it says is divided by that.
    times_F = torch.zeros(units)
    for slot in range(shared + stretches):
        times_F += torch.bincount(held(slot), minlength=units) / (1 if slot < shared else stretches)

    def stack(slots: list[int], stir: bool) -> dict[str, Tensor]:
        units_EH = torch.stack([held(slot) for slot in slots])
        parts = {
            "w_in_EHD": w_in_FD[units_EH],
            "b_in_EH": b_in_F[units_EH],
            "w_out_EHD": w_out_DF.t()[units_EH] / times_F[units_EH].unsqueeze(-1),
            "b_out_ED": (b_out_D / (shared + 1)).repeat(len(slots), 1),
        }
        return {part: _stirred(one, one, noise, generator) if stir else one for part, one in parts.items()}

    made = Layer({}, [f"{layer.sizes[-1]} experts from a dense block of {units} hidden units"])
    routed = stack([shared + expert % stretches for expert in range(layer.sizes[-1])], stir=True)
    for part, full in routed.items():
        for tier, piece in enumerate(full.split([cast(Experts, tier).n_experts for tier in layer.tiers])):
            made.tensors[f"tiers.{tier}.{part}"] = piece
    if shared:
        made.tensors |= {f"shared.{part}": one for part, one in stack(list(range(shared)), stir=False).items()}
    made.fresh += [f"routers.{tier}.weight" for tier in range(len(layer.sizes))]
    return made


def _stirred(copy: Tensor, whole: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Return a copy with noise of this share of the tensor's own spread, so that copies come to differ."""
    if not noise or not copy.numel():
        return copy
    return copy + noise * whole.std(correction=0) * torch.randn(copy.shape, generator=generator)


def _numbered(there: Mapping[str, Tensor], pattern: str, needed: str = "") -> list[Tensor]:
    found = {int(match[1]): tensor for name, tensor in there.items() if (match := re.fullmatch(pattern, name))}
    if needed and sorted(found) != list(range(max(found, default=0) + 1)):
        raise UserError(f"it lacks {needed} or one of its kind: the file is not whole")
    return [found[number] for number in sorted(found)]


def _refuse_other_width(theirs: Tensor, ours: Tensor) -> None:
    if theirs.shape[1:] != ours.shape[1:]:
        raise UserError(
            f"its experts have {theirs.shape[1]} hidden units: set model.moe.expert_width={theirs.shape[1]}"
        )
