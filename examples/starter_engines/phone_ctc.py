"""An auxiliary CTC head over phones, for training only: it teaches an encoder what sounds there are before any word is
known.

    texts ──operators.text.phones──> phones ──> inventory (some 200: pinyin initials, finals with tone, CMU phones)
    encoder output [batch, frames, width] ──Linear──> CTC loss per phone

Words are many and each is rare; phones are few and in every word. With this head both engines leave the plateau, where
the decoder only predicts likely sentences, several times sooner than with CTC over their own tokens. It is dropped at
export.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from operators.text.phones import Phonetiser

if TYPE_CHECKING:
    import torch

_PHONETISER = Phonetiser(tones=True)


@lru_cache(maxsize=1 << 16)
def phones(text: str, language: str) -> tuple[str, ...]:
    return tuple(_PHONETISER.phones(text, language))


def inventory(texts: Sequence[tuple[str, str]]) -> list[str]:
    """Every phone of the (text, language) pairs, sorted."""
    return sorted({phone for text, language in texts for phone in phones(text, language)})


def ctc_loss(
    logits: torch.Tensor, frames: torch.Tensor, texts: Sequence[tuple[str, str]], ids: dict[str, int]
) -> torch.Tensor:
    """CTC loss per phone. logits: [batch, frames, phones + 1], blank last; frames: [batch], valid frames of each.

    Phones outside the inventory are left out; a clip with more phones than frames counts nothing.
    """
    import torch
    from torch.nn.functional import ctc_loss as loss

    targets = [[ids[phone] for phone in phones(text, language) if phone in ids] for text, language in texts]
    lengths = torch.tensor([len(target) for target in targets])
    total = loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        torch.tensor([phone for target in targets for phone in target]),
        frames.clamp(max=logits.shape[1]),
        lengths,
        blank=len(ids),
        reduction="sum",
        zero_infinity=True,
    )
    return total / lengths.sum().clamp(min=1)
