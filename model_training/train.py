"""The training loop, to be read from top to bottom.

    handoff ──Planner──> micro-batches ──Learner at the step's variants──> losses ──backward──> summed over workers
    ──AdamW or Muon──> weights

Everything random is a function of (seed, step) or (seed, micro-batch), and the place in the data is a function of the
step. So a killed run that goes on from a checkpoint takes exactly the steps it would have taken, on however many
workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_training.config import Settings, TrainSettings
from model_training.model.device import pick_device, use_tf32
from model_training.training import checkpoint as checkpoints
from model_training.training.choosing import DevScore
from model_training.training.monitor import Monitor
from model_training.training.optimizer import learning_rate
from model_training.training.run import Resumed, Run, begin, resume
from model_training.training.saving import Saver
from model_training.training.sharding import whole
from model_training.training.step import B, Totals, dev_means, work
from model_training.training.termination import Termination
from model_training.training.workers import Workers
from operators.errors import UserError

MOST_SKIPPED = 20  # steps in a row whose gradient is not finite
SIGTERM, TIME, PATIENCE = "SIGTERM", "time", "patience"
"""What ends a run before its last step."""


@dataclass(frozen=True)
class Trained:
    """A Trained says how a call of `train` ended."""

    step: int
    folder: Path
    finished: bool
    """false: there are steps left, and the same command goes on"""
    because: str = ""
    """what ended it before its last step: time, patience or SIGTERM"""


def train(data: str, out: str | Path, settings: Settings) -> Trained:
    """Train on a handoff directory, or go on with the run in `out`.

    Args:
        data: handoff directory, local or s3://.
        out: folder of the run, local.

    Raises:
        UserError: unusable data, a run in `out` with other settings or another tokenizer, a diverged run.
    """
    return drive(settings.train, lambda device, workers: begin(data, out, settings, device, workers))


def drive(settings: TrainSettings, build: Callable[[torch.device, Workers], Run[Any]]) -> Trained:
    """Train the run that `build` makes, of whichever model, from its newest checkpoint to its end or the time's.

    Raises:
        UserError: what `build` raises, a folder with another run, a diverged run.
    """
    deadline = time.monotonic() + 60 * (settings.max_minutes or math.inf)
    device = pick_device(settings.device)
    use_tf32(settings.tf32)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with Workers.join(device) as workers:
        run = build(device, workers)
        first = resume(run)
        with Monitor(run.folder, settings, first.step, quiet=not workers.is_main) as monitor:
            announce(run, monitor, first.step)
            place = first.step * run.settings.data.micro_batches
            stream = run.source.batches(place, monitor.bad_sample, rank=workers.rank, world=workers.size)
            # SIGTERM is noted until the last checkpoint is written.
            with Termination() as termination, Saver(run, monitor) as saver, closing(stream) as batches:
                step, because = take_steps(run, monitor, saver, termination, batches, first, deadline)
    return Trained(step, run.folder, step >= settings.max_steps or because == PATIENCE, because)


def take_steps(
    run: Run[B],
    monitor: Monitor,
    saver: Saver,
    termination: Termination,
    batches: Iterator[B],
    first: Resumed,
    deadline: float,
) -> tuple[int, str]:
    """Train until all steps are taken or something else ends it; return the steps there are then, and what that was."""
    learner, settings = run.learner, run.settings.train
    share = run.settings.data.micro_batches // run.workers.size
    step, choice = first
    skipped, because = 0, PATIENCE if 0 < settings.patience <= choice.waited else ""
    run.model.train()
    while step < settings.max_steps and not because:
        # 1. This worker's micro-batches, forward and backward, and the sums over all workers
        variants = learner.begin_step(step)
        total, gradients = work(learner, islice(batches, share), variants, run.workers, monitor.bad_sample)

        # 2. The mean gradient over the clips of all workers
        torch._foreach_div_(gradients, max(total.clips, 1.0))
        norm = float(whole(torch.nn.utils.get_total_norm(gradients)))

        # 3. Move the weights, unless there is nothing to move them by
        if math.isfinite(norm) and total.clips:
            skipped = 0
            update(run, step, gradients, norm)
            learner.end_step(total.loads)
            if run.averaged is not None:
                run.averaged.update(learner.weights())
        else:
            skipped += 1
            report_skipped(monitor, step, norm, total)
            if skipped == MOST_SKIPPED:
                raise UserError(
                    f"{skipped} steps in a row without a finite gradient: lower optimizer.learning_rate, begin again"
                )
        run.optimizer.zero_grad(set_to_none=True)
        step += 1
        rate = learning_rate(step - 1, run.settings.optimizer, settings.max_steps)
        numbers = total.means() | {"gradient_norm": norm, "learning_rate": rate}
        monitor.step(step, variants, int(total.frames), numbers, total.loads)

        # 4. Now and then: dev
        last, score = step == settings.max_steps, None
        if (run.workers.is_main or run.sharded) and (step % settings.eval_steps == 0 or last):
            score = evaluate(run, monitor, step, termination)
            choice = choice.take(step, score) if score is not None else choice

        # 5. Whether to go on, which all workers answer alike
        no_better = 0 < settings.patience <= choice.waited
        ends = run.workers.any_of([termination.asked, time.monotonic() >= deadline, no_better], learner.device)
        because = "" if last else next((why for why, true in zip((SIGTERM, TIME, PATIENCE), ends) if true), "")

        # 6. A checkpoint, now and then, at the end, and of what is among the best; written while the others go on
        due = step % settings.checkpoint_steps == 0 or last or bool(because)
        wanted = run.workers.is_main and not due and score is not None and saver.wants(score)
        if run.sharded:  # all have a part of what is saved
            (wanted,) = run.workers.any_of([wanted], learner.device)
        if (run.workers.is_main or run.sharded) and (due or wanted):
            saver.save(step, choice, score)
    return step, because


def update(run: Run[Any], step: int, gradients: list[Tensor], norm: float) -> None:
    """Clip the gradients by their norm, and take the optimiser's step."""
    torch._foreach_mul_(gradients, min(1.0, run.settings.optimizer.clip_norm / (norm + 1e-6)))
    rate = learning_rate(step, run.settings.optimizer, run.settings.train.max_steps)
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = rate * parameters.get("scale", 1.0)
    run.optimizer.step()


