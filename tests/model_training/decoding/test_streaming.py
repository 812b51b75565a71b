"""A stream says what the whole under the chunk's mask says, as it comes; the command prints it."""

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

from model_training.data.features import subsampled
from model_training.decoding.onnx_scorer import STREAM, ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.recognize import add_arguments, main
from model_training.decoding.search import METHODS, SearchSettings, ctc_greedy, decode_batch
from model_training.decoding.streaming import StreamingRecognizer, StreamSettings
from model_training.export.export import export
from model_training.model.chunks import Chunk
from model_training.text.perception import Grammar
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE, filterbank
from operators.shard import feature_frames
from tests.support.corpus import full_model, make_checkpoint, noise, one_thread

CHUNKS = ("model.causal=true", "model.dynamic_chunks=true")
KINDS = {
    "experts": ("model.moe.experts=[3,7]",),
    "3m": (
        "model.moe.ffn=second",
        "model.moe.shared=0",
        "model.moe.experts=[4]",
        "model.moe.top_k=1",
        "model.moe.norm_topk=false",
        "model.moe.embedding_layers=1",
    ),
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


class _Listening:
    """A session that notes the log-probabilities it gives."""

    def __init__(self, session: object, heard: list[np.ndarray]) -> None:
        self._session, self._heard = session, heard
        self.get_inputs = session.get_inputs  # type: ignore[attr-defined]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(names, feed)  # type: ignore[attr-defined]
        self._heard.append(found[1])
        return found


@pytest.mark.parametrize("method", METHODS)
def test_at_its_end_an_utterance_is_what_the_method_makes_of_the_whole(
    exported: dict[str, tuple[Path, Path]], method: str
) -> None:
    checkpoint, folder = exported["experts"]
    recognizer, pcm = StreamingRecognizer(folder, threads=1), noise(int(1.9 * SAMPLE_RATE), seed=4)
    search = SearchSettings(method=method, beam=3)
    *so_far, last = recognizer.stream([pcm], StreamSettings(chunk=8, pause_seconds=0), search)
    encoded, log_probs = (part.numpy() for part in whole(checkpoint, folder, pcm, Chunk(8)))
    model = OnnxModel(ExportFolder.open(folder), threads=1)
    grammar = Grammar(recognizer.tokenizer, known_labels=recognizer.known_labels)
    (want,) = decode_batch(OnnxScorer.of_encoded(model, encoded, log_probs), recognizer.tokenizer, grammar, search)
    assert last.recognition.ids == want.ids
    assert last.recognition.score == pytest.approx(want.score, abs=1e-3)
    frames = subsampled(feature_frames(len(pcm)))
    assert (last.start_seconds, last.end_seconds) == (0.0, pytest.approx(0.04 * frames))
    assert so_far
    assert not any(one.final for one in so_far)


def test_utterances_end_at_a_pause_and_at_the_longest_window(exported: dict[str, tuple[Path, Path]]) -> None:
    recognizer, pcm = StreamingRecognizer(exported["experts"][1], threads=1), noise(70 * SAMPLE_RATE, seed=5)
    search = SearchSettings(method="ctc_greedy")
    ends = [one for one in recognizer.stream([pcm], StreamSettings(chunk=25, pause_seconds=0), search) if one.final]
    assert [(round(one.start_seconds), round(one.end_seconds)) for one in ends] == [(0, 30), (30, 60), (60, 70)]


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(arguments))


def test_the_command_hears_files_and_standard_input_alike(
    exported: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, pcm, path = str(exported["experts"][1]), noise(2 * SAMPLE_RATE, seed=6), tmp_path / "talk.wav"
    soundfile.write(path, pcm, SAMPLE_RATE, subtype="PCM_16")
    arguments = ("--stream", "--chunk", "8", "--method", "ctc_greedy", "--pause", "0", "--threads", "1")
    assert main(options(folder, str(path), *arguments, "--verbose")) == 0
    out, err = capsys.readouterr()
    assert "chunks of 0.32 s" in err
    assert "95th percentile" in err
    (line,) = out.splitlines()  # in a pipe only what is final
    name, text = line.split("\t")[:2]
    assert name == str(path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pcm.astype("<i2").tobytes() + b"x")))
    assert main(options(folder, "-", *arguments, "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["audio"], record["text"], record["start"]) == ("-", text, 0.0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert main(options(folder, "-", *arguments)) == 2
    assert "an audio file, not raw samples" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(options(folder, str(path), *arguments)) == 0
    *partials, last = capsys.readouterr().out.split("\r\x1b[K")[1:]
    assert last == f"{line}\n"
    assert partials
    assert "\n" not in "".join(partials)


def test_mistakes_are_one_line(exported: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    folder = str(exported["experts"][1])
    for more, words in (
        (["--chunk", "0"], "at least 1 frame"),
        (["--left", "-1"], "0 chunks or more"),
        (["--pause", "-1"], "0 seconds or more"),
        (["--task", "gender"], "leave --task gender out"),
        (["--device", "gpu"], "no device is called gpu"),
    ):
        with pytest.raises(UserError, match=words):
            main(options(folder, "talk.wav", "--stream", *more))
    whole_only = export(
        make_checkpoint(tmp_path / "run", "model.moe.ffn=none"), 0, "onnx", tmp_path / "out", measure=False
    )
    assert not (whole_only[0].folder / STREAM).exists()
    with pytest.raises(UserError, match="was not trained for chunks: train it with"):
        main(options(str(whole_only[0].folder), "talk.wav", "--stream"))
