"""Feed-forward blocks: one dense block, and a stack of experts of equal shape.

Shapes: T frames, D model width, H width of one expert, E experts of a stack, X = E*H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.model.router import Routing


class FeedForward(nn.Module):
    """A FeedForward is the dense block: D -> H -> D with SiLU."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.w_in = nn.Linear(d_model, d_ff)
        self.w_out = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """Return x (..., D) through the block. `routing` is not looked at: dense and routed blocks are called alike."""
        return self.w_out(self.dropout(F.silu(self.w_in(x))))


class Experts(nn.Module):
    """Experts are a stack of feed-forward blocks of equal shape, held as one tensor per part."""

    def __init__(self, n_experts: int, d_model: int, width: int) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.w_in_EHD = nn.Parameter(torch.empty(n_experts, width, d_model))
        self.b_in_EH = nn.Parameter(torch.empty(n_experts, width))
        self.w_out_EHD = nn.Parameter(torch.empty(n_experts, width, d_model))
        self.b_out_ED = nn.Parameter(torch.empty(n_experts, d_model))
        for weight, bias, inputs in ((self.w_in_EHD, self.b_in_EH, d_model), (self.w_out_EHD, self.b_out_ED, width)):
            bound = inputs**-0.5  # nn.Linear's own
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

        self._cast: tuple[object, list[Tensor]] | None = None
        self.keeps_cast = True
        """False where weights come and go in the same memory, which does not show that they moved."""

    def stacks(self) -> list[Tensor]:
        """Return the parameters: weights and biases in, weights and biases out."""
        return [self.w_in_EHD, self.b_in_EH, self.w_out_EHD, self.b_out_ED]

    def cast(self, dtype: torch.dtype) -> list[Tensor]:
        """Return `stacks()` in another precision, without gradients: made again only when the weights have moved.

        A step's micro-batches share them. They are the parameters themselves where those have the precision.
        """
        stacks = self.stacks()
        if all(stack.dtype == dtype for stack in stacks):
            return [stack.detach() for stack in stacks]
        if not self.keeps_cast:
            return [stack.detach().to(dtype) for stack in stacks]
        # What is made inside inference mode cannot be used in training.
        state = (dtype, torch.is_inference_mode_enabled(), *((stack.data_ptr(), stack._version) for stack in stacks))
        if self._cast is None or self._cast[0] != state:
            self._cast = state, [stack.detach().to(dtype) for stack in stacks]
        return self._cast[1]

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_cast": None}

    def forward(self, x_TD: Tensor, gates_TE: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        """Return the sum of all experts over all frames (T, D), each weighted by its gate where there are gates.

        The layout of the stack makes one wide block of it without a copy; a gate scales its expert's stretch of the
        hidden layer.
        """
        _, width, d_model = self.w_in_EHD.shape
        hidden_TX = F.silu(F.linear(x_TD, self.w_in_EHD.view(-1, d_model), self.b_in_EH.view(-1)))
        hidden_TX = drop(hidden_TX, dropout)
        w_out_DX = self.w_out_EHD.view(-1, d_model).t()
        if gates_TE is None:
            return F.linear(hidden_TX, w_out_DX, self.b_out_ED.sum(0))
        gates_TE = gates_TE.to(hidden_TX.dtype)
        hidden_TX = (hidden_TX.view(-1, self.n_experts, width) * gates_TE.unsqueeze(-1)).flatten(1)
        return F.linear(hidden_TX, w_out_DX) + F.linear(gates_TE, self.b_out_ED.t())


def drop(hidden: Tensor, dropout: float) -> Tensor:
    """Return the hidden layer with a share of it dropped; without dropout the tensor itself, and no random number."""
    return F.dropout(hidden, dropout) if dropout else hidden
