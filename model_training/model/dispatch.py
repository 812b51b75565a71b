"""How frames reach their experts: four ways to the same sum.

    x_TD, Choice ──Dispatch──> sum over the K chosen experts of gate * expert(x), y_TD

Loop     every expert over every frame, kept where it was chosen: the plain reading of the paper, and the reference.
Dense    all experts are chosen (N = K): one wide block.
Sorted   pairs of a frame and an expert are sorted by expert, each expert does one product over its rows.
Grouped  the same with torch's grouped product, where there is one.

Shapes: T frames, D model width, H width of one expert, N experts of the group, K chosen per frame, P = T*K pairs,
Q rows that the pairs take when they are laid out by expert, R rows of one expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model_training.model.experts import Experts, drop
from model_training.model.router import Choice


class Dispatch(Protocol):
    """A Dispatch is one way to compute the gated sum of the chosen experts."""

    takes_padding: bool
    """true: padding frames are computed too, which costs less than picking them out"""

    def __call__(self, x_TD: Tensor, choice: Choice, tiers: Sequence[Experts], dropout: float) -> Tensor:
        """Return the gated sum (T, D). `tiers` are the stacks of the group's experts, in order."""
        ...


class Loop:
    """Loop runs every expert over every frame, kept where it was chosen."""

    takes_padding = False

    def __call__(self, x_TD: Tensor, choice: Choice, tiers: Sequence[Experts], dropout: float) -> Tensor:
        y_TD, expert = torch.zeros_like(x_TD), 0
        for tier in tiers:
            for w_in, b_in, w_out, b_out in zip(tier.w_in_EHD, tier.b_in_EH, tier.w_out_EHD, tier.b_out_ED):
                gate_T = (choice.gates_TK * (choice.chosen_TK == expert)).sum(-1)
                hidden_TH = drop(F.silu(F.linear(x_TD, w_in, b_in)), dropout)
                y_TD = y_TD + gate_T.unsqueeze(-1).to(x_TD.dtype) * F.linear(hidden_TH, w_out.t(), b_out)
                expert += 1
        return y_TD


class Dense:
    """Dense is for N = K, the smallest group, one tier: a wide block in which gates scale the experts."""

    takes_padding = True

    def __call__(self, x_TD: Tensor, choice: Choice, tiers: Sequence[Experts], dropout: float) -> Tensor:
        (experts,) = tiers
        gates_TN = torch.zeros_like(choice.scores_TN).scatter(1, choice.chosen_TK, choice.gates_TK)
        y_TD: Tensor = experts(x_TD, gates_TN, dropout)
        return y_TD


class Room(NamedTuple):
    """A Room says how the pairs' rows are laid out by expert."""

    rows_N: Tensor
    """of each expert, int64"""
    total: int
    """Q, of all together"""


class Sorted:
    """Sorted sorts pairs by expert; one expert after the other takes its frames and adds to their sums."""

    takes_padding = False

    def __call__(self, x_TD: Tensor, choice: Choice, tiers: Sequence[Experts], dropout: float) -> Tensor:
        x_TD = _autocast(x_TD)
        counts_N = _counts(choice, tiers)
        rows_N = _round_up(counts_N) if x_TD.dtype == torch.bfloat16 and not x_TD.is_cuda else counts_N
        rows = rows_N.tolist()  # on a GPU the program waits for it
        place_P, source_Q = _places(choice, counts_N, Room(rows_N, sum(rows)))
        # Spare rows have the gate 0, so that they add nothing to a sum or to a gradient.
        gates_P = choice.gates_TK.reshape(-1)
        gates_Q = gates_P.new_zeros(len(source_Q)).index_copy(0, place_P, gates_P)
        frames_Q = source_Q // choice.chosen_TK.shape[1]
        gates_TN = torch.zeros_like(choice.scores_TN).scatter(1, choice.chosen_TK, choice.gates_TK)
        biases_TD = torch.mm(gates_TN.to(x_TD.dtype), torch.cat([tier.b_out_ED for tier in tiers]).to(x_TD.dtype))
        parameters = [stack for kind in zip(*(tier.stacks()[:3] for tier in tiers)) for stack in kind]
        cast = [stack for kind in zip(*(tier.cast(x_TD.dtype)[:3] for tier in tiers)) for stack in kind]
        y_TD: Tensor = _SortedBlocks.apply(x_TD, biases_TD, gates_Q, frames_Q, rows, dropout, cast, *parameters)
        return y_TD


