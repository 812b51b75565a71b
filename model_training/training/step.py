"""The work of one step: micro-batches forward and backward, then sums over all workers.

    batch ──Learner.losses──> Losses per clip ──backward──> gradients ──gather──> sums over workers
                                  └──Totals: clips, frames, objective and its parts, loads of the experts

A Learner is a model as the loop sees it; elastic.py and osum/learner.py have one each. Gradients are of sums over
clips. The loop divides them by the clips of all workers, so what a step does depends neither on the number of workers
nor on where batches are cut.

Shapes: B clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from model_training.config import LoadingSettings, OptimizerSettings, TrainSettings
from model_training.data.source import OnBad
from model_training.model.device import to_device
from model_training.model.router import Load
from model_training.training.losses import BALANCE, Losses, finite
from model_training.training.optimizer import seed_dropout
from model_training.training.sharding import is_sharded
from model_training.training.workers import Workers
from operators.errors import UserError


class LoopSettings(Protocol):
    """LoopSettings are what the loop needs of a model's settings."""

    @property
    def train(self) -> TrainSettings: ...
    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def data(self) -> LoadingSettings: ...
    def check(self) -> None: ...


class ClipBatch(Protocol):
    """A ClipBatch is what the loop needs of a batch, whatever the model."""

    @property
    def clip_ids(self) -> Sequence[str]: ...
    @property
    def feature_lengths_B(self) -> Tensor: ...
    @property
    def global_batch(self) -> int: ...
    def only(self, wanted_B: list[bool]) -> Self: ...
    def __len__(self) -> int: ...


Loads = dict[int, dict[str, Tensor]]
"""Frames per expert (N,) by variant and layer."""

B = TypeVar("B", bound=ClipBatch)
B_contra = TypeVar("B_contra", bound=ClipBatch, contravariant=True)


