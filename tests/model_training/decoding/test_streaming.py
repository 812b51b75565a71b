"""A stream says what the whole under the chunk's mask says, as it comes; the command prints it; mistakes are one line."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from model_training.data.features import Cmvn
from model_training.decoding.onnx_scorer import STREAM, ExportFolder, OnnxModel
from model_training.decoding.recognize import add_arguments, main
from model_training.decoding.search import METHODS, SearchSettings, ctc_greedy, decode_batch
from model_training.decoding.streaming import StreamingRecognizer, StreamSettings
from model_training.export.export import export
from model_training.model.chunks import Chunk
from model_training.text.perception import Grammar
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE, filterbank
from tests.support.corpus import full_model, make_checkpoint, noise, one_thread

CHUNKS = ("model.causal=true", "model.dynamic_chunks=true")
KINDS = {
    "experts": ("model.moe.experts=[3,7]",),
    "3m": ("model.moe.ffn=second", "model.moe.shared=0", "model.moe.experts=[4]", "model.moe.top_k=1")
    + ("model.moe.norm_topk=false", "model.moe.embedding_layers=1"),
    "wenet": ("model.encoder=wenet", "model.moe.ffn=none"),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Checkpoint and exported folder of every kind."""
    made = {}
    for kind, settings in KINDS.items():
        checkpoint = make_checkpoint(tmp_path_factory.mktemp(kind), *CHUNKS, *settings)
        (done, *_) = export(checkpoint, "all", "onnx", tmp_path_factory.mktemp("out") / kind, measure=False)
        made[kind] = (checkpoint, done.folder)
    return made


def whole(checkpoint: Path, folder: Path, pcm: np.ndarray, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoding and log-probabilities of the torch model, in one pass under the chunk's mask."""
    model, found = full_model(checkpoint), ExportFolder.open(folder)
    features_1F80 = torch.from_numpy(found.cmvn.apply(filterbank(pcm)))[None]
    with torch.inference_mode():
        lengths = torch.tensor([features_1F80.shape[1]])
        encoded, _ = model.encode(features_1F80, lengths, found.config["group"], chunk)
        return encoded, model.ctc_logits(encoded).log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_gives_chunk_by_chunk_what_torch_gives_of_the_whole(
    exported: dict[str, tuple[Path, Path]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, folder = exported[kind]
    recognizer, pcm = StreamingRecognizer(folder, threads=1), noise(int(2.37 * SAMPLE_RATE), seed=3)
    heard: list[np.ndarray] = []
    run = recognizer._model.encoder.run
    monkeypatch.setattr(recognizer._model, "encoder", _Listening(recognizer._model.encoder, heard))
    for chunk in (Chunk(4), Chunk(16, 1), Chunk(3, 2), Chunk(100)):
        heard.clear()
        settings = StreamSettings(chunk=chunk.frames, left=chunk.left, pause_seconds=0)
        search = SearchSettings(method="ctc_greedy")
        said = list(recognizer.stream(np.array_split(pcm, 23), settings, search))
        _, log_probs = whole(checkpoint, folder, pcm, chunk)
        np.testing.assert_allclose(np.concatenate(heard, 1), log_probs.numpy(), rtol=0, atol=1e-4)
        allowed_V = Grammar(recognizer.tokenizer, known_labels=recognizer.known_labels).ctc
        assert said[-1].recognition.ids == tuple(ctc_greedy(log_probs[0].numpy(), allowed_V))
        assert [one.final for one in said] == [False] * (len(said) - 1) + [True]
    assert run is not None


class _Listening:
    """A session that notes the log-probabilities it gives."""

    def __init__(self, session: object, heard: list[np.ndarray]) -> None:
        self._session, self._heard = session, heard
        self.get_inputs = session.get_inputs  # type: ignore[attr-defined]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(names, feed)  # type: ignore[attr-defined]
        self._heard.append(found[1])
        return found
