"""`card` tells what is in a run or a hand-off; Hugging Face's own libraries read it, load by it and push it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.__main__ import main
from tests.pipeline.card.hub import Hub
from tests.pipeline.export.test_export import Samples, counts, handoff, run, truth

__all__ = ["counts", "handoff", "run", "truth"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    stand_in = Hub()
    yield stand_in
    stand_in.close()


def test_the_card_of_a_run_says_what_its_ledgers_say_and_loads_its_tars(
    run: Path, truth: Samples, tmp_path: Path
) -> None:
    import datasets
    from huggingface_hub import DatasetCard

    assert main(["card", str(run)]) == 0
    found = DatasetCard.load(run / "README.md")
    assert found.data.license == ["cc-by-4.0", "cc0-1.0"]
    assert found.data.language == ["en", "zh"]
    assert found.data.size_categories == ["n<1K"]
    assert f"| train | {len(truth)} |" in found.text
    report = json.loads((run / "report.json").read_text())
    for domain in report["domains"]:
        kept = f"{domain['kept']['samples'] / 16000 / 3600:.2f}"
        assert re.search(
            rf"\| {domain['domain']} \| .* \| {kept} \| {domain['retention_percent']:.1f} % \|", found.text
        )
    assert str(run.parent) not in found.content
    data = datasets.load_dataset(str(run), split="train", cache_dir=str(tmp_path))
    rows = data.cast_column("flac", datasets.Audio(decode=False))
    assert {row["__key__"] for row in rows} == set(truth)
    for row in rows:
        pcm, text = truth[row["__key__"]]
        assert row["txt"] == text
        assert np.array_equal(soundfile.read(BytesIO(row["flac"]["bytes"]), dtype="int16")[0], pcm)


def test_the_card_of_a_hand_off_says_its_splits(handoff: Path, counts: dict[str, int]) -> None:
    assert main(["card", str(handoff)]) == 0
    text = (handoff / "README.md").read_text()
    assert all(f"| {split} | {clips} |" in text for split, clips in counts.items())
    assert "rover.max_wer: 10" in text
    assert "configs:" not in text


def test_a_card_that_a_person_changed_is_left_alone(handoff: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(handoff)]) == 0
    path = handoff / "README.md"
    assert main(["card", str(handoff)]) == 0, "one that nobody changed is written again"
    changed = path.read_text().replace("# handoff", "# Our set")
    path.write_text(changed)
    capsys.readouterr()
    assert main(["card", str(handoff)]) == 2
    assert "was changed since it was written" in capsys.readouterr().err
    assert path.read_text() == changed
    path.unlink()


def test_the_documented_command_pushes_a_run_with_the_token_of_the_environment(run: Path, hub: Hub) -> None:
    assert main(["card", str(run)]) == 0
    upload = ["upload", "you/it", str(run), ".", "--repo-type", "dataset"]
    reach = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    told = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), *upload, "--include", "README.md", "shards/*"],
        env={**os.environ, **reach, "HF_TOKEN": "hf_secret"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert hub.created[0]["name"] == "it"
    assert hub.created[0]["type"] == "dataset"
    assert "Bearer hf_secret" in hub.tokens
    shards = {path.relative_to(run).as_posix() for path in (run / "shards").rglob("*") if path.is_file()}
    assert set(hub.files) == shards | {"README.md"}, "neither plan nor settings, which name paths of this machine"
    assert all((run / name).read_bytes() == data for name, data in hub.files.items())
