"""What a training step of a large preset costs on a card: frames a second, share of its peak, memory, and who waits.

    paper-1b ──noise of one length──> steps at each size ──CUDA's clock──> frames/s, MFU, peak memory
             ──the demo crawl through the loaders, features on the card──> how long the card had nothing to do

MFU counts what `inspect` counts, encoder and CTC of what was heard, thrice: once there and twice back. Decoders are
left out, so it is a little too low.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from benchmarks.accelerator.checks import Context, Finding, Skipped
from benchmarks.accelerator.data import handoff, synthetic
from model_training.config import Settings, load
from model_training.data.handoff import Handoff
from model_training.data.reading import Batch
from model_training.data.source import Source
from model_training.model.conformer import Encoder
from model_training.model.device import autocast_dtype, pick_device, use_tf32
from model_training.model.flops import flops
from model_training.model.speech_model import SpeechModel
from model_training.training.elastic import ElasticLearner
from model_training.training.optimizer import make_optimizer
from model_training.training.step import accumulate, work
from model_training.training.workers import Workers

PEAKS = (
    ("B200", 2250.0),
    ("B100", 1800.0),
    ("GH200", 989.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H800", 989.0),
    ("H20", 148.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A40", 150.0),
    ("A30", 165.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX 5090", 209.0),
    ("RTX 4090", 165.0),
    ("RTX 3090", 71.0),
)
"""TFLOP/s of dense bfloat16 products with sums in float32, from the maker's data sheets, by a part of the name; the
first that fits."""
VOCABULARY, CLIP_FRAMES, CLIP_TOKENS = 6000, 1000, 40
_MOST = 8
"""Operations that are named."""
_SMALL = ("model.d_model=32", "model.heads=2", "model.d_ff=48", "model.encoder_layers=1", "model.decoder_layers=1")
"""For --quick: paper-1b's shape, of no size."""


def peak_tflops(name: str) -> float | None:
    """Return what a card of this name can do at most; None: nobody knows."""
    return next((peak for part, peak in PEAKS if part in name), None)


