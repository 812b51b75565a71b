"""Checkpoints: a folder per step that is either whole or not there.

    step-00000500/
      model.safetensors        weights (and ema.safetensors, the averaged ones, where they are kept)
      optimizer.safetensors    moments, by parameter name
      trainer.json             step, settings, vocabulary, fingerprints, sha256 of the other files: written last
      tokenizer.json  cmvn.json

Everything is written to a temporary folder, synced, then renamed: the folder is the unit that is whole or not there, so
it is not replaced file by file. No pickle: loading a checkpoint runs nobody's code.
The place in the data is a function of the step, and random numbers of (seed, step), so neither needs a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model_training.training.sharding import alike
from operators.errors import UserError
from operators.storage.atomic import sync_folder

VERSION = 1
_NAME = re.compile(r"step-(\d{8})")
_RECORD = {"step": int, "settings": dict, "vocabulary": int, "tokenizer": str, "data": str}
"""What trainer.json must hold, beside version and files."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A Checkpoint is the folder of one that was found whole, and its record."""

    path: Path
    record: dict[str, Any]  # trainer.json

    @property
    def step(self) -> int:
        return int(self.record["step"])

    def weights(self, *, ema: bool = False) -> dict[str, Tensor]:
        return self._load("ema.safetensors" if ema else "model.safetensors")

    def optimizer(self) -> dict[str, Tensor]:
        return self._load("optimizer.safetensors")

    def has_ema(self) -> bool:
        return "ema.safetensors" in self.record["files"]

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path / name} cannot be read ({error}): use an older checkpoint") from None


def save(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    record: dict[str, Any],
    texts: dict[str, str],
    *,
    ema: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint. `texts` are small files to keep beside it (tokenizer.json, cmvn.json).

    Return its folder, which holds everything or does not exist.
    """
    final = folder / f"step-{step:08d}"
    if final.exists():
        return final  # the same step of the same run has the same content
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{step:08d}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors = {"model.safetensors": weights, "optimizer.safetensors": moments}
    if ema is not None:
        tensors["ema.safetensors"] = ema
    for name, content in tensors.items():
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, temporary / name)
    for name, text in texts.items():
        (temporary / name).write_text(text, encoding="utf-8")
    names = sorted([*tensors, *texts])
    record = record | {"version": VERSION, "step": step, "files": {name: _sha256(temporary / name) for name in names}}
    (temporary / "trainer.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True), encoding="utf-8"
    )
    for name in [*names, "trainer.json"]:
        _sync(temporary / name)
    sync_folder(temporary)
    os.rename(temporary, final)
    sync_folder(folder)
    return final


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Return a checkpoint by its folder, or the newest whole one of a training run. Newer ones that are damaged are
    named on stderr.

    Raises:
        UserError: there is none, or a file is missing or differs from its checksum.
    """
    path = Path(path)
    if (path / "trainer.json").exists():
        return _verified(path)
    newest = latest(path)
    damaged = [one.name for one in steps(path) if newest is None or one > newest.path]
    if newest is None:
        if damaged:
            raise UserError(f"no whole checkpoint in {path}: {', '.join(damaged)} cannot be used; train again")
        raise UserError(f"no checkpoint in {path}: give a folder step-... or the folder of a training run")
    if damaged:
        print(f"touchasp: taking {newest.path}; newer, but damaged: {', '.join(damaged)}", file=sys.stderr)
    return newest


def whole(path: Path) -> Checkpoint | None:
    """Return the checkpoint of a folder; None where it is damaged."""
    try:
        return _verified(path)
    except _Damaged:
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what a folder's trainer.json holds, without a look at the other files; None where it cannot be read."""
    try:
        record = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def latest(folder: str | Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, None when there is none. A damaged one is passed over.

    Raises:
        UserError: the newest is of another version of this program.
    """
    return next((found for path in reversed(steps(folder)) if (found := whole(path)) is not None), None)


def set_aside(folder: Path, after: int) -> list[Path]:
    """Rename to damaged-step-... the checkpoints after step `after`, which a run that goes on from there found damaged.

    Else they would count as the newest: `prune` would keep them for whole ones, and `save` would not replace them.
    Return their new places.
    """
    moved = []
    for path in steps(folder):
        if int(path.name.removeprefix("step-")) > after:
            place = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(place, ignore_errors=True)
            moved.append(path.rename(place))
    return moved


def steps(folder: str | Path) -> list[Path]:
    """Return the run's checkpoint folders, oldest first."""
    folder = Path(folder)
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def prune(folder: Path, keep: int, best: Collection[Path] = ()) -> None:
    """Remove all checkpoints but the newest `keep` and the `best`, and all unfinished ones."""
    for path in steps(folder)[:-keep]:
        if path not in best:
            shutil.rmtree(path)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def average(checkpoints: list[Checkpoint]) -> dict[str, Tensor]:
    """Return the mean of several checkpoints' weights, summed in float64, as float32."""
    total = {name: tensor.double() for name, tensor in checkpoints[0].weights().items()}
    for checkpoint in checkpoints[1:]:
        for name, tensor in checkpoint.weights().items():
            total[name] += tensor.double()
    return {name: (tensor / len(checkpoints)).float() for name, tensor in total.items()}


def moments_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors `<parameter>/<state>`. Parameters that were never updated have none."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Give the optimiser the state that `moments_by_name` returned. Raises UserError when it is of another model."""
    parameters = dict(model.named_parameters())
    for key, tensor in moments.items():
        name, state = key.rsplit("/", 1)
        if name not in parameters:
            raise UserError(
                f"the checkpoint's optimiser state names {name}, which this model lacks: use the settings it was "
                "made with"
            )
        parameter = parameters[name]
        # AdamW keeps its step count on the CPU
        optimizer.state[parameter][state] = tensor if state == "step" else alike(tensor, parameter)


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load a checkpoint's weights into a model. Raises UserError when they are of another model."""
    held = model.state_dict()
    weights = {name: alike(tensor, held[name]) if name in held else tensor for name, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        wrong = (missing or unexpected)[0]
        raise UserError(f"{path} does not fit the model of these settings ({wrong}): use the settings it was made with")


class _Damaged(UserError):
    """Not whole, or not what was written."""


def _verified(path: Path) -> Checkpoint:
    try:
        record = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
        files, version = dict(record["files"]), record["version"]
        if version == VERSION and not all(isinstance(record[key], kind) for key, kind in _RECORD.items()):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise _Damaged(f"{path / 'trainer.json'} is damaged: use an older checkpoint") from None
    if version != VERSION:
        raise UserError(f"{path} is of version {version}, this program reads {VERSION}")
    for name, digest in files.items():
        if not (path / name).is_file() or _sha256(path / name) != digest:
            raise _Damaged(f"{path / name} is missing or differs from its checksum: use an older checkpoint")
    return Checkpoint(path, record)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
