"""The training loop, to be read from top to bottom.

    handoff ──Planner──> micro-batches ──model at the step's group──> losses ──backward──> summed over workers
    ──AdamW──> weights

Everything random is a function of (seed, step) or (seed, micro-batch), and the place in the data is a function of the
step. So a killed run that goes on from a checkpoint takes exactly the steps it would have taken, on however many
workers.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_training import config
from model_training.config import Settings
from model_training.data.handoff import Handoff
from model_training.data.reading import Batch
from model_training.data.source import Source
from model_training.model.device import autocast_dtype, pick_device
from model_training.model.moe import Load, grouped_product_works
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.training import checkpoint as checkpoints
from model_training.training.checkpoint import Checkpoint
from model_training.training.losses import Losses, finite, losses
from model_training.training.monitor import Monitor, merge_loads
from model_training.training.optimizer import Averaged, draw_group, learning_rate, make_optimizer, seed_dropout
from model_training.training.team import Team
from operators.errors import UserError

FREE = {
    "train": (
        "max_steps",
        "max_minutes",
        "device",
        "precision",
        "threads",
        "checkpoint_steps",
        "keep_checkpoints",
        "eval_steps",
        "eval_clips",
        "log_steps",
        "tensorboard",
        "dead_expert_steps",
    ),
    "data": ("loaders",),
}
"""Settings that may change when a run goes on."""
MOST_SKIPPED = 20  # steps in a row whose gradient is not finite


@dataclass(frozen=True)
class Trained:
    """How a call of `train` ended."""

    step: int
    folder: Path
    finished: bool  # false: max_minutes ran out


def train(data: str, out: str | Path, settings: Settings) -> Trained:
    """Train on a handoff directory, or go on with the run in `out`.

    Args:
        data: handoff directory, local or s3://. out: folder of the run, local.

    Raises:
        UserError: unusable data, a run in `out` with other settings or another tokenizer, a diverged run.
    """
    began = time.monotonic()
    # 1. Who takes part, where, and in which precision
    device = pick_device(settings.train.device)
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    team = Team.join(device)
    if settings.data.micro_batches % team.size:
        raise UserError(f"data.micro_batches={settings.data.micro_batches}: must divide among {team.size} workers")
    autocast = autocast_dtype(settings.train.precision, device)
    if settings.model.moe.ffn != "none" and settings.model.moe.dispatch == "grouped":
        dtype = autocast or torch.float32
        if not grouped_product_works(torch.empty(0, dtype=dtype, device=device)):
            raise UserError(
                f"model.moe.dispatch=grouped: needs bfloat16 on an H100 or later, not {dtype} on {device}; say auto"
            )

    # 2. Data, model, optimiser, each a function of the settings
    handoff = Handoff.open(data)
    tokenizer = handoff.tokenizer()
    source = Source(handoff, tokenizer, settings)
    torch.manual_seed(settings.train.seed)
    model = SpeechModel(settings.model, len(tokenizer)).to(device)
    optimizer = make_optimizer(model, settings.optimizer)
    averaged = Averaged(model, settings.optimizer.ema) if settings.optimizer.ema else None

    # 3. Go on from the newest checkpoint
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder} ({error.strerror}): give --out a folder that can be written to"
        ) from None
    step = 0
    found = checkpoints.latest(folder)
    if found is not None:
        check_same_run(found, settings, tokenizer, source.fingerprint)
        checkpoints.load_weights(model, found.weights(), found.path)
        checkpoints.restore_moments(model, optimizer, found.optimizer())
        if averaged is not None and found.has_ema():
            averaged.load(found.weights(ema=True))
        step = found.step
    monitor = Monitor(folder, settings.train, step, quiet=not team.leads)
    monitor.say(opening(model, source, settings, team, device, autocast, found))
    if source.foreign:
        monitor.say(f"labels outside the tokenizer's scheme, which teach nothing: {', '.join(source.foreign)}")
    if not team.same(step, device):
        raise UserError(
            f"the workers found different checkpoints in {folder}: give --out a folder that all of them share"
        )
    if team.leads:
        for place in checkpoints.set_aside(folder, after=step):
            monitor.say(f"damaged, so not gone on from: {place}")
        for unusable in source.unusable():
            monitor.bad_sample(unusable.clip_id, unusable.reason, unusable.detail)

    # 4. Steps
    micro_batches = settings.data.micro_batches
    batches = iter(source.batches(step * micro_batches, settings, team, monitor))
    skipped = 0
    out_of_time = False
    model.train()
    while step < settings.train.max_steps and not out_of_time:
        group = draw_group(settings.train.seed, step, model.groups, settings.model.moe)
        total = Totals(device)
        for _ in range(micro_batches // team.size):
            batch = next(batches)
            seed_dropout(settings.train.seed, batch.global_batch)
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                accumulate(model, batch, group, settings, source.open_events, total, monitor)
        gradients = gather(model, group, team, total)
        clips = max(total.clips, 1.0)
        torch._foreach_div_(gradients, clips)
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm) and total.clips:
            skipped = 0
            torch._foreach_mul_(gradients, min(1.0, settings.optimizer.clip_norm / (norm + 1e-6)))
            rate = learning_rate(step, settings.optimizer, settings.train.max_steps)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            optimizer.step()
            if settings.model.moe.balance == "bias":
                for layer in model.moe_layers():
                    if layer.name in total.loads:
                        layer.update_bias(model.groups.index(group), total.loads[layer.name])
            if averaged is not None:
                averaged.update(model)
        else:
            skipped += 1
            monitor.say(
                f"step {step + 1} skipped: gradient norm {norm}; its {total.clips:g} clips are in bad_samples.jsonl"
            )
            for clip_id in total.clip_ids:
                monitor.bad_sample(clip_id, "non_finite_gradient", f"step {step + 1}, one of {len(total.clip_ids)}")
            if skipped == MOST_SKIPPED:
                raise UserError(
                    f"{skipped} steps in a row without a finite gradient: lower optimizer.learning_rate, begin anew"
                )
        optimizer.zero_grad(set_to_none=True)
        step += 1
        monitor.step(step, group, int(total.frames), total.numbers(norm, optimizer), total.load_arrays())

        # 5. Now and then: dev loss, checkpoint
        last = step == settings.train.max_steps
        out_of_time = team.any(_minutes(began) >= settings.train.max_minutes > 0, device)
        if (step % settings.train.eval_steps == 0 or last) and team.leads:
            for number in model.groups if source.dev_planner is not None else ():
                monitor.dev(step, number, dev_numbers(model, source, number, settings, device, autocast, monitor))
        if step % settings.train.checkpoint_steps == 0 or last or out_of_time:
            if team.leads:
                monitor.plot()
                save(folder, step, model, optimizer, averaged, settings, tokenizer, source)
                checkpoints.prune(folder, settings.train.keep_checkpoints)
            team.wait()
    monitor.close()
    team.leave()
    return Trained(step, folder, step >= settings.train.max_steps)


class Totals:
    """Sums of a step over its micro-batches, and after `gather` over all workers."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(
            6, dtype=torch.float64, device=device
        )  # clips, frames, ctc, attention, right tokens, tokens
        self.routing: list[Load] = []
        self.loads: dict[str, Tensor] = {}
        self.clip_ids: list[str] = []

    clips = property(lambda self: float(self.sums[0]))
    frames = property(lambda self: float(self.sums[1]))

    def add(self, batch: Batch, found: Losses, used_B: Tensor, loads: list[Load]) -> None:
        self.sums += torch.tensor(
            [
                float(used_B.sum()),
                float(batch.feature_lengths_B.sum()),
                float(found.ctc_B.detach()[used_B].sum()),
                float(found.attention_B.detach()[used_B].sum()),
                found.correct,
                found.tokens,
            ],
            dtype=torch.float64,
            device=self.sums.device,
        )
        self.routing += loads

    def load_arrays(self) -> dict[str, Any]:
        return {layer: counts.cpu().numpy() for layer, counts in self.loads.items()}

    def numbers(self, norm: float, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        clips, _, ctc, attention, right, tokens = self.sums.tolist()
        ctc, attention = ctc / max(clips, 1), attention / max(clips, 1)
        return {
            "loss": ctc + attention,
            "ctc": ctc,
            "attention": attention,
            "accuracy": right / max(tokens, 1),
            "gradient_norm": norm,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "clips": clips,
        }


def accumulate(
    model: SpeechModel, batch: Batch, group: int, settings: Settings, events: range, total: Totals, monitor: Monitor
) -> None:
    """Forward and backward of one micro-batch: gradients of the sum over its clips are added to what is there."""
    total.clip_ids += batch.clip_ids
    if not batch.clip_ids:
        return
    while True:
        outputs, found = run(model, batch, group, settings, events)
        used_B = finite(found.total_B)
        if used_B.all():
            break
        for number in (~used_B).nonzero().flatten().tolist():
            monitor.bad_sample(batch.clip_ids[number], "non_finite_loss", f"global batch {batch.global_batch}")
        # Once more without them: even a gradient of zero, sent back through such a clip, is NaN in every weight it
        # meets.
        batch = batch.only(used_B.tolist())
        if not batch.clip_ids:
            return
    loss = found.total_B.sum()
    if found.routing is not None:
        loss = loss + found.routing * len(batch.clip_ids)
    loss.backward()
    total.add(batch, found, used_B, outputs.routing.loads)


def run(model: SpeechModel, batch: Batch, group: int, settings: Settings, events: range) -> tuple[Any, Losses]:
    """Forward pass and losses. `events`: tokens that say nothing by their absence where a clip's events are not
    known.
    """
    device = next(model.parameters()).device

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    inputs, input_lengths = there(batch.decoder_inputs_BL), there(batch.decoder_lengths_B)
    outputs = model(there(batch.features_BT80), there(batch.feature_lengths_B), inputs, input_lengths, group)
    targets = there(batch.decoder_targets_BL)
    ctc = there(batch.ctc_targets_BU), there(batch.ctc_lengths_B)
    open_BV = None
    if events and not batch.events_known_B.all():
        open_BV = torch.zeros(len(targets), outputs.logits_BLV.shape[-1], dtype=torch.bool)
        open_BV[:, events.start : events.stop] = ~batch.events_known_B[:, None]
        for own in (batch.ctc_targets_BU, batch.decoder_targets_BL):  # of some clips only a part of the events is known
            open_BV.scatter_(1, own.clamp(min=0).long(), False)
        open_BV = there(open_BV)
    return outputs, losses(outputs, *ctc, targets, settings.loss, settings.model.moe, open_BV)


def gather(model: SpeechModel, group: int, team: Team, total: Totals) -> list[Tensor]:
    """Sum gradients, counts and loads over all workers. Every parameter of the group has a gradient afterwards, no
    other has.
    """
    parameters = [parameter for _, parameter in model.active_parameters(group)]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    merged = merge_loads(total.routing)
    for layer in model.moe_layers():
        total.loads[layer.name] = merged.get(layer.name, torch.zeros(group, device=total.sums.device))
    team.sum([*gradients, total.sums, *total.loads.values()])
    return gradients


@torch.inference_mode()
def dev_numbers(
    model: SpeechModel,
    source: Source,
    group: int,
    settings: Settings,
    device: torch.device,
    autocast: torch.dtype | None,
    monitor: Monitor,
) -> dict[str, float]:
    """Loss per clip and teacher-forced accuracy on dev."""
    model.eval()
    total = Totals(device)
    for batch in source.dev_batches(settings, monitor):
        if batch.clip_ids:
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                _, found = run(model, batch, group, settings, source.open_events)
            total.add(batch, found, finite(found.total_B), [])
    model.train()
    clips, _, ctc, attention, right, tokens = total.sums.tolist()
    return {"loss": (ctc + attention) / max(clips, 1), "accuracy": right / max(tokens, 1), "clips": clips}


def save(
    folder: Path,
    step: int,
    model: SpeechModel,
    optimizer: torch.optim.Optimizer,
    averaged: Averaged | None,
    settings: Settings,
    tokenizer: Tokenizer,
    source: Source,
) -> None:
    record = {
        "settings": config.to_dict(settings),
        "vocabulary": len(tokenizer),
        "tokenizer": tokenizer.fingerprint,
        "data": source.fingerprint,
        "handoff": source.handoff.uri,
        "learnt": source.learnt,
    }
    texts = {"tokenizer.json": tokenizer.to_bytes().decode(), "cmvn.json": source.handoff.cmvn_text}
    moments = checkpoints.moments_by_name(model, optimizer)
    ema = averaged.weights if averaged is not None else None
    checkpoints.save(folder, step, model.state_dict(), moments, record, texts, ema=ema)


def check_same_run(found: Checkpoint, settings: Settings, tokenizer: Tokenizer, data_fingerprint: str) -> None:
    """Going on is only going on when model, data and schedule are the same."""
    if found.record["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"{found.path} was trained with another tokenizer: use its handoff, or another output folder")
    # Restored first: a setting that is younger than the checkpoint had its default then
    before, now = config.to_dict(config.restore(found.record["settings"])), config.to_dict(settings)
    for part, values in now.items():
        for key, value in values.items():
            if key not in FREE.get(part, ()) and before[part][key] != value:
                raise UserError(
                    f"{found.path.parent} was begun with another {part}.{key}: give the same settings, or another "
                    "output folder"
                )
    if found.record["data"] != data_fingerprint:
        raise UserError(f"{found.path.parent} was begun on other data: give the same handoff, or another output folder")


def opening(
    model: SpeechModel,
    source: Source,
    settings: Settings,
    team: Team,
    device: torch.device,
    autocast: torch.dtype | None,
    found: Checkpoint | None,
) -> str:
    sizes = []
    for group in model.groups:
        counts = model.parameter_counts(group)
        sizes.append(f"N={group}: {counts['total'] / 1e6:.1f} M ({counts['active'] / 1e6:.1f} M active)")
    batches, start = (
        source.planner.batches_per_epoch(0),
        f"going on from step {found.step}" if found else "from the beginning",
    )
    return (
        f"parameters {', '.join(sizes)}\n"
        f"{len(source.index)} clips in {batches} batches an epoch, {settings.data.micro_batches} a step; "
        f"{team.size} worker(s) on {device.type}, {'bf16' if autocast else 'fp32'}; {start}"
    )


def _minutes(began: float) -> float:
    return (time.monotonic() - began) / 60
