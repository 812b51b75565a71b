"""Which experts a frame goes to, and what the choice cost.

    seen_TD ──Router.choose──> Choice (chosen_TK, gates_TK, scores_TN) ──dispatch──> experts
                                  └──balance_loss, counts──> Load ──> Routing.loads

Shapes: T frames, D what the router sees of one, N experts of the group, K chosen per frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.config import MoESettings
from model_training.model.device import exact_products, to_device


@dataclass
class Load:
    """A Load is what one layer's router did with the frames of one forward pass."""

    layer: str
    counts_N: Tensor
    """frames sent to each expert, padding left out, float32"""
    loss: Tensor | None = None
    """auxiliary, already weighted"""


@dataclass
class Routing:
    """A Routing is the choice of a forward pass, handed down to every layer, and what the layers report back."""

    tier: int
    """the group's place among the model's groups, from 0: the group uses the tiers of experts up to this one"""
    mask_BT: Tensor | None = None
    """true where there is a frame; None: everywhere"""
    embedding_BTD: Tensor | None = None
    """of 3M's shared embedding network"""
    loads: list[Load] = field(default_factory=list)
    lengths_B: Tensor | None = None
    """what the mask is made of; on the CPU, nobody waits for a GPU to know how many frames there are"""
    _kept_K: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def kept(self) -> Tensor | None:
        """Return the places of the frames that are there, counted through all clips, int64 (K,); None: all are.

        They are looked for once, whatever the number of layers that ask.
        """
        if self._kept_K is None and self.mask_BT is not None:
            mask_BT = self.mask_BT
            if self.lengths_B is not None and not self.lengths_B.is_cuda:
                mask_BT = torch.arange(mask_BT.shape[1]) < self.lengths_B.unsqueeze(1)
            self._kept_K = to_device(mask_BT.reshape(-1).nonzero().squeeze(1), self.mask_BT.device)
        return self._kept_K

    def loss(self) -> Tensor | None:
        """Return the sum of all layers' balance losses; None where no layer has one."""
        losses = [load.loss for load in self.loads if load.loss is not None]
        return torch.stack(losses).sum() if losses else None


class Choice(NamedTuple):
    """A Choice is a router's answer for every frame."""

    chosen_TK: Tensor
    """numbers of the experts, int64"""
    gates_TK: Tensor
    """their weights in the sum, which add up to 1 with `norm_topk`"""
    scores_TN: Tensor
    """the softmax over all experts of the group"""
    pairs_N: Tensor | None = None
    """how many frames go to each expert, int64, where somebody has counted them"""


class Router(nn.Linear):
    """A Router is the router of one group: a linear layer without bias, computed in float32 or better whatever autocast
    says.
    """

    def __init__(self, seen: int, n_experts: int, top_k: int, norm_topk: bool) -> None:
        super().__init__(seen, n_experts, bias=False)
        self.top_k, self.norm_topk = top_k, norm_topk

    def choose(self, seen_TD: Tensor, bias_N: Tensor | None = None) -> Choice:
        """Return the K experts of every frame. `bias_N` is added to the scores when choosing, and not to the gates."""
        with torch.autocast(seen_TD.device.type, enabled=False), exact_products():
            exact = torch.promote_types(seen_TD.dtype, torch.float32)
            logits_TN = F.linear(seen_TD.to(exact), self.weight.to(exact))
            scores_TN = logits_TN.softmax(-1)
            if self.top_k == logits_TN.shape[-1]:
                chosen_TK = torch.arange(self.top_k, device=seen_TD.device).expand(len(logits_TN), -1)
            else:
                wanted_TN = scores_TN.detach()
                if bias_N is not None:
                    wanted_TN = wanted_TN + bias_N
                chosen_TK = wanted_TN.topk(self.top_k, -1).indices
            if self.norm_topk:
                gates_TK = logits_TN.gather(1, chosen_TK).softmax(-1)
            else:
                gates_TK = scores_TN.gather(1, chosen_TK)
        return Choice(chosen_TK, gates_TK, scores_TN)


def balance_loss(settings: MoESettings, scores_TN: Tensor, counts_N: Tensor) -> Tensor | None:
    """Return the weighted auxiliary loss that `balance` asks for; None where it asks for none."""
    n_experts = scores_TN.shape[1]
    if settings.balance == "switch":  # Switch Transformers, eq. 4
        share_N = counts_N / counts_N.sum()
        return settings.balance_weight * n_experts * (share_N * scores_TN.mean(0)).sum()
    if settings.balance == "sparsity":  # 3M, eq. 8 and 9
        sparsity = (scores_TN / scores_TN.norm(dim=-1, keepdim=True)).sum(-1).mean()
        importance = n_experts * (scores_TN.mean(0) ** 2).sum()
        return settings.sparsity_weight * sparsity + settings.importance_weight * importance
    return None


def merge_loads(loads: Iterable[Load]) -> dict[str, Tensor]:
    """Return the frames per expert by layer, summed over several passes."""
    merged: dict[str, Tensor] = {}
    for load in loads:
        merged[load.layer] = merged[load.layer] + load.counts_N if load.layer in merged else load.counts_N
    return merged
