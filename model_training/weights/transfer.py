"""Another model's weights into ours: by name and shape, vocabulary by text, experts by number, and a report of it.

    Origin ──same sizes?──> every tensor of ours:  elastic layer ──experts.py──┐
                                                   row per token ──vocabulary──┼──> model, at once or not at all
                                                   anything else ──name, shape─┘         └──> Report

A model takes all or nothing: an error leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from model_training.model.moe import ElasticMoE
from model_training.model.speech_model import SpeechModel
from model_training.weights import experts
from model_training.weights.origin import Origin
from model_training.weights.vocabulary import Rows, has_rows, match
from operators.errors import UserError

_SHOWN, _WIDTH = 8, 60
"""Names in a line of the report, and letters of each."""


@dataclass(kw_only=True)
class Report:
    """A Report says what a model took from where, what grew, and what had no place in it."""

    origin: str
    part: str = ""
    """of the model that this is of, in words; "": all of it"""
    taken: list[str] = field(default_factory=list)
    """tensors that are the origin's, or made of its alone"""
    parameters: int = 0
    """in them"""
    grown: list[str] = field(default_factory=list)
    """in words"""
    fresh: list[str] = field(default_factory=list)
    """tensors of ours that begin from nothing"""
    left: list[str] = field(default_factory=list)
    """tensors and tokens there that have no place in ours"""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report in a few lines."""
        size = f"{len(self.taken)} tensors taken, {self.parameters / 1e6:.2f} M parameters"
        found = [f"{self.part}begins from {self.origin}: {size}"]
        for words, names in (("grown", self.grown), ("from nothing", self.fresh), ("left there", self.left)):
            if names:
                more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                found.append(f"  {words}: {', '.join(map(_short, names[:_SHOWN]))}{more}")
        return found + [f"  {note}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def transfer(model: SpeechModel, tokens: Sequence[str], origin: Origin, *, noise: float, seed: int) -> Report:
    """Give the model the origin's weights, and return what was done.

    Args:
        tokens: spellings of the model's vocabulary.
        noise: of copied experts, as a share of a tensor's spread.
        seed: of that noise.

    Raises:
        UserError: the origin is of another architecture, or lacks a tensor.
    """
    try:
        return _transfer(model, tokens, origin, noise, torch.Generator().manual_seed(seed))
    except UserError as error:
        raise UserError(f"train.init_from={origin.name}: {error}") from None


def _transfer(
    model: SpeechModel, tokens: Sequence[str], origin: Origin, noise: float, generator: torch.Generator
) -> Report:
    for key, theirs in origin.sizes.items():
        ours = getattr(model.settings, key)
        without_it = key == "reverse_layers" and not ours  # what a model does not have it need not take
        if ours != theirs and not without_it:
            value = str(theirs).lower() if isinstance(theirs, bool) else theirs
            raise UserError(f"its model.{key} is {value}, here it is {ours}: set model.{key}={value}")
    theirs = {name: tensor.float() for name, tensor in origin.tensors.items() if tensor.is_floating_point()}
    broken = next((name for name, tensor in theirs.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise UserError(f"{broken} holds numbers that are not finite: take an older checkpoint")
    state = model.state_dict()
    report = Report(origin=origin.place, left=list(origin.left), notes=list(origin.notes))
    made: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, ElasticMoE):
            below = {key.removeprefix(f"{name}."): one for key, one in theirs.items() if key.startswith(f"{name}.")}
            if not below and name.startswith(origin.optional):
                continue
            found = _layer(name, layer, below, noise, generator)
            used |= {f"{name}.{key}" for key in below}
            made |= {f"{name}.{key}": tensor for key, tensor in found.tensors.items()}
            report.grown += [f"{name}: {words}" for words in found.grown]
            report.left += [f"{name}: {words}" for words in found.left]
            report.fresh += [f"{name}.{key}" for key in found.fresh]
    rows = match(origin.tokens, tokens, origin.same_as) if origin.tokens is not None else None
    elastic = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, ElasticMoE))
    for name, ours in state.items():
        if name in made or name in report.fresh:
            continue
        if name not in theirs:
            if name.startswith(origin.optional) or (name.startswith(elastic) and "selection_bias" in name):
                report.fresh.append(name)
                continue
            raise UserError(_missing(name, theirs))
        if has_rows(name):
            if rows is None:
                report.fresh.append(name)
                continue
            _refuse_other_vocabulary(name, theirs[name], origin)
            made[name] = rows.of(theirs[name])
        else:
            made[name] = theirs[name]
        used.add(name)
        if made[name].shape != ours.shape:
            raise UserError(
                f"its {name} is {_shape(theirs[name])}, here it is {_shape(ours)}: {_fix(name, made[name])}"
            )
    if rows is not None:
        _report_tokens(rows, report)
    report.left += sorted(theirs.keys() - used)
    report.taken = sorted(made)
    report.parameters = sum(tensor.numel() for tensor in made.values())
    model.load_state_dict({**state, **made})
    return report


def _layer(
    name: str, layer: ElasticMoE, below: dict[str, Tensor], noise: float, generator: torch.Generator
) -> experts.Layer:
    try:
        if any(key.startswith("tiers.") for key in below):
            return experts.from_experts(layer, below, noise, generator)
        return experts.from_dense(layer, below, noise, generator)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _missing(name: str, theirs: Iterable[str]) -> str:
    block = name.removesuffix(".w_in.weight")
    if block != name and any(key.startswith(f"{block}.tiers.") for key in theirs):
        return f"its {block} has experts, here it is dense: set model.moe.ffn to where it has them"
    return f"it lacks the tensor {name}: it is not whole, or of another architecture"


def _refuse_other_vocabulary(name: str, tensor: Tensor, origin: Origin) -> None:
    if origin.tokens is not None and len(tensor) != len(origin.tokens):
        raise UserError(
            f"its {name} has {len(tensor)} rows, its vocabulary {len(origin.tokens)} tokens: not of one model"
        )


def _fix(name: str, theirs: Tensor) -> str:
    if name.endswith((".w_in.weight", ".w_in.bias")):
        return f"set model.d_ff={len(theirs)}"
    if name == "speaker_head.mix_E":
        return f"set model.speaker_head.layers={len(theirs) - 1}"
    if name.startswith("speaker_head."):
        return f"set model.speaker_head.hidden={theirs.shape[-1] if name.endswith('out.weight') else len(theirs)}"
    return "set the sizes of the model that the weights were trained with"


def _report_tokens(rows: Rows, report: Report) -> None:
    for tokens, words in ((rows.new, report.grown), (rows.left, report.left)):
        if tokens:
            words.append(f"{len(tokens)} tokens: {' '.join(tokens)}")


def _short(words: str) -> str:
    return words if len(words) <= _WIDTH else f"{words[:_WIDTH]}…"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
