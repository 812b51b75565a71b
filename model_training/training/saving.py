"""Checkpoints written beside the training: a step waits for a copy of the tensors, not for the disk.

    weights, moments ──copy, to the CPU──> one thread: files, sync, rename, old ones removed, pictures

One is written at a time: the next waits for it, and so does the end of the run. What goes wrong in the thread (a full
disk) is raised by the next call.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

from torch import Tensor

from model_training.training import checkpoint as checkpoints
from model_training.training.choosing import RECORD, Choice, DevScore, ranked
from model_training.training.monitor import Monitor
from model_training.training.run import Run
from model_training.training.sharding import whole

DRAW_SECONDS = 30.0
"""Between two drawings of the pictures; the last state is always drawn."""


class Saver:
    """A Saver writes the checkpoints of one run. A context: leaving it waits until the last one is written."""

    def __init__(self, run: Run[Any], monitor: Monitor) -> None:
        self._run, self._monitor = run, monitor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._drawn, self._undrawn = -math.inf, False

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What the training failed of says more than what the disk says after it.
        with suppress(*() if error is None else (Exception,)):
            self.wait()
            if self._undrawn:
                self._monitor.pictures()()
        self._thread.shutdown()

    def wait(self) -> None:
        """Return when nothing is being written. Raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def wants(self, score: DevScore) -> bool:
        """Say whether a step of this score belongs to the best that the run keeps."""
        self.wait()
        best = ranked(self._run.folder)[: self._run.settings.train.keep_best]
        return len(best) < self._run.settings.train.keep_best or score < best[-1][0]

    def save(self, step: int, choice: Choice, score: DevScore | None) -> None:
        """Copy what a checkpoint holds, and write it while the training goes on.

        Where the model is sharded all workers call it, and the main one writes.

        Args:
            score: of this step on dev; None: it was not evaluated.
        """
        self.wait()
        run = self._run
        record = run.record | {"choice": choice.to_dict()}
        if score is not None:
            record[RECORD] = {"error": score.error, "loss": score.loss}
        weights = _copied(run.learner.weights())
        moments = _copied(checkpoints.moments_by_name(run.model, run.optimizer))
        ema = _copied(run.averaged.weights) if run.averaged is not None else None
        if not run.workers.is_main:
            return  # its parts are copied
        self._undrawn = time.monotonic() - self._drawn < DRAW_SECONDS
        draw = None if self._undrawn else self._monitor.pictures()
        if draw is not None:
            self._drawn = time.monotonic()

        def write() -> None:
            checkpoints.save(run.folder, step, weights, moments, record, run.texts, ema=ema)
            settings = run.settings.train
            best = [path for _, path in ranked(run.folder)[: settings.keep_best]]
            checkpoints.prune(run.folder, settings.keep_checkpoints, best)
            if draw is not None:
                draw()

        self._writing = self._thread.submit(write)


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of whole tensors on the CPU, which later steps leave alone."""
    copies = {}
    for name, tensor in tensors.items():
        one = whole(tensor.detach())  # of a sharded one already a copy
        copies[name] = one.clone() if one.device.type == "cpu" and one.data_ptr() == tensor.data_ptr() else one.cpu()
    return copies
