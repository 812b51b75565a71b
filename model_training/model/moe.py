"""Elastic mixture of experts: a feed-forward block whose experts come in nested groups (TouchASP section 3.1).

    x_TD ──router of the group──> K experts and gates per frame ──dispatch──> gated sum ──┐
       └───────────────── shared experts, always on, no gate ─────────────────────────> + ──> y_TD

Shapes: B clips, T frames, D model width, N experts of the group, K chosen per frame.

Experts are stored by *tier*: those that a group adds to the group before it. A step that draws a smaller group leaves
the other tiers' parameters without a gradient (None), so no optimiser moves, decays or ages them. The group at place
`tier` uses the tiers 0 ... `tier`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from model_training.config import MoESettings
from model_training.model.dispatch import pick_dispatch
from model_training.model.experts import Experts
from model_training.model.router import Choice, Load, Router, Routing, balance_loss


class ElasticMoE(nn.Module):
    """An ElasticMoE is the elastic layer. It needs the tier of the pass in `Routing`.

    Args:
        name: for reports of the load.
        d_model, width: D, and hidden units of one expert.
        settings: numbers of experts, routing and balance.
    """

    def __init__(self, name: str, d_model: int, width: int, settings: MoESettings, dropout: float) -> None:
        super().__init__()
        self.name = name
        self.sizes = tuple(settings.experts)
        self.top_k = settings.top_k
        self.settings = settings
        self.dropout_rate = dropout
        self.shared = Experts(settings.shared, d_model, width) if settings.shared else None
        added = [more - fewer for fewer, more in zip((0, *self.sizes), self.sizes)]
        self.tiers = nn.ModuleList(Experts(n_experts, d_model, width) for n_experts in added)
        seen = 2 * d_model if settings.embedding_layers else d_model
        self.routers = nn.ModuleList(Router(seen, size, self.top_k, settings.norm_topk) for size in self.sizes)
        if settings.balance == "bias":
            for tier, size in enumerate(self.sizes):
                self.register_buffer(f"selection_bias_{tier}", torch.zeros(size))

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """Return x (..., T, D) through the group's experts, in the same shape.

        Frames outside `routing.mask_BT` come back as zeros or as the shared experts' answer: they are not routed, and
        nobody may read them.
        """
        dispatch = pick_dispatch(self.settings.dispatch, x, all_chosen=self.sizes[routing.tier] == self.top_k)
        frames_TD = x.reshape(-1, x.shape[-1])
        seen_TD = frames_TD
        if routing.embedding_BTD is not None:
            seen_TD = torch.cat([routing.embedding_BTD, x], -1).flatten(0, -2)
        mask_T = None if routing.mask_BT is None else routing.mask_BT.reshape(-1)
        kept_T = None if dispatch.takes_padding else mask_T
        kept_TD = frames_TD if kept_T is None else frames_TD[kept_T]
        if seen_TD is frames_TD:
            seen_TD = kept_TD  # picked once: the router sees what the experts do
        elif kept_T is not None:
            seen_TD = seen_TD[kept_T]
        choice = self._router(routing.tier).choose(seen_TD, self.selection_bias(routing.tier))
        choice = self._report(choice, mask_T if kept_T is None else None, routing)
        dropout = self.dropout_rate if self.training else 0.0
        y_TD = dispatch(kept_TD, choice, self.active_tiers(routing.tier), dropout)
        if self.shared is not None:
            y_TD = y_TD + self.shared(kept_TD, None, dropout)
        if kept_T is not None:
            blank_TD = torch.zeros(frames_TD.shape, dtype=y_TD.dtype, device=x.device)
            y_TD = blank_TD.masked_scatter(kept_T.unsqueeze(1), y_TD)
        return y_TD.view_as(x)

    def active_tiers(self, tier: int) -> list[Experts]:
        """Return the stacks of experts that the group at place `tier` uses."""
        return cast(list[Experts], list(self.tiers)[: tier + 1])

    def selection_bias(self, tier: int) -> Tensor | None:
        """Return what is added to the scores when experts are chosen (N,); None without `balance: bias`."""
        return getattr(self, f"selection_bias_{tier}", None)

    @torch.no_grad()
    def update_bias(self, tier: int, counts_N: Tensor) -> None:
        """Make experts with less than the mean load likelier to be chosen (auxiliary-loss-free: Wang et al. 2024)."""
        bias_N = self.selection_bias(tier)
        assert bias_N is not None, "without balance: bias there is nothing to update"
        bias_N += self.settings.bias_rate * torch.sign(counts_N.mean() - counts_N)

    def _router(self, tier: int) -> Router:
        return cast(Router, self.routers[tier])

    def _report(self, choice: Choice, mask_T: Tensor | None, routing: Routing) -> Choice:
        """Report the load. Return the choice, with its frames per expert where these are of all frames it is of."""
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            return choice
        chosen_TK, scores_TN = choice.chosen_TK, choice.scores_TN
        if mask_T is not None:
            scores_TN, chosen_TK = scores_TN[mask_T], chosen_TK[mask_T]
        pairs_N = torch.bincount(chosen_TK.reshape(-1), minlength=scores_TN.shape[1])
        counts_N = pairs_N.float()
        loss = balance_loss(self.settings, scores_TN, counts_N) if self.training and len(scores_TN) else None
        routing.loads.append(Load(self.name, counts_N, loss))
        return choice if mask_T is not None else choice._replace(pairs_N=pairs_N)
