"""An exported model as an annotator: it says what the decoder says, and abstains where it is unsure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_training.decoding.annotate import ExportedAnnotator
from model_training.decoding.recognize import Recognizer
from model_training.export.export import export
from operators.annotate.annotator import Heard, opinions
from operators.clip import KINDS, SAMPLE_RATE
from operators.errors import UserError
from tests.support.corpus import make_checkpoint, one_thread


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_checkpoint(tmp_path_factory.mktemp("run"), "data.max_clip_frames=200", "data.max_frames=2000")
    return export(made, 3, "onnx", tmp_path_factory.mktemp("onnx") / "n3", measure=False)[0].folder


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2000, int(seconds * SAMPLE_RATE)).astype(np.int16)


def test_it_says_what_the_model_answers_in_one_window_and_in_several(folder: Path) -> None:
    pcm = [noise(1.5, 0), noise(1.9, 1), noise(7, 2), noise(0.01, 3)]
    found = ExportedAnnotator(str(folder), min_probability=0).annotate([Heard(pcm=each, text="") for each in pcm])
    assert found[3] == {}, "too short to hear"
    recognizer = Recognizer(folder, threads=1)
    for each, said in zip(pcm[:2], found):
        (wanted,) = recognizer.recognize([each], method="attention_rescoring", beam=1)
        (by_ctc,) = recognizer.recognize([each], method="ctc_greedy")
        for kind in ("language", "age", "gender", "emotion"):
            label = said[kind].labels[0] if kind in said else None
            assert label == getattr(wanted, kind)
            assert kind not in said or 0 < (said[kind].score or 0) <= 1
        assert set(said["events"].labels) == set(by_ctc.events)
    assert set(found[2]) == set(found[0])


def test_who_is_unsure_abstains_and_only_what_is_asked_is_answered(folder: Path) -> None:
    clips = [Heard(pcm=noise(1.5, 0), text="")]
    all_ = ExportedAnnotator(str(folder), min_probability=0).annotate(clips)[0]
    assert {"gender", "events"} <= all_.keys() <= set(KINDS)
    assert ExportedAnnotator(str(folder), min_probability=1).annotate(clips)[0].keys() == {"events"}
    gender = ExportedAnnotator(str(folder), kinds=["gender"], min_probability=0)
    assert gender.annotate(clips)[0] == {"gender": all_["gender"]}
    heard: list[tuple[int, float]] = []
    gender.annotate(clips * 2, progress=lambda done, seconds: heard.append((done, seconds)))
    assert heard == [(1, 1.5), (2, 3.0)]
    ((named,),) = opinions(gender, clips, KINDS)
    assert (named.annotator, named.kind) == (gender.name, "gender")
    gender.close()


def test_a_mistake_is_a_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not trained on style: it knows"):
        ExportedAnnotator(str(folder), kinds=["style"])
    with pytest.raises(UserError, match="min_probability=2"):
        ExportedAnnotator(str(folder), min_probability=2)
    with pytest.raises(UserError, match="no folder"):
        ExportedAnnotator(str(tmp_path / "none"))