def report_skipped(monitor: Monitor, step: int, norm: float, total: Totals) -> None:
    """Name the clips of a step whose gradient cannot be used."""
    monitor.say(f"step {step + 1} skipped: gradient norm {norm}; its {total.clips:g} clips are in bad_samples.jsonl")
    for clip_id in total.clip_ids:
        monitor.bad_sample(clip_id, "non_finite_gradient", f"step {step + 1}, one of {len(total.clip_ids)}")


def evaluate(run: Run[Any], monitor: Monitor, step: int, termination: Termination) -> DevScore | None:
    """Report loss and error rate on dev of every variant, and return the score.

    None where there is no dev split, or SIGTERM came: what is left of the time is for the checkpoint. Where the model
    is sharded all workers go over the same clips.
    """
    if run.source.dev_planner is None:
        return None
    found: list[dict[str, float]] = []
    on_bad = monitor.bad_sample if run.workers.is_main else lambda *_: None

    def stopped() -> bool:
        return termination.asked and not run.sharded  # the other workers may not have been asked

    for variant in run.learner.variants(step):
        batches = takewhile(lambda _: not stopped(), run.source.dev_batches(on_bad))
        numbers = dev_means(run.learner, batches, variant)
        if stopped():
            return None
        monitor.dev(step, variant, numbers)
        found.append(numbers)
    return DevScore.of(found)


def announce(run: Run[Any], monitor: Monitor, step: int) -> None:
    """Say what is trained on what, and name what is left out: damaged checkpoints, labels, clips."""
    source, workers, learner = run.source, run.workers, run.learner
    monitor.say(
        f"parameters {learner.describe()}\n"
        f"{len(source.index)} clips in {source.planner.batches_per_epoch(0)} batches an epoch, "
        f"{run.settings.data.micro_batches} a step; "
        f"{workers.size} worker(s) on {learner.device.type}, {'bf16' if learner.autocast else 'fp32'}; "
        f"{f'going on from step {step}' if step else 'from the beginning'}"
    )
    if source.cap:
        monitor.say(source.cap)
    if not step:
        for note in run.notes:
            monitor.say(note)
    if source.foreign:
        monitor.say(f"labels outside the tokenizer's scheme, which teach nothing: {', '.join(source.foreign)}")
    if workers.is_main:
        for place in checkpoints.set_aside(run.folder, after=step):
            monitor.say(f"damaged, so not gone on from: {place}")
        for unusable in source.unusable():
            monitor.bad_sample(unusable.clip_id, unusable.reason, unusable.detail)
