"""Parts of a model by the names of its modules: which stay as they are, and which learn how fast.

train.freeze ──freeze──> parameters without a gradient: no moments, no decay, not the optimiser's
train.lr_by_part ──scales──> factor of the learning rate by a parameter's name
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from operators.errors import UserError


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Make parts of a model stay as they are.

    Raises:
        UserError: the model has no such part, or nothing is left to learn.
    """
    for part in parts:
        _check(model, "train.freeze", part)
        for name, parameter in model.named_parameters():
            if belongs(name, part):
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("train.freeze: it names every part of the model, so nothing is left to learn")


def scales(model: nn.Module, by_part: Mapping[str, float]) -> Callable[[str], float]:
    """Return what gives the factor of the learning rate by a parameter's name: that of the longest part it is in, or 1.

    Raises:
        UserError: the model has no such part.
    """
    for part in by_part:
        _check(model, "train.lr_by_part", part)

    def scale_of(name: str) -> float:
        inside = [part for part in by_part if belongs(name, part)]
        return by_part[max(inside, key=len)] if inside else 1.0

    return scale_of


def belongs(name: str, part: str) -> bool:
    """Say whether a parameter is in a part: the part itself, or a module's."""
    return name == part or name.startswith(f"{part}.")


def _check(model: nn.Module, setting: str, part: str) -> None:
    names = [name for name, _ in model.named_parameters()]
    if any(belongs(name, part) for name in names):
        return
    known = sorted({name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1)})
    near = difflib.get_close_matches(part, known, n=1)
    tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
    raise UserError(
        f"{setting}: the model has no part '{part}'" + (f": did you mean {near[0]}?" if near else f", but {tops}")
    )
