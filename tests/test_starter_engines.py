"""The starter engines and the demo crawl: what is shipped loads through the real code and hears what its card says it
hears.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.demo_crawl.make import familiarity
from examples.starter_engines import (
    cards,
    evaluate,
    grammar,
)
from examples.starter_engines.perception import card as perception_card
from examples.starter_engines.perception.clips import int16
from examples.starter_engines.perception.measure import hear
from model_training.decoding.engine import ExportedRecogniser
from model_training.evaluation.sets import load_model
from operators.audio.decode import AudioError, decode
from tests.support.engines import DEMO, MODELS, SAMPLE_RATE, load_whisper

# --- what is shipped --------------------------------------------------------------------------------------------------


def test_models_are_small_enough_to_ship_and_say_what_they_are() -> None:
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in MODELS.iterdir()
    }
    assert sizes.pop("perception-starter") <= 8e6
    assert sum(sizes.values()) <= 12e6
    for engine in ("whisper", "paraformer", "perception"):
        text = (MODELS / f"{engine}-starter" / "README.md").read_text("utf-8")
        assert "only its small grammar in synthetic voices" in " ".join(text.split())


@pytest.mark.parametrize("engine", ["whisper", "paraformer"])
def test_the_shipped_cards_say_what_is_on_record(engine: str) -> None:
    measured = json.loads((MODELS / "measured.json").read_text("utf-8"))
    folder = MODELS / f"{engine}-starter"
    assert cards.card(measured, engine, folder) == (folder / "README.md").read_text("utf-8")


def test_the_shipped_card_of_the_perception_model_says_what_is_on_record() -> None:
    folder = MODELS / "perception-starter"
    assert perception_card.card(folder) == (folder / "README.md").read_text("utf-8")


def test_the_card_of_a_model_of_your_own_says_nothing_of_the_starter_engines_speech(tmp_path: Path) -> None:
    measured = json.loads((MODELS / "measured.json").read_text("utf-8"))
    cell = measured["cells"][0] | {"voices": "given", "clips": 7, "tokens": 91, "whisper": 12.34}
    measured |= {"manifest": "dev.jsonl", "sentences_a_clip": None, "cells": [cell]}
    record = {"data": "train.jsonl", "hours": 12.34, "voices": None, "seed": 11}
    (tmp_path / "training.json").write_text(json.dumps(record))
    text = cards.card(measured, "whisper", tmp_path)
    for said in ("`train.jsonl`: 12.3 h", "`dev.jsonl`", "7 clips with 91 tokens (zh)", "| zh | given | 12.3 |\n"):
        assert said in text
    assert not re.search("eSpeak|grammar|Han characters|voices are|16 h", text)


def truth() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / "truth.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def clips() -> list[tuple[str, str, np.ndarray]]:
    """The first ten sentences of two clean readings of the demo crawl, zh and en: language, text, float32 samples."""
    out = []
    for language in ("zh", "en"):
        row = next(
            row
            for row in truth()
            if row["domain"] == "audiobook" and row["language"] == language and row["voices"] == "seen"
        )
        pcm = decode(str(DEMO / "crawl" / row["path"])).pcm.astype(np.float32) / 32768
        for segment in row["segments"][:10]:
            first, last = (int(segment[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
            out.append((language, segment["text"], pcm[max(0, first - 3000) : last + 3000]))
    return out


def error_rate(clips: list[tuple[str, str, np.ndarray]], heard: list[str], language: str) -> float:
    counts = [
        evaluate.errors(text, said) for (spoken, text, _), said in zip(clips, heard, strict=True) if spoken == language
    ]
    return sum(wrong for wrong, _ in counts) / sum(count for _, count in counts)


CLEAN_LIMIT = 0.12
"""what the cards say of clean speech (up to 0.05), with room for a sample of ten sentences; a wrong front end gives
0.9
"""


def test_the_shipped_whisper_hears_the_demo_crawl(clips: list[tuple[str, str, np.ndarray]]) -> None:
    languages = [language for language, _, _ in clips]
    heard = evaluate.hear_whisper(MODELS / "whisper-starter", [audio for _, _, audio in clips], languages)
    assert error_rate(clips, heard, "zh") < CLEAN_LIMIT
    assert error_rate(clips, heard, "en") < CLEAN_LIMIT
    pipeline = load_whisper(MODELS / "whisper-starter")
    named = [pipeline.detect_language(audio) == language for language, _, audio in clips[::5]]
    assert all(named)


def test_the_shipped_whisper_writes_nothing_for_silence() -> None:
    quiet = [1e-4 * np.random.default_rng(seed).standard_normal(5 * SAMPLE_RATE) for seed in range(3)]
    assert evaluate.hear_whisper(MODELS / "whisper-starter", quiet, ["zh", "en", "zh"]) == ["", "", ""]


def test_the_shipped_paraformer_hears_the_demo_crawl(clips: list[tuple[str, str, np.ndarray]]) -> None:
    heard = evaluate.hear_paraformer(MODELS / "paraformer-starter", [audio for _, _, audio in clips])
    assert error_rate(clips, heard, "zh") < CLEAN_LIMIT
    assert error_rate(clips, heard, "en") < CLEAN_LIMIT


def test_the_shipped_perception_model_hears_the_demo_crawl(clips: list[tuple[str, str, np.ndarray]]) -> None:
    """As an engine of curation, and from its checkpoint at every size."""
    heard = [int16(audio) for _, _, audio in clips]
    engine = ExportedRecogniser(str(MODELS / "perception-starter" / "n3"))
    answers = engine.transcribe(heard, [None] * len(heard))
    assert [answer.language for answer in answers] == [language for language, _, _ in clips]
    loaded = load_model(str(MODELS / "perception-starter"))
    texts = {size: [hear(loaded, audio, size, "ctc_greedy") for _, _, audio in clips] for size in loaded.model.sizes}
    for said in ([answer.text for answer in answers], *texts.values()):
        assert error_rate(clips, said, "zh") < CLEAN_LIMIT
        assert error_rate(clips, said, "en") < CLEAN_LIMIT


# --- demo crawl -------------------------------------------------------------------------------------------------------


def test_the_demo_crawl_is_what_its_truth_says() -> None:
    rows = truth()
    minutes = sum(row["duration_s"] for row in rows) / 60
    assert 40 <= minutes <= 50
    assert sum(file.stat().st_size for file in (DEMO / "crawl").rglob("*") if file.is_file()) <= 12e6
    files = {str(path.relative_to(DEMO / "crawl")) for path in (DEMO / "crawl").rglob("*") if path.is_file()}
    assert {path for path in files if not path.startswith("broken/")} == {row["path"] for row in rows}
    assert {row["domain"] for row in rows} == {"audiobook", "interview", "live", "sports", "music", "silence"}
    for row in rows:
        assert row["recording_id"] == row["path"], "as in a ledger"
        assert row["voices"] == familiarity({segment["speaker"] for segment in row["segments"]})
        assert (row["segments"] == []) == (row["domain"] in ("music", "silence"))
        ends = [0.0] + [segment["end_s"] for segment in row["segments"]]
        assert all(
            before <= segment["start_s"] < segment["end_s"]
            for before, segment in zip(ends, row["segments"], strict=False)
        )
        assert ends[-1] <= row["duration_s"]
        assert all(grammar.split(segment["text"]) == "test" for segment in row["segments"])


def test_the_demo_crawl_decodes_to_its_length_and_its_speech_is_where_the_truth_says() -> None:
    for row in truth():
        pcm = decode(str(DEMO / "crawl" / row["path"])).pcm
        assert abs(len(pcm) / SAMPLE_RATE - row["duration_s"]) < 0.15, row["path"]
        if row["domain"] == "audiobook":  # the only domain quiet enough between sentences to see it in the level
            level = np.abs(pcm.astype(np.float32))
            for segment in row["segments"]:
                first, last = (int(segment[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
                assert level[first:last].mean() > 10 * level[last + 1000 : last + 3000].mean()


def test_the_broken_files_are_broken() -> None:
    paths = sorted((DEMO / "crawl" / "broken").iterdir())
    assert len(paths) >= 5
    for path in paths:
        with pytest.raises(AudioError):
            decode(str(path))
