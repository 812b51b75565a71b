"""The recipe of the starter perception model: the clips it cuts, what it ships, and what its card says."""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from examples import demo
from examples.starter_engines.perception import card, clips, train
from model_training.data.handoff import Handoff
from model_training.evaluation.sets import load_model
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE
from tests.support.corpus import full_model, make_checkpoint


def line(name: str, sound: str | None, texts: list[str], language: str = "en", **more: Any) -> dict[str, Any]:
    """A recording of a made-up corpus, whose sentences of a second lie two seconds apart."""
    segments = [{"start_s": 1.0 + 2 * n, "end_s": 2.0 + 2 * n, "text": text} for n, text in enumerate(texts)]
    return {"path": name, "language": language, "snr_db": None, "sound": sound, "segments": segments} | more


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    lines = [
        line("hiss.wav", "pink", []),
        line("song.wav", "music", []),
        line("clean.wav", None, ["one two", "three four"], voice="f1"),
        line("street.wav", "street", ["今天很热"], "zh", voice="john", snr_db=5),
        line("two.wav", None, ["five", "six", "seven"], voice="f1+john"),
    ]
    noise = np.random.default_rng(0).normal(0, 0.05, 10 * SAMPLE_RATE)
    for each in lines:
        soundfile.write(folder / each["path"], noise, SAMPLE_RATE)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines), "utf-8")
    return path


def test_clips_carry_what_the_corpus_knows(manifest: Path) -> None:
    made = list(clips.clips(manifest, clips.ALL, seed=1))
    by_recording: dict[str, list[dict[str, Any]]] = {}
    for clip in made:
        by_recording.setdefault(clip.about["recording_id"], []).append(clip.about)
        assert clip.pcm.dtype == np.int16
    assert "hiss.wav" not in by_recording, "a sound without a name teaches nothing by itself"
    assert all(about["events"] == ["music"] and not about["text"] for about in by_recording["song.wav"])
    (first, *_) = by_recording["clean.wav"]
    assert (first["language"], first["gender"], first["events"]) == ("en", "female", [])
    (street,) = by_recording["street.wav"]
    assert (street["language"], street["gender"], street["text"]) == ("zh", "male", "今天很热")
    assert "events" not in street, "whether cars count as heard behind speech is not known"
    assert all("gender" not in about for about in by_recording["two.wav"])


def test_clean_single_sentences_come_first(manifest: Path) -> None:
    easy = [clip.about["text"] for clip in clips.clips(manifest, clips.EASY, seed=1)]
    assert easy == ["one two", "three four", "five", "six", "seven"]


def test_a_run_of_sentences_is_whole_and_no_sentence_is_lost() -> None:
    r = random.Random(0)
    for _ in range(50):
        texts = [f"w{n}" for n in range(r.randint(1, 9))]
        row = line("x", None, texts)
        seconds = row["segments"][-1]["end_s"] + r.uniform(0, 1)
        made = list(clips.runs(row["segments"], seconds, r.uniform(0, 9), r))
        assert " ".join(text for _, _, text in made).split() == texts
        assert all(0 <= start < end <= seconds for start, end, _ in made)
        for (_, end, _), (start, _, _) in pairwise(made):
            assert end <= start + clips.MARGIN_SECONDS  # they may share the pause, and no speech


def test_both_hand_offs_have_one_vocabulary(manifest: Path, tmp_path: Path) -> None:
    made = {name: Handoff.open(str(folder)) for name, folder in clips.handoffs(manifest, tmp_path, seed=1).items()}
    assert made["all"].tokenizer().fingerprint == made["easy"].tokenizer().fingerprint
    assert "今" in made["easy"].tokenizer().characters
    assert {"music"} == set(made["all"].record.attributes["events"])
    with tarfile.open(tmp_path / "tars" / "easy" / "clips.tar") as tar:
        member = tar.extractfile(tar.getnames()[0])
        assert member is not None
        pcm, rate = soundfile.read(io.BytesIO(member.read()))
    assert rate == SAMPLE_RATE
    assert len(pcm) >= SAMPLE_RATE


def test_what_is_shipped_is_the_averaged_weights_in_16_bits(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", "model.moe.experts=[3,7]", ema=True)
    folder = train.ship(path.parent, tmp_path / "shipped")
    loaded = load_model(str(folder))
    want = {name: (tensor * 0.5).bfloat16().float() for name, tensor in full_model(path).state_dict().items()}
    assert all(torch.equal(tensor, want[name]) for name, tensor in loaded.model.state_dict().items())
    assert str(tmp_path) not in (folder / "trainer.json").read_text()
    assert not (folder / "optimizer.safetensors").exists()


def test_a_training_that_ends_badly_ends_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="run-easy ended with exit code 1"):
        train.train({"easy": tmp_path / "none", "all": tmp_path / "none"}, tmp_path, seed=1)


def test_the_card_says_what_was_measured(tmp_path: Path) -> None:
    cell = {"language": "zh", "voices": "seen", "clips": 4, "tokens": 50, "errors": {"3": 5, "7": 1}}
    measured = {
        "sentences_a_clip": 3,
        "method": "ctc_greedy",
        "parameters": {"3": {"total": 10, "active": 9}, "7": {"total": 20, "active": 9}},
        "cells": [cell | {"snr_db": None}, cell | {"snr_db": 5, "errors": {"3": 10, "7": 2}}],
        "nonspeech_clips": 4,
        "nonspeech_clips_with_text": {"3": 1, "7": 0},
    }
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    (tmp_path / "training.json").write_text(json.dumps({"data": "eSpeak NG", "hours": 12, "voices": 65, "seed": 13}))
    text = card.card(tmp_path)
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
    assert "| 3 | zh | seen | 10.0 | 20.0 |" in text
    assert "| 7 | zh | seen | 2.0 | 4.0 |" in text
    assert "1 (N = 3), 0 (N = 7)" in text


def test_the_demo_sums_all_sets_and_its_table_fits_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    for folder, wrong in (("before", 30), ("after", 10)):
        counts = {"substitutions": wrong, "deletions": 2, "insertions": 1, "reference": 1000}
        results = [
            {"set": name, "group": size, "method": "ctc_greedy", "characters": counts}
            for name in ("live", "sports")
            for size in (3, 15)
        ]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "eval.json").write_text(json.dumps({"results": results}))
    (tmp_path / demo.HANDOFF).mkdir(parents=True)
    (tmp_path / demo.HANDOFF / "handoff.json").write_text(json.dumps({"splits": {"train": {"clips": 67}}}))
    assert demo.errors(Path("after")) == {3: (26, 2000), 15: (26, 2000)}
    demo.show(Path("before"), Path("after"))
    text = capsys.readouterr().out
    assert "66 (3.3 %)" in text
    assert "26 (1.3 %)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "did not help" not in text
    demo.show(Path("after"), Path("before"))
    said = " ".join(capsys.readouterr().out.split())
    assert "did not help N = 3, 15: the starter model knew this speech, and in 3 minutes it hears 67 clips" in said
