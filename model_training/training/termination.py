"""SIGTERM, by which schedulers stop a job, as a question that the loop asks between two steps.

SIGTERM ──> asked ──the loop: after this step──> checkpoint ──> exit        a second SIGTERM ──> at once
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Termination:
    """A Termination notes that SIGTERM came. A context: leaving it gives the signal back to whoever had it before.

    Only the main thread of a process may take signals; elsewhere nothing is noted.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._give_back()
            signal.raise_signal(number)
        self.asked = True

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
