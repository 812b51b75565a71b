"""The starter Whisper's recipe for clips that share a window: what it is shown, and which heads are asked."""

from __future__ import annotations

import ctypes.util
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from examples.starter_engines import evaluate
from examples.starter_engines.features import Corpus
from examples.starter_engines.sharing.guide import off_path, token_places
from examples.starter_engines.sharing.windows import GAP_FRAMES, NO_SOUND, window_batches
from tests.support.engines import MODELS

FRAMES = 1000


def corpus(folder: Path, features: np.ndarray) -> Corpus:
    """Three recordings of 10 s: five sentences of 1.5 s, 0.5 s of pause behind each; the second is Chinese."""
    index = [
        {
            "start": row * FRAMES,
            "frames": FRAMES,
            "language": ("en", "zh")[row % 2],
            "snr_db": None,
            "sentences": [[at * 200, at * 200 + 150, ("we go", "你好")[row % 2]] for at in range(5)],
        }
        for row in range(3)
    ]
    (folder / "index.json").write_text(json.dumps(index), "utf-8")
    features.astype(np.float16).tofile(folder / "features.f16")
    return Corpus(folder)


def test_a_shared_window_holds_clips_of_a_language_and_says_where_each_sentence_is(tmp_path: Path) -> None:
    made = corpus(tmp_path, np.repeat(np.arange(3 * FRAMES)[:, None], 80, axis=1))  # frames say where they come from
    batches = window_batches(made, random.Random(0), 9_000)
    windows = [window for _, batch in zip(range(8), batches, strict=False) for window in batch]
    assert any(len(window.clips) > 2 for window in windows)
    assert any(len(window.clips) == 1 for window in windows)
    for window in windows:
        assert len({clip.language for clip in window.clips}) == 1
        assert window.frames <= 3000
        cut = window.cut(made.features)
        assert len(cut) == window.frames
        assert (cut == np.float32(NO_SOUND)).all(axis=1).sum() == GAP_FRAMES * (len(window.clips) - 1)
        assert window.text.replace("你好", "x").count("x") + window.text.count("we go") == len(window.sentences)
        for start, end, _ in window.sentences:
            assert end - start == 150
            assert cut[start, 0] % 200 == 0, "a sentence begins where its recording says so"


def test_tokens_are_said_along_their_own_sentence() -> None:
    text = "你好你好 we go"
    characters = [(at, at + 1) for at, letter in enumerate(text) if letter != " "]
    encoding: Any = SimpleNamespace(offsets=characters, ids=characters)
    places = token_places(encoding, text, ((100, 300, "你好你好"), (400, 500, "we go")))
    assert places == pytest.approx([62.5, 87.5, 112.5, 137.5, 206.25, 218.75, 231.25, 243.75])
    for others in ((), ((100, 300, "你好"),)):  # not the sentences of this text
        assert all(map(math.isnan, token_places(encoding, text, others)))


def test_looking_where_a_token_is_said_costs_nothing_and_elsewhere_all() -> None:
    places_BT = torch.tensor([[math.nan, 10.0, 40.0]])
    attention = torch.zeros(1, 4, 3, 60)
    attention[:, :, 1, 10] = attention[:, :2, 2, 40] = 1
    attention[:, 2:, 2, 0] = 1  # heads that are not guided may look anywhere
    attention[:, :, 0, 59] = 1  # and so may tokens that are not said
    assert float(off_path((attention, attention), places_BT)) == pytest.approx(0)
    attention[:, :2, 2] = 0
    attention[:, :2, 2, 0] = 1
    assert float(off_path((attention, attention), places_BT)) == pytest.approx(0.5, abs=0.02)
    assert float(off_path((attention,), torch.full((1, 3), math.nan))) == 0


def test_what_sharing_costs_is_measured_on_sentences_that_were_not_trained_on() -> None:
    if ctypes.util.find_library("espeak-ng") is None:
        pytest.skip("eSpeak NG is not installed")
    measured = evaluate.measure_sharing(MODELS / "whisper-starter", recordings=1)
    assert measured["windows"] < measured["clips"]
    assert measured["alone"] < 10
    assert measured["shared"] < 25