class Learner(Protocol[B_contra]):
    """A Learner is the model, and what of a step depends on which model it is.

    A variant says what of the model is trained: the elastic model's number of routed experts, OSUM's phase. A step has
    one or, where its micro-batches or their passes differ, several.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def settings(self) -> LoopSettings: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def autocast(self) -> torch.dtype | None: ...

    def variants(self, step: int) -> tuple[int, ...]:
        """Return the variants whose loss on dev is taken after `step` steps."""

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes."""

    def begin_step(self, step: int) -> tuple[int, ...]:
        """Return the variants that step `step` trains: a function of the step, on every worker, after every resume."""

    def losses(self, batch: B_contra, variant: int) -> Losses:
        """Return what a batch costs, one loss per clip. Called inside `precision()`."""

    def passes(self, batch: B_contra, variants: tuple[int, ...]) -> Iterator[tuple[int, Losses]]:
        """Yield a micro-batch's passes one by one, each its variant and what it costs, computed in `precision()`.

        The caller goes backward before it asks for the next. The first has the dropout that the caller seeded.
        """

    def parameters(self, variants: tuple[int, ...]) -> list[nn.Parameter]:
        """Return the parameters that such a step moves, in the same order on every worker."""

    def loads(self, routing: list[Load], variant: int) -> dict[str, Tensor]:
        """Return this worker's frames per expert by layer, the same layers in the same order on every worker."""

    def pass_idly(self, variants: tuple[int, ...]) -> None:
        """Take part in what the workers do together while they go over a micro-batch, where this one's has no clip."""

    def end_step(self, loads: Loads) -> None:
        """Do what is left after the optimiser's step; `loads` are of all workers."""

    def totals(self, *, dev: bool = False) -> Totals:
        """Return sums that begin at 0."""

    def weights(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of the model, by name; the tensors themselves, not copies."""

    def load(self, weights: dict[str, Tensor], path: Path) -> None:
        """Take a checkpoint's weights. Raises UserError when they are of another model."""

    def describe(self) -> str:
        """Say how large the model is."""


class PlainLearner:
    """A PlainLearner holds what learners share. One without experts needs no more than its losses and parameters."""

    model: nn.Module
    autocast: torch.dtype | None

    def losses(self, batch: Any, variant: int) -> Losses:
        """Return what a batch costs, one loss per clip. Called inside `precision()`."""
        raise NotImplementedError

    def passes(self, batch: Any, variants: tuple[int, ...]) -> Iterator[tuple[int, Losses]]:
        """Yield the one pass of a micro-batch through the step's one variant."""
        for variant in variants:
            with self.precision():
                found = self.losses(batch, variant)
            yield variant, found

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def precision(self) -> torch.autocast:
        """Return the context in which the model computes: bfloat16 where the run has it, else nothing changes."""
        return torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def loads(self, routing: list[Load], variant: int) -> dict[str, Tensor]:
        """Return nothing: there are no experts."""
        return {}

    def pass_idly(self, variants: tuple[int, ...]) -> None:
        """Do nothing: each worker has the whole model."""

    def end_step(self, loads: Loads) -> None:
        """Do nothing."""

    def totals(self, *, dev: bool = False) -> Totals:
        """Return sums that begin at 0."""
        return Totals(self.device, ())


def take_weights(wanted: dict[str, nn.Parameter], weights: dict[str, Tensor], path: Path) -> None:
    """Copy a checkpoint's weights into parameters. Raises UserError when they are of another model."""
    wrong = sorted(wanted.keys() ^ weights.keys()) or [n for n, w in weights.items() if w.shape != wanted[n].shape]
    if wrong:
        raise UserError(
            f"{path} does not fit the model of these settings ({wrong[0]}): use the settings it was made with"
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            wanted[name].copy_(tensor)


class Totals:
    """Totals are sums of a step over its micro-batches, and after `gather` over all workers."""

    def __init__(self, device: torch.device, parts: tuple[str, ...]) -> None:
        self._counted = ("clips", "spoilt", "correct", "tokens", "objective", *parts)
        """what is computed on the device"""
        self._known = dict.fromkeys(("frames", "edits", "reference"), 0.0)
        """what the program knows"""
        self._parts = parts
        self._sums = torch.zeros(len(self._counted), dtype=torch.float64, device=device)
        self._read: dict[str, float] | None = None
        self.routing: dict[int, list[Load]] = {}
        """of this worker, by variant"""
        self.loads: Loads = {}
        self.clip_ids: list[str] = []
        self.used: list[Tensor | None] = []
        """of each micro-batch which clips had a finite loss (B,); None for one without clips"""

    @property
    def clips(self) -> float:
        """Return how many clips taught something."""
        return self.read()["clips"]

    @property
    def frames(self) -> float:
        return self.read()["frames"]

    def add(self, batch: ClipBatch, found: Losses, used_B: Tensor, *, heard: bool = True) -> None:
        """Add a pass of a micro-batch, of whose clips `used_B` count. Nothing waits for the device.

        Args:
            heard: false: another pass went over the batch before, and its frames count once.
        """
        clips, nothing = used_B.sum(), used_B.new_zeros((), dtype=torch.float32)
        balance = nothing if found.balance is None else found.balance.detach() * clips
        values = {
            "clips": clips,
            "spoilt": (~used_B).sum(),
            "correct": found.correct,
            "tokens": found.tokens,
            "objective": found.objective_B.detach().masked_fill(~used_B, 0).sum() + balance,
            BALANCE: balance,
        } | {name: part_B.masked_fill(~used_B, 0).sum() for name, part_B in found.parts.items()}
        self._sums += torch.stack([to_device(values[name], self._sums.device).double() for name in self._counted])
        self._known["frames"] += float(batch.feature_lengths_B.sum()) if heard else 0.0
        self._known["edits"] += found.edits[0]
        self._known["reference"] += found.edits[1]
        self._read = None

    def sums(self) -> Tensor:
        """Return all sums as one tensor of the device, to be summed over workers in place."""
        known = to_device(torch.tensor(list(self._known.values()), dtype=torch.float64), self._sums.device)
        self._sums = torch.cat([self._sums[: len(self._counted)], known])
        self._read = None
        return self._sums

    def read(self) -> dict[str, float]:
        """Return the sums by name. The program waits for the device where it has not read them yet."""
        if self._read is None:
            if len(self._sums) == len(self._counted):
                self.sums()
            self._read = dict(zip((*self._counted, *self._known), self._sums.tolist(), strict=True))
        return self._read

    def means(self) -> dict[str, float]:
        """Return the objective and its parts per clip, the share of right tokens, and the number of clips.

        Where there were references, also `error_rate`, in percent of their tokens, and `reference_tokens`.
        """
        sums = self.read()
        clips, reference = max(sums["clips"], 1), sums["reference"]
        return {
            "loss": sums["objective"] / clips,
            **{name: sums[name] / clips for name in self._parts},
            "accuracy": sums["correct"] / max(sums["tokens"], 1),
            "clips": sums["clips"],
        } | ({"error_rate": 100 * sums["edits"] / reference, "reference_tokens": reference} if reference else {})


def work(
    learner: Learner[B], batches: Iterable[B], variants: tuple[int, ...], workers: Workers, on_bad: OnBad
) -> tuple[Totals, list[Tensor]]:
    """Go forward and backward over a worker's micro-batches of a step; return sums and gradients of all workers.

    Whether every loss was finite is looked at when all is done: within a micro-batch the program waits for no device.
    Where one was not, the step is worked through once more without such clips, by all workers alike: even a gradient of
    zero, sent back through one, is NaN in every weight that it meets.
    """
    kept = []
    total = learner.totals()
    for batch in batches:
        kept.append(batch)
        accumulate(learner, batch, variants, total)
    gradients = gather(learner, variants, workers, total)
    while total.read()["spoilt"]:
        kept = [
            batch if used_B is None else without_spoilt(batch, used_B.tolist(), on_bad)
            for batch, used_B in zip(kept, total.used, strict=True)
        ]
        learner.model.zero_grad(set_to_none=True)
        total = learner.totals()
        for batch in kept:
            accumulate(learner, batch, variants, total)
        gradients = gather(learner, variants, workers, total)
    return total, gradients


def without_spoilt(batch: B, used_B: list[bool], on_bad: OnBad) -> B:
    """Return the clips of a batch whose loss was finite, and name the others."""
    if all(used_B):
        return batch
    for clip_id, used in zip(batch.clip_ids, used_B, strict=True):
        if not used:
            on_bad(clip_id, "non_finite_loss", f"global batch {batch.global_batch}")
    return batch.only(used_B)


def accumulate(learner: Learner[B], batch: B, variants: tuple[int, ...], total: Totals) -> None:
    """Go forward and backward over one micro-batch: gradients of the sum over its clips are added to what is there.

    A clip counts as often as the batch has passes, so what is optimised is their mean.
    """
    seed_dropout(learner.settings.train.seed, batch.global_batch)
    total.clip_ids += batch.clip_ids
    if not batch.clip_ids:
        learner.pass_idly(variants)
        total.used.append(None)
        return
    all_used_B: Tensor | None = None
    for variant, found in learner.passes(batch, variants):
        with learner.precision():
            objective = found.objective_B.sum()
            if found.balance is not None:
                objective = objective + found.balance * len(batch.clip_ids)
        objective.backward()  # outside: inside, what the routers compute in float32 would come back in bfloat16
        used_B = finite(found.objective_B)
        total.add(batch, found, used_B, heard=all_used_B is None)
        total.routing.setdefault(variant, []).extend(found.loads)
        all_used_B = used_B if all_used_B is None else all_used_B & used_B
    total.used.append(all_used_B)


def gather(learner: Learner[Any], variants: tuple[int, ...], workers: Workers, total: Totals) -> list[Tensor]:
    """Sum gradients, counts and loads over all workers, and return the gradients.

    Every parameter that the step moves has a gradient afterwards, no other has.
    """
    parameters = learner.parameters(variants)
    moved = set(map(id, parameters))
    for parameter in learner.model.parameters():
        if id(parameter) not in moved:
            parameter.grad = None  # a sharded one may have zeros
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total.loads = {variant: learner.loads(total.routing.get(variant, []), variant) for variant in variants}
    loads = [counts_N for of_layers in total.loads.values() for counts_N in of_layers.values()]
    # What is sharded was summed on the way back.
    whole = [gradient for gradient in gradients if not is_sharded(gradient)]
    workers.sum([*whole, total.sums(), *loads])
    return gradients


@torch.inference_mode()
def dev_means(learner: Learner[B], batches: Iterable[B], variant: int) -> dict[str, float]:
    """Return what `Totals.means` says of dev. The routers' balance, which is of training, is no part of it."""
    total = learner.totals(dev=True)
    learner.model.eval()
    for batch in batches:
        if batch.clip_ids:
            with learner.precision():
                found = learner.losses(batch, variant)
            total.add(batch, found, finite(found.objective_B))
    learner.model.train()
    return total.means()
