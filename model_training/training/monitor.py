"""What a training run says of itself: a live line or log lines, log.jsonl, TensorBoard, plots of the experts' load,
alarms.

RUN/log.jsonl          one JSON object per logged step
RUN/bad_samples.jsonl  clips that were left out, once each, with the reason
RUN/tensorboard/       the same numbers for TensorBoard
RUN/plots/             loss.png, expert-load.png, groups.png
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from model_training.config import TrainSettings
from model_training.model.moe import Load


class Monitor:
    """Of the leading worker; others pass `quiet`."""

    def __init__(self, folder: Path, settings: TrainSettings, first_step: int, *, quiet: bool = False) -> None:
        self._folder, self._settings, self._quiet = folder, settings, quiet
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._loads: dict[tuple[int, str], np.ndarray] = {}
        self._since: dict[tuple[int, str], np.ndarray] = {}  # steps of the group since an expert last had a frame
        self._alarmed: set[tuple[int, str, int]] = set()
        self._drawn: dict[int, int] = defaultdict(int)
        self._began, self._first = time.monotonic(), first_step
        self._frames = 0
        self._named = self._already_named()
        self._writer: Any = None
        if settings.tensorboard and not quiet:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def step(self, step: int, group: int, frames: int, numbers: dict[str, float], loads: dict[str, np.ndarray]) -> None:
        """Of a finished step, counted from 1. `frames`: feature frames of all workers; `loads`: frames per expert by
        layer.
        """
        self._drawn[group] += 1
        self._frames += frames
        for layer, counts in loads.items():
            key = (group, layer)
            self._loads[key] = self._loads.get(key, 0) + counts
            self._since[key] = np.where(counts > 0, 0, self._since.get(key, np.zeros(len(counts), int)) + 1)
            for expert in np.flatnonzero(self._since[key] == self._settings.dead_expert_steps):
                self._alarm(group, layer, int(expert))
        if self._quiet or (step % self._settings.log_steps and step != 1):
            return
        seconds = time.monotonic() - self._began
        left = (self._settings.max_steps - step) * seconds / max(step - self._first, 1)
        numbers = numbers | {"frames_per_second": self._frames / seconds}
        self._log({"step": step, "group": group, **numbers})
        line = (
            f"step {step}/{self._settings.max_steps}  N={group:<2}  loss {numbers['loss']:.3f}  ctc "
            f"{numbers['ctc']:.2f}  "
            f"attention {numbers['attention']:.2f}  right {100 * numbers['accuracy']:.1f}%  lr "
            f"{numbers['learning_rate']:.1e}  "
            f"{numbers['frames_per_second'] / 100:.0f}x real time  ETA {_clock(left)}"
        )
        if self._live:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def dev(self, step: int, group: int, numbers: dict[str, float]) -> None:
        if not numbers["clips"]:  # then there is no loss, and 0 would look like a perfect one
            self.say(
                f"step {step}  dev N={group}: no clip of dev can be used; {self._folder / 'bad_samples.jsonl'} says why"
            )
            return
        self._log({"step": step, "group": group, **{f"dev_{key}": value for key, value in numbers.items()}})
        self.say(f"step {step}  dev N={group}: loss {numbers['loss']:.3f}, right {100 * numbers['accuracy']:.1f}%")

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            print(("\r\033[K" if self._live else "") + text, file=sys.stderr, flush=True)

    def bad_sample(self, clip_id: str, reason: str, detail: str) -> None:
        """Every worker names its own. The same clip and reason is named once over all resumes."""
        if (clip_id, reason) not in self._named:
            self._named.add((clip_id, reason))
            record = json.dumps({"clip_id": clip_id, "reason": reason, "detail": detail}, ensure_ascii=False)
            with open(self._folder / "bad_samples.jsonl", "a", encoding="utf-8") as file:
                file.write(record + "\n")

    def plot(self) -> None:
        """Redraw the pictures in RUN/plots."""
        if self._quiet:
            return
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        folder = self._folder / "plots"
        folder.mkdir(exist_ok=True)
        pictures = {"loss.png": self._plot_loss, "expert-load.png": self._plot_loads, "groups.png": self._plot_groups}
        for name, draw in pictures.items():
            figure = draw(pyplot)
            if figure is not None:
                figure.savefig(folder / name, dpi=110, bbox_inches="tight")
                pyplot.close(figure)

    def load_spread(self) -> dict[int, float]:
        """Per group, the largest share of a layer's frames that one expert took, over what an even share would be."""
        spread: dict[int, float] = {}
        for (group, _), counts in self._loads.items():
            spread[group] = max(spread.get(group, 0.0), float(counts.max() / max(counts.mean(), 1e-9)))
        return spread

    def close(self) -> None:
        if self._live:
            print(file=sys.stderr)
        if self._writer is not None:
            self._writer.close()

    def _alarm(self, group: int, layer: str, expert: int) -> None:
        if (group, layer, expert) not in self._alarmed:
            self._alarmed.add((group, layer, expert))
            steps = self._settings.dead_expert_steps
            self.say(
                f"dead expert: {layer} expert {expert} had no frame in {steps} steps of N={group}; try "
                "model.moe.balance=bias"
            )
            self._log({"dead_expert": expert, "layer": layer, "group": group})

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

    def _plot_loads(self, pyplot: Any) -> Any:
        if not self._loads:
            return None
        groups = sorted({group for group, _ in self._loads})
        figure, all_axes = pyplot.subplots(1, len(groups), figsize=(4 * len(groups), 5), squeeze=False)
        for group, axes in zip(groups, all_axes[0]):
            layers = [layer for number, layer in self._loads if number == group]
            share = np.stack([self._loads[group, layer] / max(self._loads[group, layer].sum(), 1) for layer in layers])
            image = axes.imshow(
                share * group, aspect="auto", cmap="viridis", vmin=0, vmax=max(2.0, float((share * group).max()))
            )
            axes.set(title=f"N = {group}", xlabel="expert")
            axes.set_yticks(range(len(layers)), layers, fontsize=6)
            figure.colorbar(image, ax=axes, label="load (1 = even)")
        figure.tight_layout()
        return figure

    def _plot_groups(self, pyplot: Any) -> Any:
        figure, axes = pyplot.subplots(figsize=(4, 3))
        names = [f"N={group}" for group in sorted(self._drawn)]
        axes.bar(names, [self._drawn[group] for group in sorted(self._drawn)])
        axes.set(ylabel="steps", title="groups drawn")
        return figure


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file. A run cut off, or a full disk, may have left half a line, with the next one behind
    it.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError):
                yield json.loads(line)


def merge_loads(loads: list[Load]) -> dict[str, Any]:
    """Frames per expert by layer, over several passes, as tensors."""
    merged: dict[str, Any] = {}
    for load in loads:
        merged[load.layer] = merged[load.layer] + load.counts_N if load.layer in merged else load.counts_N
    return merged


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
