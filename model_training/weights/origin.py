"""Where weights come from: a run of ours, a checkpoint, an exported folder, or what others have published.

    RUN | RUN@best | RUN@average | RUN/step-…   ┐
    folder of `export --format safetensors`     ├──open_origin──> Origin: tensors by our names, tokens, normalisation
    WeNet's folder, final.pt or safetensors     ┘

Nothing here runs what a file holds: tensors come from safetensors, or from a state dict read with `weights_only`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model_training import config
from model_training.config import ModelSettings
from model_training.data.features import Cmvn
from model_training.decoding.onnx_scorer import CMVN, CONFIG, ExportFolder
from model_training.text.tokenizer import FILE, Tokenizer
from model_training.training import checkpoint as checkpoints
from model_training.training.choosing import average_of, open_chosen, split_choice
from model_training.weights import wenet
from operators.errors import UserError

EXPORTED = "model.safetensors"
COMPARED = ("encoder", "d_model", "heads", "encoder_layers", "decoder_layers", "kernel", "causal")
"""Settings of the model that weights cannot outlive."""
OPTIONAL = (
    "extra_decoders.",
    "extra_reverse_decoders.",
    "reverse_decoder.",
    "embedding_network.",
    "embedding_ctc.",
    "speaker_head.",
)
"""Parts of a model that weights may lack: they begin from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """An Origin holds another model's weights under the names that they have in ours, and what belongs to them."""

    name: str
    """as it was asked for"""
    place: str
    """what was taken, for the report"""
    tensors: dict[str, Tensor]
    sizes: Mapping[str, Any]
    """settings of the model by their name there, as far as they are known: d_model, ..."""
    tokens: tuple[str, ...] | None
    """the vocabulary's spellings in the order of their ids; None: not known, so no row of it can be taken"""
    same_as: Mapping[str, str] = field(default_factory=dict)
    """tokens of ours that are written otherwise there"""
    cmvn: str | None = None
    """content of the cmvn.json that the weights were trained with"""
    known_labels: Mapping[str, list[str]] = field(default_factory=dict)
    optional: tuple[str, ...] = OPTIONAL
    """beginnings of names that may be missing"""
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_origin(name: str, settings: ModelSettings) -> Origin:
    """Return the weights that `train.init_from` names.

    Args:
        settings: of the model that shall take them, which decides between two readings of what others published.

    Raises:
        UserError: there is nothing of the kind, it is damaged or half written, or of a form that is not read.
    """
    path, choice = split_choice(name)
    if choice is not None:
        return _of_run(name, path, choice)
    if not path.exists():
        raise UserError(f"train.init_from={name}: no such file or folder; give a run, RUN@best, or published weights")
    if path.is_dir() and ((path / "trainer.json").exists() or _looks_like_run(path)):
        return _of_run(name, path, None)
    if path.is_dir() and (path / CONFIG).is_file() and _json(path / CONFIG).get("schema_version") is not None:
        return _of_export(name, path)
    if path.is_dir() and ((path / CONFIG).is_file() or (path / "model.bin").is_file()):
        raise UserError(
            f"train.init_from={name}: this is a model of transformers or CTranslate2, such as Whisper, of which "
            "nothing has a place in a Conformer: 'python -m model_training osum train' takes Whisper's encoder"
        )
    file = wenet.find(path)
    if file is None:
        raise UserError(
            f"train.init_from={name}: no weights in it; give a run, RUN@best, a checkpoint, a folder of "
            "'export --format safetensors', or WeNet's final.pt"
        )
    found = wenet.read(read_tensors(file), file, settings)
    return Origin(
        name=name,
        place=str(file),
        tensors=found.tensors,
        sizes=found.sizes,
        tokens=found.tokens,
        same_as=wenet.SAME_AS,
        cmvn=found.cmvn,
        optional=(*OPTIONAL, *found.optional),
        left=found.left,
        notes=found.notes,
    )


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a state dict of torch's, read with `weights_only`.

    Raises:
        UserError: it is damaged, or holds something else than tensors by name.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({_first_line(error)}): it is not whole; copy it again") from None
    except Exception as error:  # pickle's own, of which weights_only refuses all that is no tensor
        raise UserError(
            f"{file} holds more than tensors ({_first_line(error)}): give a state dict, or safetensors"
        ) from None
    if not isinstance(found, dict) or not found or not all(isinstance(one, Tensor) for one in found.values()):
        raise UserError(f"{file} is no state dict: give tensors by name, as torch.save(model.state_dict()) writes them")
    return found


def _of_run(name: str, path: Path, choice: str | None) -> Origin:
    try:
        found = open_chosen(str(path) if choice is None else f"{path}@{choice}")
        mean = average_of(path) if choice == "average" else None
        tokenizer = Tokenizer.load(found.path / FILE)
        cmvn = (found.path / CMVN).read_text(encoding="utf-8")
        Cmvn.from_dict(json.loads(cmvn))
        model = config.restore(found.record["settings"]).model
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, UserError) else f"{path} is not whole ({_first_line(error)})"
        raise UserError(f"train.init_from={name}: {reason}") from None
    return Origin(
        name=name,
        place=str(found.path) if mean is None else ", ".join(str(one.path) for one in mean.checkpoints),
        tensors=found.weights() if mean is None else mean.weights,
        sizes=_sizes(model),
        tokens=tokenizer.tokens,
        cmvn=cmvn,
        known_labels=found.record.get("learnt") or {},
    )


def _of_export(name: str, path: Path) -> Origin:
    try:
        found = ExportFolder.open(path)
        if found.config["format"] != "safetensors":
            raise UserError(f"{path} holds {found.config['format']}: export it with --format safetensors")
        model = config.restore({"model": found.config["model"]}).model
    except UserError as error:
        raise UserError(f"train.init_from={name}: {error}") from None
    return Origin(
        name=name,
        place=str(path / EXPORTED),
        tensors=read_tensors(path / EXPORTED),
        sizes=_sizes(model),
        tokens=found.tokenizer.tokens,
        cmvn=(path / CMVN).read_text(encoding="utf-8"),
        known_labels=found.config.get("learnt") or {},
    )


def _sizes(model: ModelSettings) -> dict[str, Any]:
    found = {key: getattr(model, key) for key in COMPARED}
    return found | ({"reverse_layers": model.reverse_layers} if model.reverse_layers else {})


def _looks_like_run(path: Path) -> bool:
    return bool(checkpoints.steps(path)) or any(path.glob(".step-*")) or (path / "log.jsonl").exists()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:150]
