"""A checkpoint as folders that can be used on their own, one for each size.

    checkpoint ──load_model──> SpeechModel ──pruned(N)──────┬── safetensors ──> model.safetensors
                                                            ├── onnx, onnx-int8 ──> encoder.onnx keys.onnx decoder.onnx
                                                            └── sherpa, sherpa-int8 ──> model.onnx tokens.txt
    OUT/  the model  tokenizer.json  cmvn.json  config.json  README.md (card)          OUT/n3, OUT/n7, ... for all

A folder is written under another name and renamed when it is whole. The same checkpoint gives the same bytes,
except for the times in the card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model_training import config
from model_training.decoding.onnx_scorer import CMVN, CONFIG, FORMATS, SCHEMA_VERSION, SPEAKER, ExportFolder
from model_training.evaluation.evaluation import read_evaluation
from model_training.evaluation.sets import LoadedModel, load_model
from model_training.export import card, onnx_files, sherpa
from model_training.help import INTERPOLATE
from model_training.model.speech_model import SpeechModel
from model_training.text.perception import Grammar
from model_training.text.tokenizer import FILE as TOKENIZER
from model_training.training import checkpoint
from model_training.training.choosing import split_choice
from operators.errors import UserError

MODEL = "model.safetensors"
ALL = "all"
SHERPA = "sherpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A folder that was written."""

    folder: Path
    n_experts: int
    format: str
    bytes: int
    """Of all files."""
    parameters: int
    active: int
    """Parameters that one frame uses."""
    rtf: float | None
    """Seconds of one core per second of audio: features, encoder, CTC greedy. None: not measured."""


def export(
    path: str | Path,
    n_experts: int | str = ALL,
    format: str = "onnx",
    out: str | Path = "exported",
    *,
    ema: bool = False,
    average: int = 1,
    interpolate: float = 1.0,
    evaluation: str | Path | None = None,
    measure: bool = True,
    one_file_bytes: int = onnx_files.ONE_FILE_BYTES,
    on_done: Callable[[Exported], None] | None = None,
) -> list[Exported]:
    """Write the model of a checkpoint at one size, or at all of them in folders of their own.

    Args:
        path: a checkpoint, a training run, whose newest is taken, RUN@best or RUN@average.
        n_experts: routed experts N, 0 for a dense model, or "all".
        format: safetensors | onnx | onnx-int8 | sherpa | sherpa-int8.
        out: the folder; for "all" the folder of folders n3, n7, ... An earlier export there is replaced.
        ema: the checkpoint's moving average of the weights.
        average: the mean of so many checkpoints of the run, the given one and those before it.
        interpolate: of the way from what the run began from to those weights, this share (WiSE-FT).
        evaluation: JSON of `python -m model_training eval`, for the card.
        measure: time the result on this machine, for the card.

    Raises:
        UserError: no checkpoint, or a damaged one; both `ema` and `average`; a size or format that does not exist;
            `out` holds something else or cannot be made.
    """
    if format not in FORMATS:
        raise UserError(f"no format {format!r}: choose from {', '.join(FORMATS)}")
    measured = None if evaluation is None else read_evaluation(evaluation)
    loaded = load_model(str(path), average=average, ema=ema, interpolate=interpolate)
    sizes = _sizes(loaded.model, n_experts)
    folders = [Path(out) / _name(size) for size in sizes] if n_experts == ALL else [Path(out)]
    for folder in folders:
        _refuse_foreign(folder)
    if split_choice(str(path))[1] == "average":
        origin = "the mean of the best checkpoints on dev"
    else:
        origin = "as a moving average" if ema else f"the mean of {average} checkpoints" if average > 1 else "as trained"
    if interpolate != 1:
        origin = f"{interpolate:g} of the way from what it began from to the weights {origin}"
    largest = loaded.model.parameter_counts(max(loaded.model.sizes))
    done = []
    for size, folder in zip(sizes, folders, strict=True):
        pruned = loaded.model.pruned(size)
        counts = pruned.parameter_counts(size)
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"cannot make {folder} ({error.strerror}): give --out a folder that can be written to"
            ) from None
        try:
            for name in (TOKENIZER, CMVN):
                shutil.copyfile(loaded.path / name, scratch / name)
            _write_model(loaded, pruned, format, scratch, one_file_bytes)
            record = _record(loaded, pruned, format, origin, counts, scratch)
            text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
            (scratch / CONFIG).write_text(text, encoding="utf-8")
            speed = card.measure(scratch, pruned) if measure and not format.startswith(SHERPA) else None
            page = card.render(record, largest, speed, measured)
            (scratch / card.FILE).write_text(page, encoding="utf-8")
            _replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        exported = Exported(
            folder=folder,
            n_experts=size,
            format=format,
            bytes=sum(file.stat().st_size for file in folder.iterdir()),
            parameters=counts["total"],
            active=counts["active"],
            rtf=None if speed is None else speed.rtf,
        )
        done.append(exported)
        if on_done is not None:
            on_done(exported)
    return done


