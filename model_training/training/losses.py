"""The training objective: 0.3 CTC + 0.7 attention with label smoothing, and what a model's other parts add.

    objective = ctc_weight * ctc + (1 - ctc_weight) * (attention + extra_attention) + embedding_weight * embedding_ctc
                + balance + speaker_weight * speaker + distill_weight * distillation

With a right-to-left decoder each attention is (1 - reverse_weight) * attention + reverse_weight * reverse_attention
(U2++, Wu et al. 2021).

extra_attention is of 3M's intermediate decoders and embedding_ctc of its shared embedding network (3M, eq. 10-12);
balance is what the routers add (eq. 8 and 9, or Switch); speaker is the speaker head's, which is not smoothed
(data/speaker_labels.py); distillation is how far a smaller size's answers are from the largest's. A model without
these parts has the first two.

Losses are sums over a clip's frames or tokens and come back one per clip, so that a clip whose loss is not finite can
be named and left out, and so that means over clips do not depend on how clips were divided into batches and workers.

Shapes: B clips, S encoder frames, L decoder tokens, U tokens of CTC, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from model_training.config import LossSettings, ModelSettings, MoESettings
from model_training.model.device import to_device
from model_training.model.router import Load
from model_training.model.speech_model import Outputs

IGNORE = -1
TEXT_ENDS = -2
BLANK = 0
CLOSED = -1e4  # not minus infinity, with which CTC's gradient is not a number
BALANCE, SPEAKER, DISTILLATION = "balance", "speaker", "distillation"


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers are what a pass said of a batch, detached: what other sizes may learn from."""

    ctc_logits_BSV: Tensor
    logits_BLV: Tensor


@dataclass
class Losses:
    """Losses are what a micro-batch costs, and how often the decoder was right."""

    objective_B: Tensor
    """what is optimised, `balance` not included: it is no clip's own"""
    parts: dict[str, Tensor]
    """the parts of it by name, before their weights, (B,) each"""
    balance: Tensor | None
    """of the routers: mean over the frames of the micro-batch, already weighted; None where they add nothing"""
    correct: Tensor
    """decoder tokens predicted right, teacher-forced"""
    tokens: Tensor
    loads: list[Load] = field(default_factory=list)
    """of the experts, where the model has any"""
    answers: Answers | None = None
    """where other sizes learn from them"""
    edits: tuple[int, int] = (0, 0)
    """on dev, where the model says what it recognises: edits to the references, and tokens of these"""

    def add(self, name: str, part_B: Tensor, weight: float) -> None:
        """Add a part to the objective, (B,)."""
        self.objective_B = self.objective_B + weight * part_B
        self.parts[name] = part_B.detach()


def part_names(model: ModelSettings) -> tuple[str, ...]:
    """Return the names of the parts that the objective of such a model has."""
    has_experts = model.moe.ffn != "none"
    return (
        "ctc",
        "attention",
        *(("reverse_attention",) if model.reverse_layers else ()),
        *(("extra_attention",) if model.extra_decoders else ()),
        *(("extra_reverse_attention",) if model.extra_decoders and model.reverse_layers else ()),
        *(("embedding_ctc",) if has_experts and model.moe.embedding_layers else ()),
        *((SPEAKER,) if model.speaker_head.attributes else ()),
        *((DISTILLATION,) if has_experts and model.moe.sampling == "sandwich" else ()),
        *((BALANCE,) if has_experts and model.moe.balance in ("switch", "sparsity") else ()),
    )