class Grouped:
    """Grouped sorts pairs by expert; torch's grouped product over all experts at once. The program never waits to know
    how many rows each has.
    """

    takes_padding = False

    def __call__(self, x_TD: Tensor, choice: Choice, tiers: Sequence[Experts], dropout: float) -> Tensor:
        x_TD, counts_N = _autocast(x_TD), _counts(choice, tiers)
        top_k = choice.chosen_TK.shape[1]
        room = self.room(counts_N, choice.chosen_TK.numel())
        place_P, source_Q = _places(choice, counts_N, room)
        x_QD = _ToPairs.apply(x_TD, source_Q, place_P, top_k)
        w_in = [tier.w_in_EHD.transpose(1, 2) for tier in tiers]
        hidden_QH = drop(F.silu(_grouped(x_QD, room, w_in, [tier.b_in_EH for tier in tiers])), dropout)
        y_QD = _grouped(hidden_QH, room, [tier.w_out_EHD for tier in tiers], [tier.b_out_ED for tier in tiers])
        y_PD = _FromPairs.apply(y_QD, place_P)
        gates_T1K = choice.gates_TK.to(y_PD.dtype).unsqueeze(1)
        return torch.bmm(gates_T1K, y_PD.view(-1, top_k, y_PD.shape[-1])).squeeze(1)

    def room(self, counts_N: Tensor, pairs: int) -> Room:
        """Return a multiple of 8 rows for each expert, which the gradients' products want (16 bytes of bfloat16).

        What that makes of all together is a matter of the counts; there is room for the most; the last has the rest.
        """
        rows_N = (counts_N + 7) // 8 * 8
        total = (pairs + 7) // 8 * 8 + 8 * len(counts_N) if pairs else 0
        return Room(torch.cat([rows_N[:-1], total - rows_N[:-1].sum(0, keepdim=True)]), total)


DISPATCHES: dict[str, Dispatch] = {"dense": Dense(), "sorted": Sorted(), "grouped": Grouped(), "loop": Loop()}


def pick_dispatch(asked: str, x: Tensor, width: int, *, all_chosen: bool) -> Dispatch:
    """Return the dispatch that `model.moe.dispatch` asks for; the fastest that works here for `auto`.

    `width` is one expert's. `dense` is one of `auto`'s: it works only where all experts of the group are chosen.
    """
    if asked in ("auto", "dense"):
        asked = "dense" if all_chosen else "grouped" if grouped_product_works(x, width) else "sorted"
    return DISPATCHES[asked]


def grouped_product_works(x: Tensor, width: int) -> bool:
    """Say whether torch has a grouped product for this GPU and precision, of x (..., D) and experts of a width.

    It wants rows of whole 16 bytes, 8 numbers of bfloat16. A CPU is quicker without.
    """
    if not x.is_cuda or not hasattr(torch, "_grouped_mm") or x.shape[-1] % 8 or width % 8:
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return _grouped_product_was_right(x.device, dtype)


@cache
def _grouped_product_was_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether a small product and its gradients came out right. Which GPUs can is a matter of torch's version."""
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            x_QI = torch.ones(24, 16, dtype=dtype, device=device, requires_grad=True)
            w_NIO = torch.ones(2, 16, 32, dtype=dtype, device=device, requires_grad=True)
            stops_N = torch.tensor([8, 24], dtype=torch.int32, device=device)
            y_QO = torch._grouped_mm(x_QI, w_NIO, offs=stops_N)
            y_QO.float().sum().backward()
            assert x_QI.grad is not None
            assert w_NIO.grad is not None
            found = [bool((y_QO == 16).all()), bool((x_QI.grad == 32).all())]
            return all(found) and w_NIO.grad[:, 0, 0].tolist() == [8, 16]
    except (RuntimeError, NotImplementedError, TypeError):
        return False


