"""Aligners and embeddings over libraries of others, each by a stand-in of what it asks of them.

The stand-ins answer as the libraries do (whisperX 3.8, FunASR 1.2). The real whisperX and CAM++ took these calls, with
random weights of the true architectures.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from operators.align.aligners import FunAsrAligner, WhisperxAligner
from operators.annotate.annotator import Heard
from operators.annotate.embeddings import FunAsrEmbedder
from operators.clip import SAMPLE_RATE
from operators.errors import UserError


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    made = ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)
    parent, _, child = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            module(monkeypatch, parent)
        monkeypatch.setattr(sys.modules[parent], child, made, raising=False)


def bursts(*spans: tuple[float, float], seconds: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    pcm = rng.normal(0, 5, round(seconds * SAMPLE_RATE))
    for start, end in spans:
        a, b = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
        pcm[a:b] += rng.normal(0, 3000, b - a)
    return pcm.astype(np.int16)


PCM = bursts((0.4, 0.8), (1.2, 1.6))


def edges(words: Any) -> list[float]:
    return [edge / SAMPLE_RATE for word in words for edge in (word.start, word.end)]


def test_wav2vec2_places_words_by_their_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    letters = {"[pad]": 0, "|": 1, "h": 2, "i": 3, "o": 4, "'": 5}

    def model(audio: torch.Tensor) -> SimpleNamespace:
        frames = audio.shape[1] // 320
        logits = torch.full((1, frames, 6), -9.0)
        logits[:, :, 0] = 0
        for token, second in ((2, 0.5), (3, 0.6), (1, 1.0), (4, 1.4)):
            at = round(second * SAMPLE_RATE / 320)
            logits[0, at] = -9
            logits[0, at, token] = 9
        return SimpleNamespace(logits=logits)

    asked: list[tuple[str, str, str | None]] = []

    def load_align_model(language: str, device: str, model_name: str | None = None) -> tuple[Any, dict[str, Any]]:
        asked.append((language, device, model_name))
        if model_name == "none":
            raise ValueError("no such model\nand more")
        return model, {"dictionary": letters, "language": language, "type": "huggingface"}

    module(monkeypatch, "whisperx.alignment", load_align_model=load_align_model)
    aligner = WhisperxAligner("some/wav2vec2", language="English")
    assert asked == [("en", "cpu", "some/wav2vec2")]
    found, other, unknown, short = aligner.align(
        [
            Heard(pcm=PCM, text="Hi, Ωmega o", language="en-GB"),
            Heard(pcm=PCM, text="hi", language="zh"),
            Heard(pcm=PCM, text="Ω", language="en"),
            Heard(pcm=PCM[:100], text="hi", language="en"),
        ]
    )
    assert other is unknown is short is None
    assert found is not None
    assert [word.text for word in found] == ["Hi", "o"], "what it cannot spell is left out"
    assert edges(found) == pytest.approx([0.4, 0.8, 1.2, 1.6], abs=0.03)
    with pytest.raises(UserError, match=r"no alignment model for en \(no such model\)$"):
        WhisperxAligner("none")


def test_funasr_places_characters_and_embeds_voices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    class AutoModel:
        def __init__(self, model: str, **options: Any) -> None:
            if not (Path(model) / "model.pt").exists():
                raise AssertionError("no weights")
            assert options["frontend_conf"] == {"dither": 0.0}, "the same clip has the same times"
            self.kwargs = {"init_param": str(Path(model) / "model.pt")}

        def generate(self, input: Any, **more: Any) -> list[dict[str, Any]]:
            if more.get("data_type") == ("sound", "text"):
                assert input[0].dtype == np.float32
                words = input[1].split()
                return [{"text": input[1], "timestamp": [[400 * n, 400 * n + 300] for n in range(len(words[:3]))]}]
            return [{"spk_embedding": torch.ones(1, 192)}]

    module(monkeypatch, "funasr", AutoModel=AutoModel)
    (tmp_path / "config.yaml").write_text("model: tiny")
    with pytest.raises(UserError, match=r"cannot load .*: no weights"):
        FunAsrAligner(str(tmp_path))
    (tmp_path / "model.pt").write_bytes(b"")
    found, english, longer = FunAsrAligner(str(tmp_path)).align(
        [
            Heard(pcm=PCM, text="你好，吗", language="cmn"),
            Heard(pcm=PCM, text="hello", language="en"),
            Heard(pcm=PCM, text="你好你好", language="zh"),
        ]
    )
    assert english is longer is None, "of another language, or of which the model gives other tokens"
    assert [(word.text, word.start, word.end) for word in found or ()] == [
        ("你", 0, 4800),
        ("好", 6400, 11_200),
        ("吗", 12_800, 17_600),
    ]
    assert FunAsrEmbedder(str(tmp_path)).embed(PCM).shape == (192,)
