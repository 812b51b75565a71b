"""Elastic mixture of experts: a feed-forward block whose experts come in nested groups (TouchASP section 3.1).

    x_TD ──router of the group──> K experts and gates per frame ──dispatch──> expert outputs ──gated sum──┐
       └──────────────────────────── shared experts, always on, no gate ────────────────────────────────> + ──> y_TD

Shapes: T frames, D model width, H width of one expert, E experts, K chosen per frame, P = T*K pairs of a frame and an
expert, Q rows that the pairs take when they are laid out by expert.

Experts are stored by *tier*: those that a group adds to the group before it. A step that draws a smaller group leaves
the other tiers' parameters without a gradient (None), so no optimiser moves, decays or ages them. Group g uses the
tiers 0..g.

Three dispatches compute the same sum. `dense`: all experts are chosen (N = K), one wide block. `sorted`: pairs are
sorted by expert, each expert does one product over its rows. `grouped`: the same with torch's grouped product, where
there is one. `loop` is the plain reading of the paper, over all frames for each expert: the reference, and what a
benchmark compares with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.config import MoESettings


@dataclass
class Load:
    """What one layer's router did with the frames of one forward pass."""

    layer: str
    counts_N: Tensor  # frames sent to each expert, padding left out, float32
    loss: Tensor | None = None  # auxiliary, already weighted


@dataclass
class Routing:
    """The choice of a forward pass, handed down to every layer, and what the layers report back."""

    group: int  # index of the group
    mask_BT: Tensor | None = None  # true where there is a frame; None: everywhere
    embedding_BTD: Tensor | None = None  # of 3M's shared embedding network
    loads: list[Load] = field(default_factory=list)

    def loss(self) -> Tensor | None:
        losses = [load.loss for load in self.loads if load.loss is not None]
        return torch.stack(losses).sum() if losses else None


