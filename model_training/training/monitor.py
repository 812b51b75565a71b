"""What a training run says of itself: a live line or log lines, log.jsonl, TensorBoard, plots, alarms.

    RUN/log.jsonl          one JSON object per logged step
    RUN/bad_samples.jsonl  clips that were left out, once each, with the reason
    RUN/tensorboard/       the same numbers for TensorBoard
    RUN/plots/             loss.png, expert-load.png, groups.png

In these files `group` is the number of routed experts, N; "3+15" where a step trains several sizes.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from model_training.config import TrainSettings


class Monitor:
    """A Monitor speaks for the main worker; others are `quiet`. A context: leaving it closes its files, whatever
    happened.
    """

    def __init__(self, folder: Path, settings: TrainSettings, first_step: int, *, quiet: bool = False) -> None:
        self._folder, self._settings, self._quiet = folder, settings, quiet
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._loads: dict[tuple[int, str], np.ndarray] = {}
        self._since: dict[tuple[int, str], np.ndarray] = {}  # steps of this size since an expert last had a frame
        self._unread: list[tuple[int, Mapping[str, torch.Tensor]]] = []
        """loads of steps since the last line of the log: the device is not asked at every step"""
        self._alarmed: set[tuple[int, str, int]] = set()
        self._drawn: dict[int, int] = defaultdict(int)
        self._began, self._first = time.monotonic(), first_step
        self._frames = 0
        self._named = self._already_named()
        self._writer: Any = None
        if settings.tensorboard and not quiet:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print(file=sys.stderr)
        if self._writer is not None:
            self._writer.close()

    def step(
        self,
        step: int,
        variants: Sequence[int],
        frames: int,
        numbers: dict[str, float],
        loads: Mapping[int, Mapping[str, torch.Tensor]],
    ) -> None:
        """Report a finished step, counted from 1.

        Args:
            frames: feature frames of all workers.
            numbers: the loss, which is what was optimised, its parts, and what else is worth a curve.
            loads: frames per expert by variant and layer, which may lie on any device.
        """
        self._frames += frames
        for n_experts in variants:
            self._drawn[n_experts] += 1
            if loads[n_experts]:
                self._unread.append((n_experts, loads[n_experts]))
        group: int | str = variants[0] if len(variants) == 1 else "+".join(map(str, sorted(variants)))
        if step % self._settings.log_steps and step != 1:
            return
        self._read_loads()
        if self._quiet:
            return
        seconds = time.monotonic() - self._began
        left = (self._settings.max_steps - step) * seconds / max(step - self._first, 1)
        if self._settings.max_minutes:
            left = min(left, max(0.0, 60 * self._settings.max_minutes - seconds))
        numbers = numbers | {"frames_per_second": self._frames / seconds}
        self._log({"step": step, "group": group, **numbers})
        line = "  ".join(
            (
                f"step {step}/{self._settings.max_steps}",
                f"N={group:<2}",
                f"loss {numbers['loss']:.3f}",
                *(f"{part} {numbers[part]:.2f}" for part in ("ctc", "attention", "speaker") if part in numbers),
                f"right {100 * numbers['accuracy']:.1f}%",
                f"lr {numbers['learning_rate']:.1e}",
                f"{numbers['frames_per_second'] / 100:.0f}x real time",
                f"ETA {_clock(left)}",
            )
        )
        if self._live:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def dev(self, step: int, n_experts: int, numbers: dict[str, float]) -> None:
        """Report the objective on dev at one size."""
        if not numbers["clips"]:  # then there is no loss, and 0 would look like a perfect one
            reasons = self._folder / "bad_samples.jsonl"
            self.say(f"step {step}  dev N={n_experts}: no clip of dev can be used; {reasons} says why")
            return
        self._log({"step": step, "group": n_experts, **{f"dev_{key}": value for key, value in numbers.items()}})
        errors = f", errors {numbers['error_rate']:.1f}%" if "error_rate" in numbers else ""
        right = f"right {100 * numbers['accuracy']:.1f}%"
        self.say(f"step {step}  dev N={n_experts}: loss {numbers['loss']:.3f}, {right}{errors}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            print(("\r\033[K" if self._live else "") + text, file=sys.stderr, flush=True)

    def bad_sample(self, clip_id: str, reason: str, detail: str) -> None:
        """Name a clip that was left out. Every worker names its own; the same clip and reason once over all resumes."""
        if (clip_id, reason) not in self._named:
            self._named.add((clip_id, reason))
            record = json.dumps({"clip_id": clip_id, "reason": reason, "detail": detail}, ensure_ascii=False)
            with open(self._folder / "bad_samples.jsonl", "a", encoding="utf-8") as file:
                file.write(record + "\n")

    def pictures(self) -> Callable[[], None]:
        """Return what redraws the pictures in RUN/plots from what is known now; another thread may call it."""
        self._read_loads()
        loads, drawn = dict(self._loads), dict(self._drawn)

        def draw() -> None:
            if self._quiet:
                return
            import matplotlib

            matplotlib.use("Agg")
            from matplotlib import pyplot

            folder = self._folder / "plots"
            folder.mkdir(exist_ok=True)
            figures = {
                "loss.png": self._plot_loss(pyplot),
                "expert-load.png": _plot_loads(pyplot, loads),
                "groups.png": _plot_drawn(pyplot, drawn),
            }
            for name, figure in figures.items():
                if figure is not None:
                    figure.savefig(folder / name, dpi=110, bbox_inches="tight")
                    pyplot.close(figure)

        return draw

    def _read_loads(self) -> None:
        """Take in the loads of the steps since the last time, all in one copy from the device."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        flat = torch.cat([counts_N for _, loads in unread for counts_N in loads.values()]).cpu().numpy()
        place = 0
        for n_experts, loads in unread:
            for layer, counts_N in loads.items():
                counts, place = flat[place : place + len(counts_N)], place + len(counts_N)
                key = (n_experts, layer)
                self._loads[key] = self._loads.get(key, 0) + counts
                self._since[key] = np.where(counts > 0, 0, self._since.get(key, np.zeros(len(counts), int)) + 1)
                for expert in np.flatnonzero(self._since[key] == self._settings.dead_expert_steps):
                    self._alarm(n_experts, layer, int(expert))

    def _alarm(self, n_experts: int, layer: str, expert: int) -> None:
        if (n_experts, layer, expert) not in self._alarmed:
            self._alarmed.add((n_experts, layer, expert))
            self.say(
                f"dead expert: {layer} expert {expert} had no frame in {self._settings.dead_expert_steps} steps of "
                f"N={n_experts}; try model.moe.balance=bias"
            )
            self._log({"dead_expert": expert, "layer": layer, "group": n_experts})

    def _log(self, record: dict[str, Any]) -> None:
        if self._quiet:
            return
        with open(self._folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer is not None and "step" in record:
            for key, value in record.items():
                if key not in ("step", "group"):
                    self._writer.add_scalar(f"{key}/N{record['group']}", value, record["step"])

    def _already_named(self) -> set[tuple[str, str]]:
        return {(record["clip_id"], record["reason"]) for record in _records(self._folder / "bad_samples.jsonl")}

    def _plot_loss(self, pyplot: Any) -> Any:
        series: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for record in _records(self._folder / "log.jsonl"):
            for key in ("loss", "dev_loss"):
                if key in record:
                    series[f"{'dev' if key.startswith('dev') else 'train'} N={record['group']}"].append(
                        (record["step"], record[key])
                    )
        figure, axes = pyplot.subplots(figsize=(8, 4))
        for name, points in sorted(series.items()):
            axes.plot(*zip(*points), label=name, linestyle="--" if name.startswith("dev") else "-", linewidth=1)
        axes.set(xlabel="step", ylabel="loss per clip", yscale="log")
        if series:
            axes.legend()
        return figure


def _plot_loads(pyplot: Any, loads: dict[tuple[int, str], np.ndarray]) -> Any:
    if not loads:
        return None
    sizes = sorted({n_experts for n_experts, _ in loads})
    figure, all_axes = pyplot.subplots(1, len(sizes), figsize=(4 * len(sizes), 5), squeeze=False)
    for n_experts, axes in zip(sizes, all_axes[0]):
        layers = [layer for size, layer in loads if size == n_experts]
        share = np.stack([loads[n_experts, layer] / max(loads[n_experts, layer].sum(), 1) for layer in layers])
        image = axes.imshow(
            share * n_experts, aspect="auto", cmap="viridis", vmin=0, vmax=max(2.0, float((share * n_experts).max()))
        )
        axes.set(title=f"N = {n_experts}", xlabel="expert")
        axes.set_yticks(range(len(layers)), layers, fontsize=6)
        figure.colorbar(image, ax=axes, label="load (1 = even)")
    figure.tight_layout()
    return figure


def _plot_drawn(pyplot: Any, drawn: dict[int, int]) -> Any:
    figure, axes = pyplot.subplots(figsize=(4, 3))
    sizes = sorted(drawn)
    axes.bar([f"N={n_experts}" for n_experts in sizes], [drawn[n_experts] for n_experts in sizes])
    axes.set(ylabel="steps", title="groups trained")
    return figure


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a file.

    A run cut off, or a full disk, may have left half a line, with the next one behind it.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError):
                yield json.loads(line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
