"""What clips teach the speaker head: which of an attribute's labels each has, and how much each label counts.

    rows ──of those known, forgetful──> targets_BK ──cross-entropy over a kind's labels, times balance──> loss_B

An unknown label teaches nothing. A rare label counts more, by the inverse of its frequency in the hand-off, so that a
kind's labels weigh alike together; by at most MOST_BALANCE times, so that a handful of clips does not rule.

Shapes: B clips, K kinds of attributes, N labels of a kind, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES
from operators.index import Row

MOST_BALANCE = 10.0
_UNKNOWN = -1


def forgetful(row: Row, share: float) -> Row:
    """Return a row of whose attributes this share is taken for unknown, the same ones in every epoch."""
    if not share:
        return row
    kept: dict[str, Any] = {
        kind: getattr(row, kind) if _lot(row.clip_id, kind) >= share else None for kind in ATTRIBUTES
    }
    return replace(row, **kept)


def _lot(clip_id: str, kind: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{clip_id}\n{kind}".encode()).digest()[:8], "big") / 2**64


def balance(counts: Sequence[int]) -> list[float]:
    """Return how much each label counts, of so many clips each: 1 in the mean over clips, before the bound."""
    there = [count for count in counts if count]
    even = sum(there) / max(len(there), 1)
    return [min(max(even / count, 1 / MOST_BALANCE), MOST_BALANCE) if count else 1.0 for count in counts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attribute:
    kind: str
    labels: tuple[str, ...]
    ids: tuple[int, ...]
    balance: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SpeakerLabels:
    """SpeakerLabels are the attributes that a head answers, with the labels that are known of each."""

    attributes: tuple[_Attribute, ...]
    tokenizer: Tokenizer
    dropout: float = 0.0
    """share of labels that are taken for unknown"""

    @classmethod
    def of(
        cls,
        known_labels: Mapping[str, Sequence[str]],
        counts: Mapping[str, Mapping[str, int]],
        tokenizer: Tokenizer,
        dropout: float = 0.0,
    ) -> SpeakerLabels:
        """Return what is taught of these labels by kind, of which a hand-off has so many, as it calls them."""
        made = []
        for kind, labels in known_labels.items():
            there: Counter[str] = Counter()
            for name, count in counts[kind].items():
                if (label := tokenizer.scheme.known(kind, name)) is not None:
                    there[label] += count
            ids = tuple(tokenizer.special_id(kind, label) for label in labels)
            weights = tuple(balance([there[label] for label in labels]))
            made.append(_Attribute(kind=kind, labels=tuple(labels), ids=ids, balance=weights))
        return cls(tuple(made), tokenizer, dropout)

    def targets(self, rows: Sequence[Row]) -> Tensor:
        """Return the place of each clip's label among those of each kind (B, K), -1 where it is not known."""
        places = []
        for row in rows:
            kept = forgetful(row, self.dropout)
            named = [self.tokenizer.scheme.known(one.kind, getattr(kept, one.kind)) for one in self.attributes]
            places.append(
                [
                    one.labels.index(label) if label in one.labels else _UNKNOWN
                    for one, label in zip(self.attributes, named, strict=True)
                ]
            )
        return torch.tensor(places, dtype=torch.int64).reshape(len(rows), len(self.attributes))

    def loss(self, logits_BV: Tensor, targets_BK: Tensor) -> Tensor:
        """Return the cross-entropy per clip (B,), balanced and summed over the kinds that are known of it, float32."""
        total_B = logits_BV.new_zeros(len(logits_BV), dtype=torch.float32)
        for place, one in enumerate(self.attributes):
            log_probs_BN = logits_BV[:, list(one.ids)].float().log_softmax(-1)
            target_B = targets_BK[:, place]
            own_B = target_B.clamp(min=0)
            weight_B = log_probs_BN.new_tensor(one.balance)[own_B]
            loss_B = -weight_B * log_probs_BN.gather(1, own_B.unsqueeze(1)).squeeze(1)
            total_B = total_B + loss_B.masked_fill(target_B == _UNKNOWN, 0)
        return total_B