class FeedForward(nn.Module):
    """The dense block: D -> H -> D with SiLU."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.w_in = nn.Linear(d_model, d_ff)
        self.w_out = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        return self.w_out(self.dropout(F.silu(self.w_in(x))))


class Experts(nn.Module):
    """A stack of feed-forward blocks of equal shape."""

    def __init__(self, number: int, d_model: int, width: int) -> None:
        super().__init__()
        self.w_in_EHD = nn.Parameter(torch.empty(number, width, d_model))
        self.b_in_EH = nn.Parameter(torch.empty(number, width))
        self.w_out_EHD = nn.Parameter(torch.empty(number, width, d_model))
        self.b_out_ED = nn.Parameter(torch.empty(number, d_model))
        for weight, bias, inputs in ((self.w_in_EHD, self.b_in_EH, d_model), (self.w_out_EHD, self.b_out_ED, width)):
            bound = inputs**-0.5  # nn.Linear's own
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)


class ElasticMoE(nn.Module):
    """The elastic layer. Needs the group of the pass in `Routing`.

    Args:
        name: for reports of the load.
        d_model, width: D and H.
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
        self.tiers = nn.ModuleList(Experts(number, d_model, width) for number in added)
        seen = 2 * d_model if settings.embedding_layers else d_model
        self.routers = nn.ModuleList(nn.Linear(seen, size, bias=False) for size in self.sizes)
        if settings.balance == "bias":
            for index, size in enumerate(self.sizes):
                self.register_buffer(f"selection_bias_{index}", torch.zeros(size))

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (..., T, D) -> the same shape. Frames outside `routing.mask_BT` come back as zeros or as the shared
        experts' answer: they are not routed, and nobody may read them."""
        number = self.sizes[routing.group]
        frames_TD = x.reshape(-1, x.shape[-1])
        seen_TD = (
            frames_TD if routing.embedding_BTD is None else torch.cat([routing.embedding_BTD, x], -1).flatten(0, -2)
        )
        mask_T = None if routing.mask_BT is None else routing.mask_BT.reshape(-1)
        how = self._dispatch(number, x)
        if how == "dense":  # every expert sees every frame: padding costs less than picking it out
            chosen_TK, gates_TK, scores_TN = self._route(seen_TD, routing.group)
            self._report(scores_TN, chosen_TK, mask_T, routing)
            gates_TN = torch.zeros_like(scores_TN).scatter(1, chosen_TK, gates_TK)
            return self._all_at_once(frames_TD, gates_TN).view_as(x)
        kept_TD, seen_TD = (frames_TD, seen_TD) if mask_T is None else (frames_TD[mask_T], seen_TD[mask_T])
        chosen_TK, gates_TK, scores_TN = self._route(seen_TD, routing.group)
        self._report(scores_TN, chosen_TK, None, routing)
        if how == "loop":
            y_TD = self._loop(kept_TD, chosen_TK, gates_TK, routing.group)
        else:
            y_TD = self._by_expert(kept_TD, chosen_TK, gates_TK, routing.group, grouped=how == "grouped")
        if self.shared is not None:
            y_TD = y_TD + self._wide(kept_TD, self.shared, None)
        if mask_T is not None:
            y_TD = torch.zeros(frames_TD.shape, dtype=y_TD.dtype, device=x.device).masked_scatter(
                mask_T.unsqueeze(1), y_TD
            )
        return y_TD.view_as(x)

    def active_tiers(self, group: int) -> list[Experts]:
        return list(self.tiers)[: group + 1]  # type: ignore[return-value,arg-type]

    # Routing

    def _route(self, seen_TD: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Chosen experts (T, K), their gates (T, K), the softmax over all experts (T, N); never below float32."""
        with torch.autocast(seen_TD.device.type, enabled=False):
            exact = torch.promote_types(seen_TD.dtype, torch.float32)
            logits_TN = F.linear(seen_TD.to(exact), cast(Tensor, self.routers[group].weight).to(exact))
            scores_TN = logits_TN.softmax(-1)
            if self.top_k == logits_TN.shape[-1]:
                chosen_TK = torch.arange(self.top_k, device=seen_TD.device).expand(len(logits_TN), -1)
            else:
                wanted_TN = scores_TN.detach()
                if self.settings.balance == "bias":
                    wanted_TN = wanted_TN + getattr(self, f"selection_bias_{group}")
                chosen_TK = wanted_TN.topk(self.top_k, -1).indices
            if self.settings.norm_topk:
                gates_TK = logits_TN.gather(1, chosen_TK).softmax(-1)
            else:
                gates_TK = scores_TN.gather(1, chosen_TK)
        return chosen_TK, gates_TK, scores_TN

    def _report(self, scores_TN: Tensor, chosen_TK: Tensor, mask_T: Tensor | None, routing: Routing) -> None:
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            return
        if mask_T is not None:
            scores_TN, chosen_TK = scores_TN[mask_T], chosen_TK[mask_T]
        number = scores_TN.shape[1]
        counts_N = torch.bincount(chosen_TK.reshape(-1), minlength=number).float()
        loss = self._balance_loss(scores_TN, counts_N) if self.training and len(scores_TN) else None
        routing.loads.append(Load(self.name, counts_N, loss))

    def _balance_loss(self, scores_TN: Tensor, counts_N: Tensor) -> Tensor | None:
        settings, number = self.settings, scores_TN.shape[1]
        if settings.balance == "switch":  # Switch Transformers, eq. 4
            share_N = counts_N / counts_N.sum()
            return settings.balance_weight * number * (share_N * scores_TN.mean(0)).sum()
        if settings.balance == "sparsity":  # 3M, eq. 8 and 9
            sparsity = (scores_TN / scores_TN.norm(dim=-1, keepdim=True)).sum(-1).mean()
            importance = number * (scores_TN.mean(0) ** 2).sum()
            return settings.sparsity_weight * sparsity + settings.importance_weight * importance
        return None

    @torch.no_grad()
    def update_bias(self, group: int, counts_N: Tensor) -> None:
        """Auxiliary-loss-free balance (Wang et al. 2024): experts with less than the mean load become likelier to be
        chosen.
        """
        bias = getattr(self, f"selection_bias_{group}")
        bias += self.settings.bias_rate * torch.sign(counts_N.mean() - counts_N)

    # Dispatch

    def _dispatch(self, number: int, x: Tensor) -> str:
        asked = self.settings.dispatch
        if number == self.top_k and asked in ("auto", "dense"):
            return "dense"
        if asked in ("auto", "dense"):
            return "grouped" if grouped_product_works(x) else "sorted"
        return asked

    def _all_at_once(self, x_TD: Tensor, gates_TN: Tensor) -> Tensor:
        """N = K is the smallest group, one tier: a wide block in which a gate scales its expert's stretch of the hidden
        layer.
        """
        y_TD = self._wide(x_TD, self.tiers[0], gates_TN)  # type: ignore[arg-type]
        return y_TD if self.shared is None else y_TD + self._wide(x_TD, self.shared, None)

    def _wide(self, x_TD: Tensor, experts: Experts, gates_TE: Tensor | None) -> Tensor:
        """All of a stack over all frames. The stack's layout makes one wide block of it without a copy."""
        number, width, d_model = experts.w_in_EHD.shape
        hidden_TX = F.silu(F.linear(x_TD, experts.w_in_EHD.view(-1, d_model), experts.b_in_EH.view(-1)))
        hidden_TX = self._drop(hidden_TX)
        w_out_DX = experts.w_out_EHD.view(-1, d_model).t()
        if gates_TE is None:
            return F.linear(hidden_TX, w_out_DX, experts.b_out_ED.sum(0))
        gates_TE = gates_TE.to(hidden_TX.dtype)
        hidden_TX = (hidden_TX.view(-1, number, width) * gates_TE.unsqueeze(-1)).flatten(1)
        return F.linear(hidden_TX, w_out_DX) + F.linear(gates_TE, experts.b_out_ED.t())

    def _by_expert(self, x_TD: Tensor, chosen_TK: Tensor, gates_TK: Tensor, group: int, *, grouped: bool) -> Tensor:
        if torch.is_autocast_enabled(x_TD.device.type):
            x_TD = x_TD.to(torch.get_autocast_dtype(x_TD.device.type))
        expert_P = chosen_TK.reshape(-1)
        order_P = torch.argsort(expert_P, stable=True)
        counts_N = torch.bincount(expert_P, minlength=self.sizes[group])
        room_N = counts_N if grouped or x_TD.is_cuda or x_TD.dtype != torch.bfloat16 else _round_up(counts_N)
        place_P, source_Q = _places(expert_P, order_P, counts_N, room_N)
        stacks = self.active_tiers(group)
        x_QD = _ToPairs.apply(x_TD, source_Q, place_P, self.top_k)
        y_QD = self._grouped_blocks(x_QD, room_N, stacks) if grouped else self._sorted_blocks(x_QD, room_N, stacks)
        y_PD = _FromPairs.apply(y_QD, place_P)
        gates_T1K = gates_TK.to(y_PD.dtype).unsqueeze(1)
        return torch.bmm(gates_T1K, y_PD.view(-1, self.top_k, y_PD.shape[-1])).squeeze(1)

    def _sorted_blocks(self, x_QD: Tensor, room_N: Tensor, stacks: Sequence[Experts]) -> Tensor:
        parameters = [
            getattr(stack, name) for name in ("w_in_EHD", "b_in_EH", "w_out_EHD", "b_out_ED") for stack in stacks
        ]
        dropout = self.dropout_rate if self.training else 0.0
        return _SortedBlocks.apply(x_QD, room_N.tolist(), dropout, *parameters)

    def _grouped_blocks(self, x_QD: Tensor, room_N: Tensor, stacks: Sequence[Experts]) -> Tensor:
        w_in = [stack.w_in_EHD.transpose(1, 2) for stack in stacks]
        hidden_QH = self._drop(F.silu(_grouped(x_QD, room_N, w_in, [stack.b_in_EH for stack in stacks])))
        return _grouped(hidden_QH, room_N, [stack.w_out_EHD for stack in stacks], [stack.b_out_ED for stack in stacks])

    def _loop(self, x_TD: Tensor, chosen_TK: Tensor, gates_TK: Tensor, group: int) -> Tensor:
        """Every expert over every frame, kept where it was chosen: the plain reading of the paper."""
        y_TD, expert = torch.zeros_like(x_TD), 0
        for stack in self.active_tiers(group):
            for w_in, b_in, w_out, b_out in zip(stack.w_in_EHD, stack.b_in_EH, stack.w_out_EHD, stack.b_out_ED):
                gate_T = (gates_TK * (chosen_TK == expert)).sum(-1)
                hidden_TH = self._drop(F.silu(F.linear(x_TD, w_in, b_in)))
                y_TD = y_TD + gate_T.unsqueeze(-1).to(x_TD.dtype) * F.linear(hidden_TH, w_out.t(), b_out)
                expert += 1
        return y_TD

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout_rate, self.training) if self.training and self.dropout_rate else hidden