def losses(
    outputs: Outputs,
    ctc_targets_BU: Tensor,
    ctc_lengths_B: Tensor,
    targets_BL: Tensor,
    loss: LossSettings,
    moe: MoESettings,
    open_BV: Tensor | None = None,
    text_ends_K: Tensor | None = None,
    reverse_targets_BL: Tensor | None = None,
) -> Losses:
    """Return the losses of one micro-batch.

    Args:
        ctc_targets_BU: text and events.
        ctc_lengths_B: of these; like the encoder's best on the CPU, where CTC of any device looks at lengths.
        targets_BL: next tokens, -1 where none counts, -2 where any of `text_ends_K` is right.
        open_BV: true for tokens that nobody knows to be absent from a clip (its events, when they were never labelled):
            they take no part in its softmax, so their absence from the targets teaches nothing.
        text_ends_K: ids of tokens that end a text; None where no target is -2.
        reverse_targets_BL: the targets with their content turned; None where no decoder reads from the end.
    """
    open_B1V = None if open_BV is None else open_BV.unsqueeze(1)

    def ctc(logits_BSV: Tensor) -> Tensor:
        return ctc_loss(without(logits_BSV, open_B1V), outputs.encoded_lengths_B, ctc_targets_BU, ctc_lengths_B)

    def attention(logits_BLV: Tensor, wanted_BL: Tensor) -> Tensor:
        return attention_loss(logits_BLV, wanted_BL, loss.label_smoothing, open_B1V, text_ends_K)

    parts = {"ctc": ctc(outputs.ctc_logits_BSV), "attention": attention(outputs.logits_BLV, targets_BL)}
    extras = [attention(extra_BLV, targets_BL) for extra_BLV in outputs.extra_logits]
    decoders_B = parts["attention"]
    for extra_B in extras:
        decoders_B = decoders_B + extra_B
    if extras:
        parts["extra_attention"] = torch.stack(extras).sum(0)
    if outputs.reverse_logits_BLV is not None and reverse_targets_BL is not None:
        reverse_B = parts["reverse_attention"] = attention(outputs.reverse_logits_BLV, reverse_targets_BL)
        if extras:
            turned = [attention(extra_BLV, reverse_targets_BL) for extra_BLV in outputs.extra_reverse_logits]
            parts["extra_reverse_attention"] = torch.stack(turned).sum(0)
            reverse_B = reverse_B + parts["extra_reverse_attention"]
        decoders_B = (1 - loss.reverse_weight) * decoders_B + loss.reverse_weight * reverse_B
    objective_B = loss.ctc_weight * parts["ctc"] + (1 - loss.ctc_weight) * decoders_B
    if outputs.embedding_ctc_logits_BSV is not None:
        parts["embedding_ctc"] = ctc(outputs.embedding_ctc_logits_BSV)
        objective_B = objective_B + moe.embedding_weight * parts["embedding_ctc"]
    counted_BL = targets_BL >= 0
    correct = ((outputs.logits_BLV.argmax(-1) == targets_BL) & counted_BL).sum()
    detached = {name: part_B.detach() for name, part_B in parts.items()}
    return Losses(objective_B, detached, outputs.routing.loss(), correct, counted_BL.sum())


def distillation(
    outputs: Outputs, teacher: Answers, targets_BL: Tensor, loss: LossSettings, open_B1V: Tensor | None = None
) -> Tensor:
    """Return how far answers are from a teacher's, per clip (B,), float32.

    It is the Kullback-Leibler divergence of CTC's answers, summed over the encoder's frames, and of the decoder's,
    summed over the tokens that count, weighed with each other as in the objective. Tokens of `open_B1V` are left out.
    """

    def divergence(logits: Tensor, taught: Tensor) -> Tensor:
        own, wanted = without(logits, open_B1V).log_softmax(-1), without(taught, open_B1V).log_softmax(-1)
        return (wanted.exp() * (wanted - own)).sum(-1)

    frames_BS = divergence(outputs.ctc_logits_BSV, teacher.ctc_logits_BSV)
    there_S = torch.arange(frames_BS.shape[1], device=frames_BS.device)
    beyond_BS = there_S >= to_device(outputs.encoded_lengths_B, frames_BS.device).unsqueeze(1)
    tokens_BL = divergence(outputs.logits_BLV, teacher.logits_BLV)
    ctc_B = frames_BS.masked_fill(beyond_BS, 0).sum(1)
    return loss.ctc_weight * ctc_B + (1 - loss.ctc_weight) * tokens_BL.masked_fill(targets_BL == IGNORE, 0).sum(1)


def without(logits: Tensor, open_B1V: Tensor | None) -> Tensor:
    """Return the logits, in float32, with next to no probability for the tokens left out."""
    return logits.float() if open_B1V is None else logits.float().masked_fill(open_B1V, CLOSED)


def ctc_loss(logits_BSV: Tensor, lengths_B: Tensor, targets_BU: Tensor, target_lengths_B: Tensor) -> Tensor:
    """Return CTC's negative log-likelihood per clip (B,), float32."""
    log_probs_SBV = logits_BSV.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs_SBV, targets_BU, lengths_B, target_lengths_B, BLANK, reduction="none")


def attention_loss(
    logits_BLV: Tensor,
    targets_BL: Tensor,
    smoothing: float,
    open_B1V: Tensor | None = None,
    text_ends_K: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy per clip (B,), summed over its tokens, float32.

    Where only the end of the text is known it is that of the sum over the tokens which end it.

    Label smoothing spreads over the vocabulary without the tokens left out.
    """
    log_probs_BLV = without(logits_BLV, open_B1V).log_softmax(-1)
    loss_BL = -log_probs_BLV.gather(-1, targets_BL.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    if text_ends_K is not None:
        ended_BL = -log_probs_BLV[..., text_ends_K].logsumexp(-1)
        loss_BL = torch.where(targets_BL == TEXT_ENDS, ended_BL, loss_BL)
    if smoothing:
        if open_B1V is None:
            spread_BL = -log_probs_BLV.mean(-1)
        else:
            spread_BL = -log_probs_BLV.masked_fill(open_B1V, 0).sum(-1) / (~open_B1V).sum(-1)
        loss_BL = (1 - smoothing) * loss_BL + smoothing * spread_BL
    return loss_BL.masked_fill(targets_BL == IGNORE, 0).sum(1)


def finite(losses_B: Tensor) -> Tensor:
    """Return true for clips whose loss may be used (B,)."""
    return torch.isfinite(losses_B.detach())
