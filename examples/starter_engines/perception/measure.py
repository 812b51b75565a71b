"""How good the starter perception model is: what each size gets wrong, by language, voice and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from examples.starter_engines.evaluate import errors, held_out_clips, silences
from examples.starter_engines.perception.clips import int16


def measure(folder: Path, count: int, sentences: int, method: str = "ctc_greedy") -> dict[str, Any]:
    """Return what the checkpoint in `folder` gets wrong of held-out sentences, by language, voice, noise and size.

    count: clips for each language and kind of voice, in every noise. A row's `errors` are tokens by number of experts.
    """
    from model_training.evaluation.sets import load_model

    loaded = load_model(str(folder))
    clips = held_out_clips(count, sentences)
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for clip in clips:
        key = (clip.language, clip.voices, clip.snr_db)
        cell = cells.setdefault(
            key, dict(zip(("language", "voices", "snr_db"), key, strict=True)) | {"clips": 0, "tokens": 0, "errors": {}}
        )
        cell["clips"] += 1
        for size in loaded.model.sizes:
            text = hear(loaded, clip.audio, size, method)
            wrong, tokens = errors(clip.text, text)
            cell["errors"][str(size)] = cell["errors"].get(str(size), 0) + wrong
        cell["tokens"] += tokens
    quiet = silences(count)
    with_text = {
        str(size): sum(bool(hear(loaded, audio, size, method)) for audio in quiet) for size in loaded.model.sizes
    }
    sizes = {str(size): loaded.model.parameter_counts(size) for size in loaded.model.sizes}
    return {
        "sentences_a_clip": sentences,
        "method": method,
        "parameters": sizes,
        "cells": list(cells.values()),
        "nonspeech_clips": len(quiet),
        "nonspeech_clips_with_text": with_text,
    }


def hear(loaded: Any, audio: np.ndarray, n_experts: int, method: str) -> str:
    """Return the text that a loaded checkpoint hears in float32 [samples]."""
    import torch

    from model_training.decoding.scorer import ModelScorer
    from model_training.decoding.search import SearchSettings, decode_batch
    from model_training.text.perception import Grammar
    from operators.filterbank import filterbank

    features_F80 = loaded.cmvn.apply(filterbank(int16(audio)))
    scorer = ModelScorer(
        loaded.model, torch.from_numpy(features_F80[np.newaxis]), torch.tensor([len(features_F80)]), n_experts
    )
    grammar = Grammar(loaded.tokenizer, known_labels=loaded.known_labels)
    (found,) = decode_batch(scorer, loaded.tokenizer, grammar, SearchSettings(method=method, beam=4))
    return found.text.lower()
