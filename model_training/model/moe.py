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
from model_training.model.dispatch import frames_per_expert, pick_dispatch
from model_training.model.experts import Experts
from model_training.model.picking import pick, put_back
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
        self.width, self.top_k = width, settings.top_k
        self.settings = settings
        self.dropout_rate = dropout
        self.touches_all = False
        """whether a pass in training gives what it does not use a gradient of zero, not none: for sharded models"""
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
        all_chosen = self.sizes[routing.tier] == self.top_k
        dispatch = pick_dispatch(self.settings.dispatch, x, self.width, all_chosen=all_chosen)
        frames_TD = x.reshape(-1, x.shape[-1])
        seen_TD = frames_TD
        if routing.embedding_BTD is not None:
            seen_TD = torch.cat([routing.embedding_BTD, x], -1).flatten(0, -2)
        kept_K = None if dispatch.takes_padding else routing.kept()
        kept_TD = frames_TD if kept_K is None else pick(frames_TD, kept_K)
        if seen_TD is frames_TD:
            seen_TD = kept_TD  # picked once: the router sees what the experts do
        elif kept_K is not None:
            seen_TD = pick(seen_TD, kept_K)
        choice = self._router(routing.tier).choose(seen_TD, self.selection_bias(routing.tier))
        choice = self._report(choice, routing, all_there=kept_K is not None or routing.mask_BT is None)
        dropout = self.dropout_rate if self.training else 0.0
        y_TD = dispatch(kept_TD, choice, self.active_tiers(routing.tier), dropout)
        if self.shared is not None:
            y_TD = y_TD + self.shared(kept_TD, None, dropout)
        if self.touches_all and self.training:
            y_TD = self._touch_others(y_TD, routing.tier)
        if kept_K is not None:
            y_TD = put_back(y_TD, kept_K, len(frames_TD))
        return y_TD.view_as(x)

    def _touch_others(self, y_TD: Tensor, tier: int) -> Tensor:
        """Return y_TD as it is, with 0 added to it from every parameter that the group at place `tier` does not use."""
        others = [*self.tiers[tier + 1 :], *(router for place, router in enumerate(self.routers) if place != tier)]
        for part in others:
            for parameter in part.parameters():
                y_TD = y_TD + (0.0 * parameter.sum()).to(y_TD.dtype)
        return y_TD

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

    def _report(self, choice: Choice, routing: Routing, *, all_there: bool) -> Choice:
        """Report the load. Return the choice, with its frames per expert where these are of all frames it is of.

        `all_there` says that the choice is of no padding frame.
        """
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            return choice
        chosen_TK, scores_TN = choice.chosen_TK, choice.scores_TN
        if not all_there:
            kept_K = cast(Tensor, routing.kept())
            scores_TN, chosen_TK = pick(scores_TN, kept_K), chosen_TK.index_select(0, kept_K)
        pairs_N = frames_per_expert(chosen_TK, scores_TN.shape[1])
        counts_N = pairs_N.float()
        loss = balance_loss(self.settings, scores_TN, counts_N) if self.training and len(scores_TN) else None
        routing.loads.append(Load(self.name, counts_N, loss))
        return choice._replace(pairs_N=pairs_N) if all_there else choice
