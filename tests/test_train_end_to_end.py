"""From recordings to a model that runs without torch: curate, hand off, train, evaluate, export three sizes,
recognise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_training.__main__ import main as train_main
from pipeline.__main__ import main as pipeline_main
from tests.model_training.test_train import SMALL
from tests.support import fast_engines

REPOSITORY = Path(__file__).resolve().parent.parent


def test_from_recordings_to_three_models_that_run_without_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crawl, run, handoff, model = (tmp_path / name for name in ("crawl", "run", "handoff", "model"))
    fast_engines.write_crawl(crawl, 80, seed=5)
    (tmp_path / "empty.yaml").write_text("{execution: {runner: local}}\n")
    assert pipeline_main(["run", str(tmp_path / "empty.yaml"), *fast_engines.settings(str(run), str(crawl))]) == 0
    assert (
        pipeline_main(["handoff", str(run), "--out", str(handoff), "--dev", "0.2", "--test", "0.2", "--bpe-size", "60"])
        == 0
    )
    record = json.loads((handoff / "handoff.json").read_text())
    assert {"train", "test"} <= record["splits"].keys()
    assert not list(handoff.rglob("*.flac")), "no audio is copied"
    settings = [*SMALL, "train.max_steps=3", "data.max_clip_frames=3000", "data.max_frames=6000"]
    assert train_main(["train", "--data", str(handoff), "--out", str(model), *settings]) == 0
    searching = ["--methods", "ctc_greedy,attention_rescoring", "--beam", "2"]
    assert train_main(["eval", str(model), "--data", str(handoff), *searching, "--out", str(tmp_path / "eval")]) == 0
    evaluation = str(tmp_path / "eval" / "eval.json")
    places = {"safetensors": ["all"], "onnx": ["3", "15"], "onnx-int8": ["7"]}
    for format, groups in places.items():
        for group in groups:
            out = tmp_path / format / ("" if group == "all" else f"n{group}")
            options = ["--format", format, "--group", group, "--evaluation", evaluation, "--no-speed"]
            assert train_main(["export", str(model), "--out", str(out), *options]) == 0
    for folder in ("safetensors/n3", "safetensors/n7", "safetensors/n15", "onnx/n3", "onnx/n15", "onnx-int8/n7"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert {"config.json", "tokenizer.json", "cmvn.json", "README.md"} <= names
    audio = next(crawl.rglob("*.flac"))
    capsys.readouterr()
    program = (
        "import sys; from model_training.__main__ import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    for folder in ("onnx/n3", "onnx/n15", "onnx-int8/n7"):
        arguments = ["recognize", str(tmp_path / folder), str(audio), "--beam", "2", "--json"]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert {"text", "language", "gender"} <= json.loads(line).keys()