@dataclass
class Bench:
    """A model with its optimiser, and steps of it on batches."""

    settings: Settings
    device: torch.device
    learner: ElasticLearner
    optimizer: torch.optim.Optimizer
    vocabulary: int
    micro: int = 2
    """micro-batches of a step here; the preset's are more, which costs an optimiser less"""
    seconds: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context, vocabulary: int, *more: str) -> Bench:
        settings = load("paper-1b", ["data.features=device", *(_SMALL if context.quick else ()), *more])
        device = pick_device(context.device)
        use_tf32(settings.train.tf32)
        torch.manual_seed(0)
        with device:  # a thousand million numbers are drawn sooner there
            model = SpeechModel(settings.model, vocabulary)
        learner = ElasticLearner(model, settings, range(0), autocast_dtype(settings.train.precision, device))
        return cls(settings, device, learner, make_optimizer(model, settings.optimizer), vocabulary)

    def step(self, batches: list[Batch], n_experts: int) -> None:
        """Take a step as training does, but for the learning rate."""
        total, gradients = work(self.learner, batches, (n_experts,), Workers(), _bad)
        torch._foreach_div_(gradients, max(total.clips, 1.0))
        norm = float(torch.nn.utils.get_total_norm(gradients))
        torch._foreach_mul_(gradients, min(1.0, self.settings.optimizer.clip_norm / (norm + 1e-6)))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def recompute(self, wanted: bool) -> None:
        for part in self.learner.model.modules():
            if isinstance(part, Encoder):
                part.recompute = wanted

    def timed(self, run: Callable[[], None]) -> tuple[float, float]:
        """Return the seconds of it, until the card has done it, and the most memory meanwhile in GiB (0 on a CPU)."""
        self.wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        run()
        self.wait()
        most = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        return time.perf_counter() - began, most

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def noise(context: Context, bench: Bench, frames: int, count: int) -> list[Batch]:
    """Return micro-batches of so many feature frames, clips of ten seconds (of one with --quick)."""
    length, tokens = (100, 5) if context.quick else (CLIP_FRAMES, CLIP_TOKENS)
    return [synthetic(max(1, frames // length), length, tokens, bench.vocabulary, number) for number in range(count)]


def fitting(context: Context, bench: Bench) -> int:
    """Return the frames of a micro-batch that the card has room for: the preset's, or a half, a quarter, ... of it."""
    frames = 400 if context.quick else bench.settings.data.max_frames
    while True:
        try:
            bench.step(noise(context, bench, frames, bench.micro), bench.learner.model.sizes[-1])
            return frames
        except torch.cuda.OutOfMemoryError:
            bench.optimizer.zero_grad(set_to_none=True)
            if frames < 4 * CLIP_FRAMES:
                raise
            frames //= 2
        gc.collect()
        torch.cuda.empty_cache()


def step(context: Context) -> Finding:
    """paper-1b's step on noise, at every size."""
    bench = Bench.of(context, VOCABULARY)
    frames = fitting(context, bench)
    batches = noise(context, bench, frames, bench.micro)
    heard = sum(int(batch.feature_lengths_B.sum()) for batch in batches)
    name = torch.cuda.get_device_name() if context.on_card else ""
    peak = peak_tflops(name)
    numbers: dict[str, Any] = {"micro_batch_frames": frames, "micro_batches": bench.micro, "peak_tflops": peak}
    parts, rounds = [], 1 if context.quick else 3
    for n_experts in reversed(bench.learner.model.sizes):
        bench.step(batches, n_experts)
        seconds, memory = bench.timed(lambda n=n_experts: [bench.step(batches, n) for _ in range(rounds)])
        rate = rounds * heard / seconds
        length = int(batches[0].feature_lengths_B[0])
        each = 3 * flops(bench.settings.model, VOCABULARY, n_experts, length) / length
        tflops = each * rate / 1e12
        mfu = tflops / peak if peak else None
        numbers[f"N={n_experts}"] = {
            "frames_per_second": rate,
            "tflops": tflops,
            "mfu": mfu,
            "memory_gib": memory,
            "step_seconds": seconds / rounds,
        }
        share = f"MFU {100 * mfu:.0f} %" if mfu is not None else f"{tflops:.2f} TFLOP/s"
        room = f", {memory:.0f} GiB" if context.on_card else ""
        parts.append(f"N={n_experts} {rate:,.0f} frames/s ({rate / 100:,.0f}x), {share}{room}")
    unknown = f"; nobody knows the peak of '{name}'" if context.on_card and peak is None else ""
    small = (
        "" if frames == bench.settings.data.max_frames or context.quick else f"; micro-batches of {frames} frames only"
    )
    precision = "bf16" if bench.learner.autocast else "float32"
    return Finding(f"{precision}: " + "; ".join(parts) + unknown + small, numbers)


def checkpointing(context: Context) -> Finding:
    """Memory and time of one micro-batch, its blocks kept or computed again (train.recompute)."""
    bench = Bench.of(context, VOCABULARY)
    (batch,) = noise(context, bench, fitting(context, bench), 1)
    n_experts = bench.learner.model.sizes[-1]
    found = {}
    for again in (False, True):
        bench.recompute(again)
        for counted in (False, True):
            total = bench.learner.totals()
            seconds, memory = bench.timed(lambda total=total: accumulate(bench.learner, batch, (n_experts,), total))
            bench.optimizer.zero_grad(set_to_none=True)
            if counted:
                found[again] = (seconds, memory, total.means()["loss"])
    (kept, room, loss), (computed, less, again_loss) = found[False], found[True]
    wrong = "" if abs(loss - again_loss) <= 1e-3 * abs(loss) else f"the loss is another: {loss} and {again_loss}"
    if context.on_card and not less < room:
        wrong = wrong or "it saves no memory"
    memory = f"{room:.1f} GiB kept, {less:.1f} computed again; " if context.on_card else ""
    return Finding(
        f"a micro-batch: {memory}{kept:.2f} s and {computed:.2f} s",
        {"kept": {"gib": room, "seconds": kept}, "again": {"gib": less, "seconds": computed}},
        wrong,
    )


def kernels(context: Context) -> Finding:
    """Return what a micro-batch's time goes to: the card's busy share, and the operations that take most of it."""
    bench = Bench.of(context, VOCABULARY)
    (batch,) = noise(context, bench, fitting(context, bench), 1)
    n_experts = bench.learner.model.sizes[-1]
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if context.on_card else [])]
    for _ in range(2):  # the first profile also starts the profiler
        total = bench.learner.totals()
        with torch.profiler.profile(activities=kinds) as profile:
            wall, _ = bench.timed(lambda total=total: accumulate(bench.learner, batch, (n_experts,), total))
        bench.optimizer.zero_grad(set_to_none=True)

    def own(event: Any) -> float:
        return float(event.self_device_time_total if context.on_card else event.self_cpu_time_total) / 1e6

    # A kernel counts where it was launched from; the kernels' own lines would count it twice.
    found = [event for event in profile.key_averages() if not event.key.startswith("Profiler")]
    launched = [event for event in found if str(event.device_type).endswith("CPU") and own(event) > 0]
    launched.sort(key=own, reverse=True)
    busy = sum(map(own, launched))
    if not busy:
        raise Skipped("torch's profiler sees no kernels on this machine (CUPTI may be forbidden to it)")
    most = {event.key.removeprefix("aten::"): own(event) / busy for event in launched[:_MOST]}
    whose = "the card works" if context.on_card else "operations take"
    return Finding(
        f"{whose} {100 * busy / wall:.0f} % of {wall:.2f} s (profiled): "
        + ", ".join(f"{name[:28]} {100 * share:.0f} %" for name, share in most.items()),
        {"wall_seconds": wall, "busy_seconds": busy, "shares": most},
    )


def loading(context: Context) -> Finding:
    """paper-1b's step on the demo crawl: how long the card has nothing to do between micro-batches."""
    data = handoff(context.work, times=1 if context.quick else 40, few=context.quick)
    opened = Handoff.open(data)
    tokenizer = opened.tokenizer()
    loaders = 1 if context.quick else max(1, min(12, (os.cpu_count() or 1) - 1))
    more = [
        f"data.loaders={loaders}",
        *(["data.max_frames=1500", "data.max_clip_frames=1500"] if context.quick else []),
    ]
    bench = Bench.of(context, len(tokenizer), *more)
    room = fitting(context, bench)
    if not context.quick:
        bench.settings.data.max_frames = room
    source = Source(opened, tokenizer, bench.settings, bench.device)
    seconds = 0.5 if context.quick else 10.0
    n_experts = bench.learner.model.sizes[-1]

    stream = source.batches(0, _bad)
    clock = _Gaps(bench.device)
    frames = 0
    for number in range(1_000_000):
        batch = next(stream)
        clock.begin()
        bench.step([batch], n_experts)
        clock.end()
        if number == 1:  # the first two also wake the loaders
            clock, frames = _Gaps(bench.device), 0
            clock.end()
        elif number > 1:
            frames += int(batch.feature_lengths_B.sum())
            if number > 2 and time.perf_counter() - clock.began > seconds:
                break
    stream.close()
    wall, idle = clock.read()

    fresh = source.batches(100, _bad)
    list(islice(fresh, 1 if context.quick else loaders))
    began, alone = time.perf_counter(), 0
    while time.perf_counter() - began < seconds / 2:
        alone += int(next(fresh).feature_lengths_B.sum())
    rate = alone / (time.perf_counter() - began)
    fresh.close()
    asked = frames / max(wall - idle, 1e-9)
    long_run = max(0.0, 1 - rate / asked)
    return Finding(
        f"the device waits {100 * idle / wall:.0f} % of {wall:.0f} s; {loaders} loaders give {rate / 100:,.0f}x real "
        f"time, steps of a micro-batch take {asked / 100:,.0f}x: in the long run {100 * long_run:.0f} % waiting",
        {
            "loaders": loaders,
            "idle_share": idle / wall,
            "loaders_frames_per_second": rate,
            "steps_frames_per_second": asked,
            "long_run_idle_share": long_run,
        },
    )


class _Gaps:
    """The time between the end of one micro-batch and the beginning of the next, on the card's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._card = device.type == "cuda"
        self._began: list[Any] = []
        self._ended: list[Any] = []
        self.began = time.perf_counter()

    def begin(self) -> None:
        self._began.append(self._now())

    def end(self) -> None:
        self._ended.append(self._now())

    def _now(self) -> Any:
        if not self._card:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> tuple[float, float]:
        """Return the seconds from the first end to the last, and those of the gaps."""
        pairs = list(zip(self._ended, self._began))
        if not self._card:
            return self._ended[-1] - self._ended[0], sum(begin - end for end, begin in pairs)
        torch.cuda.synchronize()
        whole = self._ended[0].elapsed_time(self._ended[-1]) / 1000
        return whole, sum(end.elapsed_time(begin) for end, begin in pairs) / 1000


def _bad(clip_id: str, reason: str, detail: str) -> None:
    raise ValueError(f"{clip_id}: {reason} ({detail})")
