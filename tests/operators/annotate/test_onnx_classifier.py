"""The classifier that the recipe makes, and the annotator that runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from examples.attribute_classifier.make import STATISTICS, fit, make, statistics
from operators.annotate.annotator import Heard, Opinion
from operators.annotate.onnx_classifier import OnnxClassifier
from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.filterbank import filterbank

REPOSITORY = Path(__file__).resolve().parents[3]


def voice(deep: bool, seed: int, seconds: float = 1.0) -> np.ndarray:
    band = (100, 900) if deep else (900, 3000)
    noise = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE))
    swell = 1.1 + np.sin(np.arange(len(noise)) / SAMPLE_RATE * 2 * np.pi * (3 if deep else 9))
    return (sosfilt(butter(4, band, "band", fs=SAMPLE_RATE, output="sos"), noise) * swell).astype(np.int16)


@pytest.mark.parametrize("which", STATISTICS)
def test_it_knows_what_it_was_not_trained_on_and_computes_what_it_was_trained_on(which: str, tmp_path: Path) -> None:
    clips = [(voice(deep, seed), "male" if deep else "female") for seed in range(8) for deep in (True, False)]
    file = tmp_path / "gender.onnx"
    assert make(clips, "gender", which, file) == ["female", "male"]
    heard = [Heard(pcm=voice(deep, 100, 0.7), text="") for deep in (True, False)]
    answers = OnnxClassifier(str(file)).annotate(heard)
    assert [answer["gender"].labels for answer in answers] == [("male",), ("female",)]
    # The graph computes the statistics of the recipe, in onnxruntime.
    x_ND = np.stack([statistics(pcm, which) for pcm, _ in clips])
    weights_DC, biases_C = fit(x_ND, [label for _, label in clips], ["female", "male"], 1e-3)
    for clip, answer in zip(heard, answers, strict=True):
        logits_C = statistics(clip.pcm, which) @ weights_DC + biases_C
        odds_C = np.exp(logits_C - logits_C.max())
        assert answer["gender"].score == pytest.approx(float((odds_C / odds_C.sum()).max()), abs=2e-3)


def test_who_is_unsure_abstains_and_no_event_is_an_answer(tmp_path: Path) -> None:
    clips = [(voice(deep, seed), "none" if deep else "dog") for seed in range(8) for deep in (True, False)]
    make(clips, "events", "mean", tmp_path / "events.onnx")
    quiet, dog = (Heard(pcm=voice(deep, 100), text="") for deep in (True, False))
    told = OnnxClassifier(str(tmp_path / "events.onnx"), min_probability=0.5)
    found = told.annotate([quiet, dog, Heard(pcm=np.zeros(100, np.int16), text="")])
    assert [answer.get("events", Opinion(("?",))).labels for answer in found] == [(), ("dog",), ("?",)]
    assert OnnxClassifier(str(tmp_path / "events.onnx"), min_probability=1).annotate([dog]) == [{}]
    assert told.name == "onnx/events"
    told.close()


def test_the_recipe_reads_a_labelled_set(tmp_path: Path) -> None:
    rows = []
    for seed in range(4):
        for deep in (True, False):
            name = f"{seed}-{deep}.wav"
            soundfile.write(tmp_path / name, voice(deep, seed, 2), SAMPLE_RATE)
            rows.append({"uri": name, "start": 0.5, "end": 1.5, "text": "a", "gender": "male" if deep else "female"})
    rows.append({"uri": "gone.wav", "text": "of no known gender"})
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["-m", "examples.attribute_classifier.make", str(tmp_path / "set.jsonl"), "--kind", "gender"]
    command += ["--out", str(tmp_path / "gender.onnx")]
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "gender of 8 clips, {'female': 4, 'male': 4}" in done.stdout, done.stderr
    assert OnnxClassifier(str(tmp_path / "gender.onnx")).annotate([Heard(pcm=voice(True, 9), text="")])


def test_a_mistake_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two labels of gender or more"):
        make([(voice(True, 0), "male")], "gender", "mean", tmp_path / "one.onnx")
    with pytest.raises(UserError, match="no file"):
        OnnxClassifier(str(tmp_path / "one.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="no classifier that names its kind"):
        OnnxClassifier(str(tmp_path / "bad.onnx"))
    assert filterbank(voice(True, 0)).shape[1] == 80
