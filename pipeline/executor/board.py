"""What Ray's workers are doing, from them to the driver: by way of the cluster's own store of keys and values.

    worker ──tell, every second or so──> touchasp-doing-JOB-WORKER ──watched: a thread of the driver──> its display

A value holds the last word on each of a worker's latest units, so that one that took it no second is seen as well.

For the eye only, so a value may be late, overwritten or missing; no process and no port is added for it.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from stages.base import Doing, Tell

SECONDS_BETWEEN = 1.0
"""of one worker's values, and of the driver's looks."""

LATEST_UNITS = 8
"""of one worker that its value tells of"""

MOST_WORKERS = 256
"""whose values the driver reads at each look: more are too many for the eye, and for the store."""


@dataclass
class Board:
    """A Board is where the workers of one job of Ray write what they are doing."""

    _last: float = field(default=float("-inf"), init=False)
    _latest: dict[str, Doing] = field(default_factory=dict, init=False)

    def tell(self, doing: Doing) -> None:
        """Write what a stage has finished inside a unit, at most once in `SECONDS_BETWEEN` but at its begin and end."""
        now = time.monotonic()
        if 0 < doing.clips < doing.of_clips and not doing.through and now - self._last < SECONDS_BETWEEN:
            return
        self._last = now
        self._latest.pop(doing.unit_id, None)
        self._latest[doing.unit_id] = doing
        if len(self._latest) > LATEST_UNITS:
            del self._latest[next(iter(self._latest))]
        from ray.experimental import internal_kv

        with suppress(Exception):  # whatever ails the store, the work goes on
            internal_kv._internal_kv_put(f"{_prefix()}{_actor()}".encode(), pickle.dumps(self._latest))

    @contextmanager
    def watched(self, tell: Tell | None) -> Iterator[None]:
        """Call `tell` with what the workers write, from a thread, for as long as the context lasts."""
        if tell is None:
            yield
            return
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(tell, over), name="touchasp-board", daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join(timeout=10 * SECONDS_BETWEEN)

    def _watch(self, tell: Tell, over: threading.Event) -> None:
        from ray.experimental import internal_kv

        seen: dict[bytes, bytes] = {}
        known: dict[bytes, dict[str, Doing]] = {}
        with suppress(Exception):  # Ray goes down: the run itself says so
            prefix = _prefix()
            while not over.wait(SECONDS_BETWEEN):
                for key in internal_kv._internal_kv_list(prefix.encode())[:MOST_WORKERS]:
                    value = internal_kv._internal_kv_get(key)
                    if value is not None and seen.get(key) != value:
                        seen[key], before, now = value, known.get(key, {}), pickle.loads(value)
                        known[key] = now
                        for unit_id, doing in now.items():
                            if before.get(unit_id) != doing:
                                tell(doing)
            for key in internal_kv._internal_kv_list(prefix.encode()):
                internal_kv._internal_kv_del(key)


def _prefix() -> str:
    import ray

    return f"touchasp-doing-{ray.get_runtime_context().get_job_id()}-"


def _actor() -> str:
    import ray

    return ray.get_runtime_context().get_actor_id() or ""
