"""Whether a card computes what a CPU does: steps of training, experts by every dispatch, and a run that goes on.

    hand-off ──begin──> Run on the CPU, and on the device ──the same batches──> losses, what the weights moved by

Nothing is dropped or masked at random where the two are compared, as they draw differently. Sums are made in another
order, so the last digits differ, and the difference grows with every step: routers choose, and optimisers divide by
small numbers. So the first step's loss is held to the most, before anything has moved. On a CPU, one part in ten
million of the weights at the beginning moved the losses of tiny's 20 steps by 3e-5 and the way that its weights went by
3 %; bfloat16 instead of float32 moved them by 3e-4 and 6 %.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.accelerator.checks import Context, Finding
from benchmarks.accelerator.data import handoff
from model_training.config import MoESettings, Settings, load
from model_training.data.reading import Batch
from model_training.model.device import pick_device, use_tf32
from model_training.model.dispatch import DISPATCHES, pick_dispatch
from model_training.model.moe import ElasticMoE
from model_training.model.router import Routing
from model_training.train import update
from model_training.training import checkpoint as checkpoints
from model_training.training.run import Run, begin, resume
from model_training.training.step import work
from model_training.training.workers import Workers

EXACT = {"first": 2e-5, "loss": 1e-3, "moved": 0.2}
"""float32, TF32 off: the most that the first step's loss, any step's, and the way that all weights went may differ by,
relatively.
"""
ROUNDED = {"first": 5e-3, "loss": 1e-2, "moved": 0.5}
"""bfloat16 under autocast, against float32."""
STEPS = 20
_STILL = (
    "model.dropout=0.0",
    "data.augment.noise_probability=0",
    "data.augment.reverb_probability=0",
    "data.augment.frequency_masks=0",
    "data.augment.time_masks=0",
)
_LITTLE = ("data.loaders=0", "data.max_frames=3000", "data.max_clip_frames=3000", "data.micro_batches=2")
_SMALLER = ("model.d_model=32", "model.d_ff=48", "model.encoder_layers=2", "model.kernel=5")
_SHORTER = ("data.max_frames=1500", "data.max_clip_frames=1500")
"""For --quick."""


@dataclass(frozen=True)
class Walked:
    """What some steps did."""

    losses: list[float]
    moved: dict[str, Tensor]
    """of every weight, from before the first step, on the CPU"""


def walk(run: Run[Batch], first: int, last: int, beginning: dict[str, Tensor] | None = None) -> Walked:
    """Take the steps [first, last) of a run, as train.take_steps does."""
    before = beginning if beginning is not None else weights_of(run)
    learner, share = run.learner, run.settings.data.micro_batches
    batches = run.source.batches(first * share, _bad)
    found = []
    run.model.train()
    for step in range(first, last):
        variants = learner.begin_step(step)
        total, gradients = work(learner, islice(batches, share), variants, run.workers, _bad)
        torch._foreach_div_(gradients, max(total.clips, 1.0))
        update(run, step, gradients, float(torch.nn.utils.get_total_norm(gradients)))
        learner.end_step(total.loads)
        run.optimizer.zero_grad(set_to_none=True)
        found.append(total.means()["loss"])
    batches.close()
    return Walked(found, {name: weight - before[name] for name, weight in weights_of(run).items()})


def weights_of(run: Run[Batch]) -> dict[str, Tensor]:
    """Return copies of the weights on the CPU."""
    return {name: weight.detach().cpu().clone() for name, weight in run.learner.weights().items()}


def apart(one: Walked, other: Walked) -> dict[str, float]:
    """Return the relative difference of the first loss, the largest of any, and that of what the weights moved by."""
    losses = [abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True)]
    between = sum(float((other.moved[name] - moved).double().square().sum()) for name, moved in one.moved.items())
    length = sum(float(moved.double().square().sum()) for moved in one.moved.values())
    return {"first": losses[0], "loss": max(losses), "moved": math.sqrt(between / length)}


def tiny(context: Context) -> Finding:
    """`tiny` as it is, beside the CPU."""
    return _beside_the_cpu(context, "tiny", [])


def mid(context: Context) -> Finding:
    """Half of `small`, beside the CPU."""
    return _beside_the_cpu(context, "small", ["model.encoder_layers=6", "optimizer.warmup_steps=10"])


def _beside_the_cpu(context: Context, preset: str, more: Sequence[str]) -> Finding:
    data = handoff(context.work, 2, few=context.quick)
    steps = 4 if context.quick else STEPS
    walked, seconds = {}, {}
    for name, device, precision in (
        ("cpu", "cpu", "fp32"),
        ("exact", context.device, "fp32"),
        ("rounded", context.device, "bf16"),
    ):
        settings = _settings(preset, [*_STILL, *more, f"train.precision={precision}"], context.quick)
        use_tf32(False)
        began = time.perf_counter()
        with _few_threads():
            walked[name] = walk(_begin(data, context.work / f"{preset}-{name}", settings, device), 0, steps)
        seconds[name] = time.perf_counter() - began
    exact, rounded = apart(walked["cpu"], walked["exact"]), apart(walked["cpu"], walked["rounded"])
    wrong = [
        f"{kind}: {name} {found[name]:.1e} apart, at most {most[name]:g}"
        for kind, found, most in (("float32", exact, EXACT), ("bf16", rounded, ROUNDED))
        for name in found
        if not found[name] <= most[name]
    ]
    if not context.on_card and exact["moved"]:
        wrong.append("the CPU does not repeat itself to the bit")
    return Finding(
        f"{steps} steps beside the CPU's, first loss, any loss, way of the weights: {_numbers(exact)}, at most "
        f"{_numbers(EXACT)}; bf16 {_numbers(rounded)}, at most {_numbers(ROUNDED)}",
        {"steps": steps, "float32": exact, "bf16": rounded, "losses": walked["cpu"].losses, "seconds": seconds},
        "; ".join(wrong),
    )


@contextmanager
def _few_threads() -> Iterator[None]:
    """Compute on a few threads: models this small are slower on all cores of a large machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 4))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def going_on(context: Context) -> Finding:
    """Steps in one go, beside as many with a checkpoint in the middle; dropout on."""
    data = handoff(context.work, 2, few=context.quick)
    half = 2 if context.quick else 5
    settings = _settings("tiny", ["train.precision=fp32"], context.quick)
    use_tf32(False)
    ends = []
    for number in range(2):
        ends.append(walk(_begin(data, context.work / f"whole-{number}", settings, context.device), 0, 2 * half))
    folder = context.work / "halves"
    run = _begin(data, folder, settings, context.device)
    beginning = weights_of(run)
    losses = walk(run, 0, half).losses
    moments = checkpoints.moments_by_name(run.model, run.optimizer)
    checkpoints.save(folder, half, run.learner.weights(), moments, run.record, run.texts)
    del run
    again = _begin(data, folder, settings, context.device, fresh=False)
    first = resume(again).step
    rest = walk(again, first, 2 * half, beginning)
    resumed = Walked([*losses, *rest.losses], rest.moved)
    found, noise = apart(ends[0], resumed), apart(ends[0], ends[1])
    same = found["moved"] == 0
    wrong = ""
    if first != half:
        wrong = f"it went on from step {first}, not {half}"
    elif not same and not context.on_card:
        wrong = "on a CPU it must be the same to the bit"
    elif found["moved"] > EXACT["moved"] or found["loss"] > EXACT["loss"]:
        wrong = "the halves are too far from the whole"
    # CTC's gradient on a card is summed by atomic additions, whose order is nobody's.
    kind = "to the bit" if same else "within tolerance, as CTC's gradient adds up in any order"
    return Finding(
        f"{half} + {half} steps with a checkpoint between = {2 * half} in one go, {kind}: weights' way "
        f"{found['moved']:.0e} apart; two runs in one go {noise['moved']:.0e}",
        {"resumed": found, "repeated": noise, "to_the_bit": same},
        wrong,
    )


