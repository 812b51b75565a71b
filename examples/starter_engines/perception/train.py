"""The starter perception model: its training by model_training itself, and the folder that is shipped.

easy: clean single sentences ──train──> weights
    ──train.init_from──> all: runs of sentences, noise, sounds ──train──> checkpoint ──finish──> perception-starter/
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.starter_engines.perception.card import CONFIG, DEVICE_SIZE, card
from examples.starter_engines.perception.measure import measure
from operators.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase of the training is a run of `model_training train`, begun from the weights of the one before."""

    data: str
    settings: tuple[str, ...]
    """over those of CONFIG"""


PHASES = (
    Phase(
        data="easy",
        settings=(
            "train.max_steps=400",
            "data.max_frames=3000",
            "optimizer.schedule=constant",
            "optimizer.warmup_steps=100",
        ),
    ),
    Phase(data="all", settings=("train.max_steps=750", "optimizer.learning_rate=0.004")),
)


def train(
    handoffs: dict[str, Path], folder: Path, *, seed: int, workers: int = 1, phases: tuple[Phase, ...] = PHASES
) -> Path:
    """Train, or go on; return the folder of the last phase's run. Raises UserError where the trainer ends otherwise.

    workers: processes, one core each; they divide the two micro-batches of a step.
    """
    before: Path | None = None
    for phase in phases:
        run = folder / f"run-{phase.data}"
        given = ["train", f"--data={handoffs[phase.data]}", f"--config={CONFIG}", f"--out={run}", f"train.seed={seed}"]
        given += [*phase.settings, *([f"train.init_from={before}"] if before else [])]
        program = ["-m", "torch.distributed.run", f"--nproc-per-node={workers}"] if workers > 1 else ["-u"]
        done = subprocess.run([sys.executable, *program, "-m", "model_training", *given])
        if done.returncode:
            raise UserError(f"the training in {run} ended with exit code {done.returncode}: see above")
        before = run
    assert before is not None
    return before


def ship(run: Path, folder: Path, *, ema: bool = True) -> Path:
    """Write the newest weights of a run as a checkpoint in bfloat16, without the optimiser's state, into `folder`.

    It is what `eval`, `decode`, `export` and `train.init_from` read. Raises UserError where there is no checkpoint.
    """
    import torch
    from safetensors.torch import save_file

    from model_training.training.checkpoint import open_checkpoint

    found = open_checkpoint(run)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in found.weights(ema=ema).items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    names = ("tokenizer.json", "cmvn.json")
    for name in names:
        shutil.copyfile(found.path / name, folder / name)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.safetensors", *names)}
    record = found.record | {"files": files, "handoff": ""}
    record["settings"]["train"] |= {"init_from": ""}  # a path of the machine that it was made on
    (folder / "trainer.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n", "utf-8"
    )
    return folder


def finish(run: Path, folder: Path, training: dict[str, Any], *, count: int = 20, sentences: int = 3) -> Path:
    """Ship a run's averaged weights, export the smallest size for devices, measure every size, and write the card."""
    from model_training.export.export import export

    ship(run, folder)
    export(folder, DEVICE_SIZE, "onnx-int8", folder / f"n{DEVICE_SIZE}", measure=False)
    (folder / "training.json").write_text(json.dumps(training, ensure_ascii=False, indent=1) + "\n", "utf-8")
    measured = measure(folder, count, sentences)
    (folder / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
    (folder / "README.md").write_text(card(folder), "utf-8")
    return folder