def _places(expert_P: Tensor, order_P: Tensor, counts_N: Tensor, room_N: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pair goes when every expert has `room_N` rows (Q in all), and which pair a row takes: spare rows take
    pair 0, which nobody reads back."""
    shift_N = (room_N.cumsum(0) - room_N) - (counts_N.cumsum(0) - counts_N)
    row_P = torch.arange(len(order_P), device=order_P.device) + shift_N[expert_P[order_P]]
    place_P = torch.empty_like(order_P)
    place_P[order_P] = row_P
    source_Q = order_P.new_zeros(int(room_N.sum()))
    source_Q[row_P] = order_P
    return place_P, source_Q


def _round_up(counts_N: Tensor) -> Tensor:
    """Room for the next of a few numbers of rows, at most an eighth too many from 128 on. oneDNN compiles a bfloat16
    product anew for every shape that it has not seen, which costs a small model several times the product itself."""
    step_N = torch.pow(2, torch.clamp(torch.floor(torch.log2(counts_N.clamp(min=1).float())) - 3, min=4)).long()
    return (counts_N + step_N - 1) // step_N * step_N


class _ToPairs(torch.autograd.Function):
    """Each frame K times, in the order of experts. The gradient of a frame is the sum over its K places: no
    scatter-add.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, source_Q: Tensor, place_P: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(place_P)
        ctx.top_k = top_k
        return x_TD.index_select(0, source_Q // top_k) if len(x_TD) else x_TD

    @staticmethod
    def backward(ctx: Any, grad_QD: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (place_P,) = ctx.saved_tensors
        return grad_QD.index_select(0, place_P).view(-1, ctx.top_k, grad_QD.shape[-1]).sum(1), None, None, None


class _FromPairs(torch.autograd.Function):
    """The pairs' rows, in the order of frames. Its own function because the gradient is a copy into place, not a
    scatter-add.
    """

    @staticmethod
    def forward(ctx: Any, y_QD: Tensor, place_P: Tensor) -> Tensor:
        ctx.save_for_backward(place_P)
        ctx.rows = len(y_QD)
        return y_QD.index_select(0, place_P)

    @staticmethod
    def backward(ctx: Any, grad_PD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (place_P,) = ctx.saved_tensors
        if ctx.rows == len(grad_PD):
            return torch.empty_like(grad_PD).index_copy_(0, place_P, grad_PD), None
        return grad_PD.new_zeros(ctx.rows, grad_PD.shape[1]).index_copy_(0, place_P, grad_PD), None


class _SortedBlocks(torch.autograd.Function):
    """One expert after the other over its rows, both products at once while its hidden layer is in the cache. Gradients
    of weights are written into place: autograd would stitch one small tensor per expert together."""

    @staticmethod
    def forward(ctx: Any, x_QD: Tensor, rows: list[int], dropout: float, *parameters: Tensor) -> Tensor:
        cast = [parameter.to(x_QD.dtype) for parameter in parameters]
        y_QD = torch.empty_like(x_QD)
        hiddens: list[Tensor] = []
        masks: list[Tensor] = []
        for x_RD, y_RD, (w_in_HD, b_in_H, w_out_HD, b_out_D) in zip(x_QD.split(rows), y_QD.split(rows), _experts(cast)):
            if not len(x_RD):
                continue
            hidden_RH = torch.addmm(b_in_H, x_RD, w_in_HD.t())
            active_RH = F.silu(hidden_RH)
            if dropout:
                active_RH, mask_RH = torch.native_dropout(active_RH, dropout, True)
                masks.append(mask_RH)
            torch.addmm(b_out_D, active_RH, w_out_HD, out=y_RD)
            hiddens.append(hidden_RH)
        ctx.save_for_backward(x_QD, *cast, *hiddens, *masks)
        ctx.rows, ctx.dropout, ctx.dtypes = rows, dropout, [parameter.dtype for parameter in parameters]
        return y_QD

    @staticmethod
    def backward(ctx: Any, grad_QD: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        number = len(ctx.dtypes)
        x_QD, *saved = ctx.saved_tensors
        cast, saved = saved[:number], saved[number:]
        busy = sum(1 for rows in ctx.rows if rows)
        hiddens, masks = iter(saved[:busy]), iter(saved[busy:])
        grad_QD = grad_QD.contiguous()
        grad_x_QD = torch.empty_like(x_QD)
        grads = [torch.empty_like(parameter) for parameter in cast]
        parts = (x_QD.split(ctx.rows), grad_QD.split(ctx.rows), grad_x_QD.split(ctx.rows))
        for x_RD, grad_RD, grad_x_RD, (w_in_HD, _, w_out_HD, _), (dw_in, db_in, dw_out, db_out) in zip(
            *parts, _experts(cast), _experts(grads)
        ):
            if not len(x_RD):
                for grad in (dw_in, db_in, dw_out, db_out):
                    grad.zero_()
                continue
            hidden_RH = next(hiddens)
            active_RH = F.silu(hidden_RH)
            grad_RH = torch.mm(grad_RD, w_out_HD.t())
            if ctx.dropout:
                mask_RH = next(masks)
                active_RH = torch.ops.aten.native_dropout_backward(active_RH, mask_RH, 1 / (1 - ctx.dropout))
                grad_RH = torch.ops.aten.native_dropout_backward(grad_RH, mask_RH, 1 / (1 - ctx.dropout))
            torch.mm(active_RH.t(), grad_RD, out=dw_out)
            torch.sum(grad_RD, 0, out=db_out)
            grad_RH = torch.ops.aten.silu_backward(grad_RH, hidden_RH)
            torch.mm(grad_RH.t(), x_RD, out=dw_in)
            torch.sum(grad_RH, 0, out=db_in)
            torch.mm(grad_RH, w_in_HD, out=grad_x_RD)
        return grad_x_QD, None, None, *(grad.to(dtype) for grad, dtype in zip(grads, ctx.dtypes))


def _experts(parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Each expert's (w_in, b_in, w_out, b_out) from stacks listed kind by kind."""
    tiers = len(parameters) // 4
    kinds = [[part for stack in parameters[tiers * kind : tiers * (kind + 1)] for part in stack] for kind in range(4)]
    return zip(*kinds)


def grouped_product_works(x: Tensor) -> bool:
    """torch has a grouped product for this device (2.8: bfloat16 on CUDA of compute capability 9.0)."""
    if not x.is_cuda or not hasattr(torch, "_grouped_mm") or torch.cuda.get_device_capability(x.device) < (9, 0):
        return False
    return (torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype) == torch.bfloat16


def _grouped(x_PI: Tensor, counts_N: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    stops_N = counts_N.cumsum(0).to(torch.int32)
    w_NIO = torch.cat([weight.to(x_PI.dtype) for weight in weights])
    b_NO = torch.cat([bias.to(x_PI.dtype) for bias in biases])
    expert_P = torch.repeat_interleave(counts_N, output_size=len(x_PI))
    return torch._grouped_mm(x_PI, w_NIO, offs=stops_N) + b_NO[expert_P]
