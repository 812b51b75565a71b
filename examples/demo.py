"""`make demo`: curate the demo crawl with the starter engines, hold the labels against the truth, hand them off, train
a tiny elastic model for a few minutes, evaluate it, and export its sizes.

Where the starter engines are not there, engines with random weights take their place: the curation runs, and nothing is
kept, because two engines that hear nothing do not agree; then there is nothing to train on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path("examples/starter_engines/models")
RANDOM = Path("runs/random_engines")
RUN = Path("runs/demo")
HANDOFF = Path("runs/demo-handoff")
MODEL = Path("runs/demo-model")
EXPORTED = Path("runs/demo-exported")
MINUTES = 4
LEAST_CLIPS = 20


def call(program: str, *arguments: str) -> None:
    print(f"\n$ python -m {program} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", program, *arguments], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def curate() -> int:
    """Curation and its score; how many clips were kept."""
    settings: list[str] = []
    if not (ROOT / MODELS / "whisper-starter").is_dir():
        print("The starter engines are not here: using RANDOM WEIGHTS. They hear nothing, so nothing will be kept.\n")
        subprocess.run([sys.executable, "examples/random_engines/make.py", str(RANDOM)], cwd=ROOT, check=True)
        settings = [
            f"asr.model={RANDOM}/whisper-random",
            f"copilot.models={{'*': {RANDOM}/paraformer-random}}",
            "hallucination={min_avg_logprob: -100}",
        ]
    call("pipeline", "run", "examples/demo.yaml", *settings)
    call("pipeline", "score", str(RUN), "--truth", "examples/demo_crawl/truth.jsonl")
    return int(json.loads((ROOT / RUN / "report.json").read_text())["total"]["kept"]["clips"])


def train() -> None:
    call("pipeline", "handoff", str(RUN), "--out", str(HANDOFF), "--test", "0.2", "--seed", "1", "--bpe-size", "100")
    # Little audio and little time: many short steps
    settings = [f"train.max_minutes={MINUTES}", "data.max_frames=6000", "train.log_steps=20"]
    call("model_training", "train", "--data", str(HANDOFF), "--config", "tiny", "--out", str(MODEL), *settings)
    split = "test" if "test" in json.loads((ROOT / HANDOFF / "handoff.json").read_text())["splits"] else "train"
    evaluation = ["--methods", "ctc_greedy,attention_rescoring", "--beam", "4", "--out", str(MODEL)]
    call("model_training", "eval", str(MODEL), "--data", str(HANDOFF), "--split", split, *evaluation)
    export = ["--format", "onnx-int8", "--out", str(EXPORTED), "--evaluation", str(MODEL / "eval.json")]
    call("model_training", "export", str(MODEL), *export)
    recordings = sorted((ROOT / "examples/demo_crawl/crawl/audiobook").glob("*.mp3"))
    if recordings:
        call("model_training", "recognize", str(EXPORTED / "n3"), str(recordings[0].relative_to(ROOT)))


def main() -> None:
    for folder in (RUN, HANDOFF, MODEL, EXPORTED):
        shutil.rmtree(
            ROOT / folder, ignore_errors=True
        )  # a demo starts afresh; a run of yours goes on where it stopped
    kept = curate()
    if kept >= LEAST_CLIPS:
        train()
    else:
        print(f"\nOnly {kept} clips were kept: too few to train on, so the demo ends with the curation.")
    print(f"\nThe report to read and listen to: {ROOT / RUN / 'report.html'}")
    print(f"How good the labels are:          {ROOT / RUN / 'score.html'}")
    if kept >= LEAST_CLIPS:
        print(f"What the model learned of them:   {ROOT / MODEL / 'eval.html'}")
        print(f"The models for devices:           {ROOT / EXPORTED}")


if __name__ == "__main__":
    main()
