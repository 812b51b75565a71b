"""Where the program waits for the card inside a micro-batch: it should not, and what is queued then never runs dry.

    micro-batch ──accumulate under set_sync_debug_mode("warn")──> warnings ──stack──> file:line, counted

torch's own CTC loss copies lengths to the card from memory that may be paged out, and waits for each copy, there and on
the way back. How often is measured by that loss alone; the rest is ours, and must be none.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

from benchmarks.accelerator.checks import Context, Finding, Skipped
from benchmarks.accelerator.data import ROOT, handoff
from model_training.config import Settings, load
from model_training.model.device import pick_device, use_tf32
from model_training.training.losses import ctc_loss
from model_training.training.run import begin
from model_training.training.step import accumulate
from model_training.training.workers import Workers

EVERY_PART = (
    "model.moe.embedding_layers=2",
    "model.moe.balance=sparsity",
    "model.extra_decoders=1",
    "model.reverse_layers=1",
    "model.causal=true",
    "model.dynamic_chunks=true",
    "data.task_order=text_first",
)
_NOT_THERE = (__file__, warnings.__file__)
"""Files whose lines only count."""
_OURS = ("model_training", "operators", "benchmarks")


def waits(run: Callable[[], None]) -> Counter[str]:
    """Return where the program waited for the card while it ran, innermost line of ours, and how often."""
    found: Counter[str] = Counter()

    def note(message: Warning | str, *_: object) -> None:
        if str(message).startswith("called a synchronizing"):
            frames = [frame for frame in traceback.extract_stack() if frame.filename not in _NOT_THERE]
            ours = [frame for frame in frames if _is_ours(frame.filename)] or frames
            found[f"{_shown(ours[-1].filename)}:{ours[-1].lineno}"] += 1

    _settle()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        _mode("warn")
        try:
            run()
        finally:
            _mode("default")
    _settle()
    return found


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _mode(name: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(name)


def micro_batch(context: Context) -> Finding:
    """Micro-batches of the real loader, features on the card, in bfloat16: of the plain model and of one with every
    part.
    """
    data = handoff(context.work, 2, few=context.quick)
    alone = ctc_alone(pick_device(context.device))
    text, numbers, wrong = [], {"ctc_alone": dict(alone)}, []
    for name, more in (("plain", ()), ("every part", EVERY_PART)):
        counted, losses = count(data, context, more)
        theirs = losses * alone.total()
        ours = counted.total() - theirs
        numbers[name] = {"ours": ours, "in torch's CTC": theirs, "where": dict(counted)}
        text.append(f"{name} {ours} ({theirs} more in torch's CTC)")
        if ours > 0:
            places = ", ".join(f"{place} x{times}" for place, times in counted.most_common())
            wrong.append(f"{name} waits: {places}")
    if not context.on_card:
        raise Skipped("both kinds of model ran, but only a card is waited for")
    return Finding("waits in a micro-batch: " + ", ".join(text), numbers, "; ".join(wrong))


def count(data: str, context: Context, more: tuple[str, ...]) -> tuple[Counter[str], int]:
    """Return the waits of a micro-batch, from the loader's hand-over to the end of the way back, and its CTC losses."""
    width, frames = (32, 1500) if context.quick else (256, 6000)
    sizes = [f"model.d_model={width}", "model.heads=4", f"model.d_ff={2 * width}"]
    sizes += ["model.encoder_layers=2", "model.decoder_layers=1"]
    sizes += [f"data.max_frames={frames}", "data.max_clip_frames=1500"]
    settings: Settings = load("paper-1b", [*sizes, "data.features=device", "data.loaders=0", *more])
    use_tf32(True)
    run = begin(data, context.work / "waits", settings, pick_device(context.device), Workers())
    batches = run.source.batches(0, lambda *_: None)
    variants, total = run.model.sizes[-1:], run.learner.totals()  # type: ignore[index, union-attr]
    for batch in islice(batches, 2):  # what is tried or compiled once
        accumulate(run.learner, batch, variants, total)
    found = waits(lambda: accumulate(run.learner, next(batches), variants, total))
    batches.close()
    return found, 2 if settings.model.moe.embedding_layers else 1


def ctc_alone(device: torch.device) -> Counter[str]:
    """Return the waits of one CTC loss, there and back."""
    logits_BSV = torch.randn(4, 50, 30, device=device, requires_grad=True)
    lengths_B, targets_BU = torch.full((4,), 50), torch.full((4, 9), 5, device=device)

    def there_and_back() -> None:
        ctc_loss(logits_BSV, lengths_B, targets_BU, torch.full((4,), 9)).sum().backward()

    there_and_back()
    return waits(there_and_back)


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in _OURS


def _shown(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
