"""Which checkpoint of a run is the best: by the error rate on dev, which each checkpoint keeps of itself.

    evaluation on dev ──DevScore──> Choice.take: better? how long not? ──> trainer.json of the checkpoint
    RUN@best ──> the whole checkpoint with the lowest error        RUN@average ──> the mean of the best few

The error rate of a checkpoint is that of greedy CTC over all sizes together, since all of them are deployed. Ties go to
the lower loss: at the beginning every size may be at 100 %, and a model without an error rate has the loss alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model_training.training import checkpoint as checkpoints
from model_training.training.checkpoint import Checkpoint
from operators.errors import UserError

RECORD = "dev"
"""Key of trainer.json."""
CHOICES = ("best", "average")


@dataclass(frozen=True, slots=True, order=True)
class DevScore:
    """A DevScore is how good a step is on dev; the lesser the better."""

    error: float
    """edits in percent of the references' tokens, all sizes together; 0 for a model that recognises nothing on dev"""
    loss: float
    """mean of the sizes' objectives"""

    @classmethod
    def of(cls, sizes: Sequence[Mapping[str, float]]) -> DevScore | None:
        """Return the score of what `Totals.means` says of every size; None where dev had no clip."""
        found = [one for one in sizes if one["clips"]]
        if not found:
            return None
        tokens = sum(one.get("reference_tokens", 0.0) for one in found)
        edits = sum(one.get("error_rate", 0.0) * one.get("reference_tokens", 0.0) for one in found)
        return cls(edits / tokens if tokens else 0.0, sum(one["loss"] for one in found) / len(found))


@dataclass(frozen=True, slots=True)
class Choice:
    """A Choice is the best score of a run so far, and how many evaluations brought none better since."""

    best: DevScore | None = None
    best_step: int = 0
    waited: int = 0

    def take(self, step: int, score: DevScore) -> Choice:
        """Return the choice after an evaluation."""
        if self.best is None or score < self.best:
            return Choice(score, step)
        return replace(self, waited=self.waited + 1)

    def to_dict(self) -> dict[str, Any]:
        best = None if self.best is None else {"error": self.best.error, "loss": self.best.loss}
        return {"best": best, "best_step": self.best_step, "waited": self.waited}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any] | None) -> Choice:
        """Return what `to_dict` made; the beginning for a checkpoint that holds none."""
        if not plain:
            return cls()
        best = plain.get("best")
        return cls(DevScore(**best) if best else None, int(plain["best_step"]), int(plain["waited"]))


@dataclass(frozen=True, slots=True)
class Mean:
    """A Mean is the average of some checkpoints' weights."""

    checkpoints: list[Checkpoint]
    weights: dict[str, Tensor]


def split_choice(name: str) -> tuple[Path, str | None]:
    """Return the run and what is asked of it of RUN@best and RUN@average; a path that exists is taken as it stands."""
    run, at, choice = name.rpartition("@")
    if at and choice in CHOICES and not Path(name).exists():
        return Path(run), choice
    return Path(name), None


def open_chosen(name: str) -> Checkpoint:
    """Return a checkpoint by its folder, a run's newest, or the best of RUN@best. Raises UserError for want of it."""
    path, choice = split_choice(name)
    return checkpoints.open_checkpoint(path) if choice is None else best_of(path)


def score_of(record: Mapping[str, Any]) -> DevScore | None:
    """Return the score that a checkpoint's trainer.json keeps; None where it was not evaluated, or without a text."""
    found = record.get(RECORD)
    return DevScore(float(found["error"]), float(found["loss"])) if isinstance(found, dict) else None


def ranked(folder: Path) -> list[tuple[DevScore, Path]]:
    """Return the run's checkpoints that were evaluated, best first. Their records are read, not their weights."""
    found = []
    for path in checkpoints.steps(folder):
        record = checkpoints.read_record(path)
        score = score_of(record) if record is not None else None
        if score is not None:
            found.append((score, path))
    return sorted(found, key=lambda one: (one[0], one[1].name))


def best_of(folder: Path) -> Checkpoint:
    """Return the whole checkpoint with the lowest error on dev. Raises UserError where there is none."""
    return _best(folder, 1)[0]


def average_of(folder: Path) -> Mean:
    """Return the mean of the best checkpoints by error on dev, as many as the run was told to keep.

    Raises:
        UserError: no checkpoint of the run was evaluated.
    """
    first = best_of(folder)
    many = int(first.record["settings"].get("train", {}).get("keep_best", 1))
    found = _best(folder, max(many, 1))
    return Mean(found, checkpoints.average(found))


def _best(folder: Path, many: int) -> list[Checkpoint]:
    found = []
    for _, path in ranked(folder):
        one = checkpoints.whole(path)
        if one is not None:
            found.append(one)
        if len(found) == many:
            break
    if not found:
        raise UserError(
            f"no checkpoint of {folder} has an error rate on dev: give the run itself, or train on a hand-off with a "
            "dev split"
        )
    return found