def load(folder: str | Path) -> tuple[SpeechModel, ExportFolder]:
    """Return the model of a safetensors export, in eval mode on the CPU, and what belongs to it.

    Raises:
        UserError: not a whole safetensors export.
    """
    found = ExportFolder.open(folder)
    if found.config["format"] != "safetensors":
        raise UserError(f"{found.path} holds {found.config['format']}: export it with --format safetensors")
    settings = config.restore({"model": found.config["model"]})
    model = SpeechModel(settings.model, len(found.tokenizer))
    try:
        weights = load_file(found.path / MODEL)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{found.path / MODEL} cannot be read ({error}): export it again") from None
    checkpoint.load_weights(model, weights, found.path)
    return model.eval(), found


def _sizes(model: SpeechModel, n_experts: int | str) -> tuple[int, ...]:
    if n_experts == ALL:
        return model.sizes
    if n_experts not in model.sizes:
        known = ", ".join(map(str, model.sizes))
        raise UserError(f"group {n_experts} is not in this model: choose from {known} (routed experts), or all")
    return (int(n_experts),)


def _name(n_experts: int) -> str:
    return f"n{n_experts}" if n_experts else "dense"


def _write_model(loaded: LoadedModel, pruned: SpeechModel, format: str, folder: Path, one_file_bytes: int) -> None:
    if format.startswith(SHERPA):
        allowed_V = Grammar(loaded.tokenizer, known_labels=loaded.known_labels).ctc
        sherpa.write(
            pruned,
            folder,
            loaded.tokenizer,
            allowed_V,
            loaded.cmvn,
            int8=format != SHERPA,
            one_file_bytes=one_file_bytes,
        )
        return
    if format == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in pruned.state_dict().items()}, folder / MODEL)
        return
    if format == "onnx":
        onnx_files.write_graphs(pruned, folder, one_file_bytes=one_file_bytes)
        return
    exact = folder / ".float32"
    exact.mkdir()
    onnx_files.write_graphs(pruned, exact, one_file_bytes=one_file_bytes)
    for name in onnx_files.graphs(pruned.settings):
        if name == SPEAKER:  # small, and sums of a few statistics: what eight bits spare it is not worth their error
            for part in exact.glob(f"{name}*"):
                shutil.copyfile(part, folder / part.name)
        else:
            onnx_files.quantise(exact / name, folder / name, one_file_bytes=one_file_bytes)
    shutil.rmtree(exact)


def _record(
    loaded: LoadedModel, pruned: SpeechModel, format: str, origin: str, counts: dict[str, int], folder: Path
) -> dict[str, Any]:
    """Return what config.json holds: all that a reader of the folder needs to know."""
    data = loaded.settings.data
    files = sorted(file for file in folder.iterdir() if file.name != CONFIG)
    return {
        "schema_version": SCHEMA_VERSION,
        "format": format,
        "group": pruned.sizes[0],
        "step": loaded.step,
        "weights": origin,
        "model": asdict(pruned.settings),
        "vocabulary": pruned.vocabulary,
        "tokenizer": loaded.tokenizer.fingerprint,
        "task_order": data.task_order,
        "learnt": loaded.known_labels,
        "tasks": loaded.tasks,
        "max_frames": data.max_clip_frames,
        "parameters": counts,
        "files": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: _sha256(file) for file in files},
    }


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give --out a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds something that is no export: give --out an empty or new folder")


def _replace(scratch: Path, folder: Path) -> None:
    # The folder is renamed as a whole: its files belong together, and none of them may stand beside an older one.
    if folder.exists():
        shutil.rmtree(folder)
    os.rename(scratch, folder)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m model_training export`."""
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="a checkpoint's folder, a training run (its newest), or RUN@best"
    )
    parser.add_argument("--group", default=ALL, metavar="N", help="routed experts, or all (default: all)")
    parser.add_argument("--format", default="onnx", help=f"{' | '.join(FORMATS)} (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; for all: n3, n7, ... inside it")
    parser.add_argument("--average", type=int, default=1, metavar="M", help="the mean of the last M checkpoints")
    parser.add_argument("--ema", action="store_true", help="the run's moving average of the weights")
    parser.add_argument("--interpolate", type=float, default=1.0, metavar="SHARE", help=INTERPOLATE)
    parser.add_argument("--evaluation", metavar="JSON", help="what eval wrote: its error rates go into the model card")
    parser.add_argument("--no-speed", action="store_true", help="do not time the result on this machine")


def main(options: argparse.Namespace) -> int:
    """Export as the options say, a line for each folder, and return the exit code."""
    n_experts = options.group
    if n_experts != ALL:
        if not re.fullmatch(r"\d+", n_experts):
            raise UserError(f"--group {n_experts}: give a number of routed experts, or all")
        n_experts = int(n_experts)
    if options.average < 1:
        raise UserError(f"--average {options.average}: must be at least 1")

    def show(done: Exported) -> None:
        speed = "" if done.rtf is None else f", {done.rtf:.3f} s of one core per second of audio (CTC)"
        print(
            f"{done.folder}: {done.bytes / 1e6:.1f} MB, {done.parameters / 1e6:.1f} M parameters, "
            f"{done.active / 1e6:.1f} M active{speed}",
            flush=True,
        )

    export(
        options.checkpoint,
        n_experts,
        options.format,
        options.out,
        ema=options.ema,
        average=options.average,
        interpolate=options.interpolate,
        evaluation=options.evaluation,
        measure=not options.no_speed,
        on_done=show,
    )
    return 0