def frames_per_expert(chosen_TK: Tensor, n_experts: int) -> Tensor:
    """Return how many frames chose each expert, int64 (N,)."""
    if not chosen_TK.is_cuda:
        return torch.bincount(chosen_TK.reshape(-1), minlength=n_experts)
    # On a GPU bincount waits to know the largest number.
    expert_N = torch.arange(n_experts, device=chosen_TK.device)
    return (chosen_TK.reshape(-1, 1) == expert_N).sum(0)


def _autocast(x_TD: Tensor) -> Tensor:
    device = x_TD.device.type
    return x_TD.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x_TD


def _counts(choice: Choice, tiers: Sequence[Experts]) -> Tensor:
    if choice.pairs_N is not None:
        return choice.pairs_N
    return frames_per_expert(choice.chosen_TK, sum(tier.n_experts for tier in tiers))


def _places(choice: Choice, counts_N: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """Return the row of each pair when the rows are laid out so (Q in all), and the pair that each row takes.

    An expert's pairs come first among its rows, in the order of frames. Spare rows take pair 0, which nobody reads
    back.
    """
    expert_P = choice.chosen_TK.reshape(-1)
    order_P = torch.argsort(expert_P, stable=True)
    shift_N = (room.rows_N.cumsum(0) - room.rows_N) - (counts_N.cumsum(0) - counts_N)
    row_P = torch.arange(len(order_P), device=order_P.device) + shift_N[expert_P[order_P]]
    place_P = torch.empty_like(order_P)
    place_P[order_P] = row_P
    source_Q = order_P.new_zeros(room.total)
    source_Q[row_P] = order_P
    return place_P, source_Q


def _round_up(counts_N: Tensor) -> Tensor:
    """Return room for the next of a few numbers of rows, at most an eighth too many from 128 on.

    oneDNN compiles a bfloat16 product again for every shape that it has not seen, which costs a small model several
    times the product itself.
    """
    step_N = torch.pow(2, torch.clamp(torch.floor(torch.log2(counts_N.clamp(min=1).float())) - 3, min=4)).long()
    return (counts_N + step_N - 1) // step_N * step_N


class _ToPairs(torch.autograd.Function):
    """Each frame K times, in the order of experts.

    The gradient of a frame is the sum over its K places: no scatter-add.
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
    """The pairs' rows, in the order of frames.

    Its own function because the gradient is a copy into place, not a scatter-add.
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
    """One expert after the other: its frames, both products, and its share of their sums while all that is in the
    cache. The sums begin with the biases of the second product.

    Nothing is ever laid out for all pairs but the hidden layer: with twelve experts a frame, copies of frames and of
    answers would be most of the memory, and a quarter of the time. Sums over experts are of float32 or better.
    Gradients of weights are written into place: autograd would stitch one small tensor per expert together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        biases_TD: Tensor,
        gates_Q: Tensor,
        frames_Q: Tensor,
        rows: list[int],
        dropout: float,
        cast: list[Tensor],
        *parameters: Tensor,
    ) -> Tensor:
        y_TD = biases_TD.to(_of_sums(x_TD), copy=True)
        hiddens: list[Tensor] = []
        masks: list[Tensor] = []
        parts = frames_Q.split(rows), gates_Q.unsqueeze(1).split(rows)
        for frames_R, gates_R1, (w_in_HD, b_in_H, w_out_HD) in zip(*parts, _experts(cast)):
            if not len(frames_R):
                continue
            hidden_RH = torch.addmm(b_in_H, x_TD.index_select(0, frames_R), w_in_HD.t())
            active_RH = F.silu(hidden_RH)
            if dropout:
                active_RH, mask_RH = torch.native_dropout(active_RH, dropout, True)
                masks.append(mask_RH)
            y_RD = torch.mm(active_RH, w_out_HD)
            y_TD.index_add_(0, frames_R, (y_RD * gates_R1).to(y_TD.dtype))
            hiddens.append(hidden_RH)
        ctx.save_for_backward(x_TD, gates_Q, frames_Q, *cast, *hiddens, *masks)
        ctx.rows, ctx.dropout, ctx.dtypes = rows, dropout, [parameter.dtype for parameter in parameters]
        return y_TD.to(x_TD.dtype)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        number, scale = len(ctx.dtypes), 1 / (1 - ctx.dropout)
        x_TD, gates_Q, frames_Q, *saved = ctx.saved_tensors
        cast, saved = saved[:number], saved[number:]
        busy = sum(1 for rows in ctx.rows if rows)
        hiddens, masks = iter(saved[:busy]), iter(saved[busy:])
        grad_x_TD, grad_gates_Q = torch.zeros_like(x_TD, dtype=_of_sums(x_TD)), torch.zeros_like(gates_Q)
        grads = [torch.empty_like(parameter, dtype=dtype) for parameter, dtype in zip(cast, ctx.dtypes)]
        gates_Q1 = gates_Q.unsqueeze(1).to(x_TD.dtype)
        parts = (part.split(ctx.rows) for part in (frames_Q, gates_Q1, grad_gates_Q))
        for frames_R, gates_R1, grad_gates_R, (w_in_HD, _, w_out_HD), (dw_in, db_in, dw_out) in zip(
            *parts, _experts(cast), _experts(grads)
        ):
            if not len(frames_R):
                for grad in (dw_in, db_in, dw_out):
                    grad.zero_()
                continue
            x_RD, grad_RD, hidden_RH = x_TD.index_select(0, frames_R), grad_TD.index_select(0, frames_R), next(hiddens)
            active_RH = F.silu(hidden_RH)
            grad_RH = torch.mm(grad_RD, w_out_HD.t())
            if ctx.dropout:
                mask_RH = next(masks)
                active_RH = torch.ops.aten.native_dropout_backward(active_RH, mask_RH, scale)
            grad_gates_R.copy_((active_RH * grad_RH).sum(1))
            grad_RH.mul_(gates_R1)
            if ctx.dropout:
                grad_RH = torch.ops.aten.native_dropout_backward(grad_RH, mask_RH, scale)
            _product(active_RH.t(), grad_RD.mul_(gates_R1), dw_out)
            grad_RH = torch.ops.aten.silu_backward(grad_RH, hidden_RH)
            _product(grad_RH.t(), x_RD, dw_in)
            db_in.copy_(grad_RH.sum(0))
            grad_x_TD.index_add_(0, frames_R, torch.mm(grad_RH, w_in_HD).to(grad_x_TD.dtype))
        return grad_x_TD.to(x_TD.dtype), grad_TD, grad_gates_Q, None, None, None, None, *grads


def _of_sums(x_TD: Tensor) -> torch.dtype:
    return torch.promote_types(x_TD.dtype, torch.float32)


def _product(a: Tensor, b: Tensor, into: Tensor) -> None:
    """Write a product into a tensor of its own precision or another."""
    if into.dtype == a.dtype:
        torch.mm(a, b, out=into)
    else:
        into.copy_(torch.mm(a, b))


def _experts(parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Yield each expert's (w_in, b_in, w_out) from stacks listed kind by kind."""
    tiers = len(parameters) // 3
    kinds = [[part for stack in parameters[tiers * kind : tiers * (kind + 1)] for part in stack] for kind in range(3)]
    return zip(*kinds)


def _grouped(x_QI: Tensor, room: Room, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    stops_N = room.rows_N.cumsum(0).to(torch.int32)
    w_NIO = torch.cat([weight.to(x_QI.dtype) for weight in weights])
    b_NO = torch.cat([bias.to(x_QI.dtype) for bias in biases])
    expert_Q = torch.repeat_interleave(room.rows_N, output_size=room.total)
    # As a product: the gradient of an index would add up thousands of rows for each expert, one after the other.
    chosen_QN = (expert_Q.unsqueeze(1) == torch.arange(len(b_NO), device=x_QI.device)).to(x_QI.dtype)
    return torch._grouped_mm(x_QI, w_NIO, offs=stops_N) + chosen_QN @ b_NO
