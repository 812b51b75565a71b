"""A run in which the recogniser takes some clips for another language than their recording's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.clip import Hypothesis
from operators.shard import read_ledger
from pipeline.__main__ import main
from tests.support import fast_engines

MINE = "tests.pipeline.test_language_of_recordings:Undecided"


class Undecided(fast_engines.HashRecogniser):
    """Takes clips of a multiple of three samples for French, with a probability of 0.4, unless it is told better."""

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        heard = super().transcribe(clips, languages)
        return [
            replace(each, text="bonjour tout le monde ici", language="fr", language_prob=0.4)
            if told is None and len(clip) % 3 == 0
            else each
            for clip, told, each in zip(clips, languages, heard, strict=True)
        ]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    fast_engines.write_crawl(folder, 40, seed=5, domains=["live"])
    return folder


def clips(folder: Path, crawl: Path, *more: str) -> list[dict[str, Any]]:
    config = folder / "empty.yaml"
    config.write_text("{}\n")
    settings = fast_engines.settings(str(folder / "run"), str(crawl), "execution.runner=local", "plan.unit_minutes=10")
    assert main(["run", str(config), *settings, f"asr.engine={MINE}", *more]) == 0
    tables = (read_ledger(path.read_bytes())[0] for path in sorted((folder / "run").glob("shards/*/*.parquet")))
    return [row for table in tables for row in table.to_pylist() if row["hypotheses"]]


def test_they_are_heard_again_and_the_ledger_and_show_say_so(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = clips(tmp_path, crawl)
    assert {row["language"] for row in found} == {"en"}
    again = [row for row in found if row["hypotheses"][0]["identified_language"]]
    assert 3 <= len(again) < len(found) / 2
    for row in again:
        first = row["hypotheses"][0]
        assert (first["identified_language"], first["identified_prob"], first["language_prob"]) == ("fr", 0.4, 0.9)
    assert any(row["outcome"] == "kept" for row in again)
    assert main(["show", str(tmp_path / "run"), again[0]["clip_id"]]) == 0
    assert "taken for fr (40%) at first, heard again in the language" in " ".join(capsys.readouterr().out.split())


def test_they_can_be_rejected(crawl: Path, tmp_path: Path) -> None:
    found = clips(tmp_path, crawl, "asr.retry_language=false")
    uncertain = [row for row in found if row["reason"] == "uncertain_language"]
    assert len(uncertain) >= 3
    assert {(row["stage"], row["language"], row["detail"]) for row in uncertain} == {
        ("transcribe", "fr", "fr with 0.40 in a recording of en")
    }


def test_it_can_be_switched_off(crawl: Path, tmp_path: Path) -> None:
    reasons = Counter(row["reason"] for row in clips(tmp_path, crawl, "asr.sure_language_prob=0"))
    assert reasons["no_copilot"] >= 3
    assert not reasons["uncertain_language"]
