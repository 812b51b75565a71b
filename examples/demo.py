"""`make demo`: curate the demo crawl with the starter engines, hold the labels against the truth, hand them off,
evaluate the starter perception model on held-out recordings, fine-tune it for three minutes, evaluate again, export.

Where the starter engines are not there, engines with random weights take their place: the curation runs, and nothing is
kept, because two engines that hear nothing do not agree; then there is nothing to train on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path("examples/starter_engines/models")
STARTER = MODELS / "perception-starter"
CONFIG = "examples/starter_engines/perception/config.yaml"
RANDOM = Path("runs/random_engines")
RUN = Path("runs/demo")
HANDOFF = Path("runs/demo-handoff")
BEFORE = Path("runs/demo-before")
MODEL = Path("runs/demo-model")
EXPORTED = Path("runs/demo-exported")
MINUTES = 3
LEAST_CLIPS = 20
METHOD = "ctc_greedy"
HALF = ("--interpolate", "0.5")


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
    """Hand off, evaluate, fine-tune, evaluate, export, recognise."""
    split = ["--dev", "0", "--test", "0.3", "--seed", "3"]
    call("pipeline", "handoff", str(RUN), "--out", str(HANDOFF), *split, "--tokenizer", str(STARTER))
    evaluate(STARTER, BEFORE)
    # What the model knows it should keep, and the clips are few: no clip is heard twice alike, and of what the steps
    # change half is taken (WiSE-FT); the whole knows the clips by heart, and hears others no better.
    settings = [
        f"train.init_from={STARTER}",
        f"train.max_minutes={MINUTES}",
        "train.threads=0",
        "train.log_steps=20",
        "model.dropout=0.1",
        "optimizer={learning_rate: 0.0003, schedule: constant, warmup_steps: 10}",
        "data.augment={speed_factors: [0.9, 1.0, 1.1], noise_probability: 0.5, snr_db: [8, 25]}",
        "data.augment={frequency_masks: 2, frequency_mask_bins: 15, time_masks: 2, time_mask_frames: 20}",
    ]
    place = ["--data", str(HANDOFF), "--config", CONFIG, "--out", str(MODEL)]
    call("model_training", "train", *place, *settings)
    evaluate(MODEL, MODEL, *HALF)
    show(BEFORE, MODEL)
    export = ["--format", "onnx-int8", "--out", str(EXPORTED), "--evaluation", str(MODEL / "eval.json")]
    call("model_training", "export", str(MODEL), *HALF, *export)
    recordings = sorted((ROOT / "examples/demo_crawl/crawl/audiobook").glob("*.mp3"))
    if recordings:
        call("model_training", "recognize", str(EXPORTED / "n3"), str(recordings[0].relative_to(ROOT)))


def evaluate(model: Path, out: Path, *weights: str) -> None:
    record = json.loads((ROOT / HANDOFF / "handoff.json").read_text("utf-8"))
    split = "test" if "test" in record["splits"] else "train"
    asked = ["--data", str(HANDOFF), "--split", split, "--methods", METHOD, "--out", str(out)]
    call("model_training", "eval", str(model), *weights, *asked)


def show(before: Path, after: Path) -> None:
    """Print what fine-tuning did to each size: errors in characters of the held-out recordings."""
    table = Table(
        title="Character errors on recordings held out of training", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for heading in ("routed experts", "before", "after", "characters"):
        table.add_column(heading, justify="right")
    counts = [errors(folder) for folder in (before, after)]
    for size, (_, characters) in counts[0].items():
        shares = [f"{wrong} ({100 * wrong / characters:.1f} %)" for wrong, _ in (each[size] for each in counts)]
        table.add_row(str(size), *shares, str(characters))
    print()
    Console(width=min(80, Console().width)).print(table)
    worse = [str(size) for size in counts[0] if counts[1][size][0] >= counts[0][size][0]]
    if worse:
        clips = json.loads((ROOT / HANDOFF / "handoff.json").read_text("utf-8"))["splits"]["train"]["clips"]
        print(
            f"Fine-tuning did not help N = {', '.join(worse)}: the starter model knew this speech, and in {MINUTES} "
            f"minutes it hears {clips} clips often enough to learn them by heart."
        )


def errors(folder: Path) -> dict[int, tuple[int, int]]:
    """Return (wrong characters, characters) of all test sets by number of experts, as eval.json has them."""
    found: dict[int, tuple[int, int]] = {}
    for result in json.loads((ROOT / folder / "eval.json").read_text("utf-8"))["results"]:
        counts = result["characters"]
        wrong, characters = found.get(result["group"], (0, 0))
        wrong += counts["substitutions"] + counts["deletions"] + counts["insertions"]
        found[result["group"]] = (wrong, characters + counts["reference"])
    return found


def main() -> None:
    # A demo starts afresh; a run of yours goes on where it stopped.
    for folder in (RUN, HANDOFF, BEFORE, MODEL, EXPORTED):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    kept = curate()
    if kept >= LEAST_CLIPS:
        train()
    else:
        print(f"\nOnly {kept} clips were kept: too few to train on, so the demo ends with the curation.")
    print(f"\nThe report to read and listen to: {ROOT / RUN / 'report.html'}")
    print(f"How good the labels are:          {ROOT / RUN / 'score.html'}")
    if kept >= LEAST_CLIPS:
        print(f"What the starter model hears:     {ROOT / BEFORE / 'eval.html'}")
        print(f"What the model has learnt:        {ROOT / MODEL / 'eval.html'}")
        print(f"The models for devices:           {ROOT / EXPORTED}")


if __name__ == "__main__":
    main()
