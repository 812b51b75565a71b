"""An exported model as an engine of curation: what it answers, and how sure it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from math import inf
from pathlib import Path

import numpy as np
import pytest

from model_training.decoding.engine import ExportedRecogniser
from model_training.decoding.recognize import Recognizer
from model_training.decoding.search import ctc_greedy, ctc_log_prob
from model_training.export.export import export
from operators.asr.recogniser import transcribe
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE
from tests.support.corpus import make_checkpoint, one_thread


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that heard clips of 2 s at most, and two languages."""
    settings = ("model.moe.experts=[3,7]", "data.max_clip_frames=200", "data.max_frames=2000")
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("run"), *settings)
    (done,) = export(checkpoint, 7, "onnx", tmp_path_factory.mktemp("onnx") / "n7", measure=False)
    config = json.loads((done.folder / "config.json").read_text())
    config["learnt"] = {"language": ["en", "yue"], "event": []}
    (done.folder / "config.json").write_text(json.dumps(config))
    return done.folder


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2000, int(seconds * SAMPLE_RATE)).astype(np.int16)


def test_it_writes_what_recognize_writes_for_long_and_short_clips(folder: Path) -> None:
    engine, recognizer = ExportedRecogniser(str(folder), beam=3), Recognizer(folder, threads=1)
    clips = [noise(1.1, 1), noise(5.3, 2), noise(0.01, 3)]
    told: list[tuple[int, float]] = []
    answers = transcribe(engine, clips, ["yue", None, None], progress=lambda *done: told.append(done))
    expected = recognizer.recognize(clips, method="ctc_greedy")
    assert [answer.text for answer in answers] == [found.text.lower() for found in expected]
    assert any(answer.text for answer in answers)
    assert [(clips, round(seconds, 2)) for clips, seconds in told] == [(1, 1.1), (2, 6.4), (3, 6.41)]
    assert {answer.engine for answer in answers} == {f"exported/{folder.parent.name}-{folder.name}"}


@pytest.mark.parametrize("method", ["ctc_greedy", "attention_rescoring"])
def test_a_language_is_given_or_heard_among_those_it_knows(folder: Path, method: str) -> None:
    engine = ExportedRecogniser(str(folder), method=method, beam=2)
    given, heard = engine.transcribe([noise(1.5, 4), noise(1.5, 4)], ["zh", None])
    assert (given.language, given.language_prob) == ("zh", None)
    (found,) = Recognizer(folder, threads=1).recognize([noise(1.5, 4)], method="attention_rescoring", beam=2)
    assert heard.language == found.language
    assert heard.language in ("en", "yue")
    assert heard.language_prob is not None
    assert 0.5 <= heard.language_prob <= 1


def test_how_sure_it_is_is_the_mean_over_tokens_of_ctcs_log_probability(folder: Path) -> None:
    engine = ExportedRecogniser(str(folder))
    (window,) = engine.windows(noise(1.5, 5))
    (answer,) = engine.transcribe([noise(1.5, 5)], ["en"])
    assert answer.avg_logprob == pytest.approx(window.log_prob / (len(window.found.ids) + 1))
    assert -inf < window.log_prob < 0


def test_ctc_log_prob_is_the_sum_over_all_alignments() -> None:
    random = np.random.default_rng(0)
    logits_SV = random.normal(size=(5, 3))
    log_probs_SV = logits_SV - np.logaddexp.reduce(logits_SV, axis=1, keepdims=True)
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        labels = tuple(ctc_greedy(np.eye(3)[list(path)]))
        score = sum(log_probs_SV[frame, token] for frame, token in enumerate(path))
        total[labels] = np.logaddexp(total.get(labels, -inf), score)
    for labels, expected in total.items():
        assert ctc_log_prob(log_probs_SV, labels) == pytest.approx(expected)
    assert ctc_log_prob(log_probs_SV, (1, 1, 1, 1)) == -inf


def test_mistakes_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="engine exported has no method best: give one of ctc_greedy"):
        ExportedRecogniser(str(folder), method="best")
    with pytest.raises(UserError, match=r"no folder .*nowhere: give one that 'python -m model_training export' wrote"):
        ExportedRecogniser(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="several exports: give one of them"):
        ExportedRecogniser(str(folder.parent))
