"""Errors of greedy CTC while a model trains: cheap enough for every evaluation on dev, of every size.

    logits_BSV ──best token of each frame──> ids ──text──> edits to the reference, as `eval` counts them

Shapes: B clips, S encoder frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from model_training.decoding.search import merge_frames
from model_training.evaluation.metrics import ErrorRate, reference_tokens
from model_training.text.perception import Grammar, parse
from model_training.text.tokenizer import Tokenizer
from operators.index import Row


class GreedyErrors:
    """A GreedyErrors counts edits of what CTC alone recognises."""

    def __init__(self, tokenizer: Tokenizer, known_labels: Mapping[str, Collection[str]]) -> None:
        self._tokenizer = tokenizer
        self._closed_V = torch.from_numpy(~Grammar(tokenizer, known_labels=known_labels).ctc)

    def count(self, logits_BSV: Tensor, lengths_B: Tensor, rows: Sequence[Row]) -> tuple[int, int]:
        """Return the edits and the tokens of the references; clips without a word count in neither."""
        closed_V = self._closed_V.to(logits_BSV.device)
        best_BS = logits_BSV.masked_fill(closed_V, -torch.inf).argmax(-1).cpu().numpy()
        total = ErrorRate()
        for row, best_S, frames in zip(rows, best_BS, lengths_B.tolist(), strict=True):
            reference = reference_tokens(row.label or "", row.language)
            if reference:
                text = parse(merge_frames(best_S[:frames]), self._tokenizer).text
                total = total.plus(ErrorRate.of(reference, reference_tokens(text, row.language)))
        return total.errors, total.reference
