"""Where the decoder should look while it writes, as a loss on half of its cross-attention heads.

    off_diagonal   clips of one sentence: token n of N near frame n / N of the speech
    off_path       any run of sentences whose times are known: each token near its place in its own sentence

Guided attention (Tachibana et al., ICASSP 2018) is how text-to-speech finds an alignment early; recognition finds it
by the same means, and keeps its place in a window of several clips. The guided heads are those that tell word times.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding

PROMPT = 4
"""tokens before the text: start, language, task, no timestamps"""
STEPS_PER_SECOND = 50
"""of cross-attention."""
NEAR_STEPS = 15
"""0.3 s, about what a speaker is off a steady pace within a sentence."""
HAN_WEIGHT, LETTER_WEIGHT = 1.0, 0.3
"""how long a character takes to say, of a syllable."""


def off_diagonal(attentions: tuple[torch.Tensor, ...], batch: dict[str, Any]) -> torch.Tensor:
    """Return how far guided heads look from where a steady speaker would be: 0 to 1.

    attentions: of each layer, [batch, heads, tokens, steps].
    """
    import torch

    weights = _guided(attentions)
    tokens, frames = weights.shape[1:]
    counts = (batch["targets"] != -100).sum(1)[:, None, None]  # the text, its end, and the language
    place = (torch.arange(tokens)[None, :, None] - PROMPT + 1.5) / counts.clamp(min=1)
    time = torch.arange(frames)[None, None, :] / batch["frames"][:, None, None]
    far = 1 - torch.exp(-((place - time) ** 2) / (2 * 0.15**2))
    said = (batch["targets"] != -100) & (torch.arange(tokens) >= PROMPT - 1)[None, :] & (counts[:, :, 0] > 1)
    return (weights * far).sum(-1)[said].mean() if bool(said.any()) else weights.sum() * 0


def off_path(attentions: tuple[torch.Tensor, ...], places_BT: torch.Tensor) -> torch.Tensor:
    """Return how far guided heads look from where each token is said: 0 to 1.

    attentions: of each layer, [batch, heads, tokens, steps]. places_BT: steps, NaN where nothing is said.
    """
    import torch

    weights = _guided(attentions)
    time = torch.arange(weights.shape[2])[None, None, :]
    said = ~places_BT.isnan()
    far = 1 - torch.exp(-((places_BT.nan_to_num()[:, :, None] - time) ** 2) / (2 * NEAR_STEPS**2))
    return (weights * far).sum(-1)[said].mean() if bool(said.any()) else weights.sum() * 0


def _guided(attentions: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """float32 [batch, tokens, steps]: the mean of the first half of each layer's heads."""
    import torch

    heads = attentions[0].shape[1] // 2
    return torch.stack([layer[:, :heads] for layer in attentions]).float().mean((0, 2))


def token_places(encoding: Encoding, text: str, sentences: tuple[tuple[int, int, str], ...]) -> list[float]:
    """Return where each token of a text is said, in steps of cross-attention; NaN where that is not known.

    encoding: of `text`, which is `sentences` in a row, each with its frames of 10 ms. Within a sentence the pace is
    taken to be steady, a Latin letter a third of a Han character.
    """
    said = np.concatenate(([0.0], np.cumsum([_weight(character) for character in text])))
    lengths = [sum(map(_weight, sentence)) for _, _, sentence in sentences]
    edges = np.concatenate(([0.0], np.cumsum(lengths)))
    if not sentences or not math.isclose(edges[-1], said[-1], abs_tol=1e-6):
        return [math.nan] * len(encoding.ids)
    places = []
    for first, last in encoding.offsets:
        middle = (said[first] + said[last]) / 2
        own = min(int(np.searchsorted(edges, middle, side="right")) - 1, len(sentences) - 1)
        start, end, _ = sentences[own]
        share = (middle - edges[own]) / lengths[own]
        places.append((start + share * (end - start)) * STEPS_PER_SECOND / 100)
    return places


def _weight(character: str) -> float:
    if character == " ":
        return 0.0
    return LETTER_WEIGHT if character.isascii() else HAN_WEIGHT