def dispatches(context: Context) -> Finding:
    """The dispatch that a step takes, and the others, beside the loop over experts in float32."""
    device = pick_device(context.device)
    use_tf32(False)
    torch.manual_seed(0)
    d_model, width, frames = (64, 48, 300) if context.quick else (512, 1024, 15_000)
    settings = MoESettings(experts=[3, 7, 15])
    layer = ElasticMoE("layer", d_model, width, settings, 0.0).to(device)
    x_BTD, weight_TD = torch.randn(1, frames, d_model, device=device), torch.randn(frames, d_model, device=device)

    def passed(how: str, autocast: bool) -> dict[str, Tensor]:
        settings.dispatch = how
        layer.zero_grad(set_to_none=True)
        own = x_BTD.clone().requires_grad_()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            y_BTD = layer(own, Routing(2))
        (y_BTD.float()[0] * weight_TD).sum().backward()
        experts = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
        assert own.grad is not None
        return {"y": y_BTD.detach().float(), "x": own.grad, **experts}

    wanted = passed("loop", False)
    taken: dict[str, str] = {}
    found: dict[str, float] = {}
    for precision, autocast in (("float32", False), ("bf16", True)):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            chosen = pick_dispatch("auto", x_BTD, layer.width, all_chosen=False)
        taken[precision] = next(name for name, one in DISPATCHES.items() if one is chosen)
        for how in dict.fromkeys(("sorted", taken[precision])):
            got = passed(how, autocast)
            assert got.keys() == wanted.keys()
            found[f"{how}, {precision}"] = max(
                float((got[name] - one).norm() / one.norm()) for name, one in wanted.items()
            )
    wrong = [name for name, far in found.items() if not far <= (2e-2 if "bf16" in name else 1e-4)]
    return Finding(
        "from the loop in float32: " + ", ".join(f"{name} {far:.0e}" for name, far in found.items())
        + f" (most 1e-4, bf16 2e-2); auto takes {taken['bf16']} in bf16",
        {"apart": found, "auto": taken},
        f"too far: {', '.join(wrong)}" if wrong else "",
    )  # fmt: skip


def _settings(preset: str, more: Sequence[str], quick: bool) -> Settings:
    return load(preset, [*_LITTLE, *more, *((*_SMALLER, *_SHORTER) if quick else ())])


def _numbers(found: dict[str, float]) -> str:
    return " ".join(f"{number:.0e}" for number in found.values())


def _begin(data: str, folder: Path, settings: Settings, device: str, *, fresh: bool = True) -> Run[Batch]:
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    return begin(data, folder, settings, pick_device(device), Workers())


def _bad(clip_id: str, reason: str, detail: str) -> None:
    raise ValueError(f"{clip_id}: {reason} ({detail})")
