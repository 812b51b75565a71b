"""Rows of a table, each worked on within its own time, and none of them able to spoil another.

    Row ──attempt──> Outcome: ok, FAIL or skip, what was found in a line, numbers, the traceback
    rows ──supervise──> a process works through them; one that hangs, crashes or fails takes only itself along

A failed kernel leaves CUDA of no use to the process that it happened in, so after a failure the rest goes to a fresh
one.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WIDTH = 80
_NAME, _FOUND = 22, 42
_PATIENCE = 20
"""A CPU may be busy with other things: there nobody asks how fast it was."""
_GRACE = 15.0
"""Seconds that a process of its own gets beyond a row's time: to import torch and to wake the card."""


class Skipped(Exception):
    """A row that cannot be worked on here; the reason is no failure."""


@dataclass(frozen=True)
class Row:
    name: str
    target: str
    """module:function, called with the Context"""
    seconds: float
    """after which it has failed"""


@dataclass(frozen=True)
class Context:
    """What a row may ask."""

    device: str
    work: Path
    """a folder for what rows share"""
    quick: bool = False
    whisper: str | None = None
    """a folder of CTranslate2; None: the starter's"""

    @property
    def on_card(self) -> bool:
        return self.device != "cpu"


@dataclass(frozen=True)
class Finding:
    """What a row found; `wrong` says in a line what is not as it must be."""

    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""


@dataclass(frozen=True)
class Outcome:
    name: str
    result: str
    """ok, FAIL or skip"""
    seconds: float
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    log: str = ""


def attempt(row: Row, context: Context) -> Outcome:
    """Work on one row, and say how it went, whatever happened."""
    began = time.monotonic()

    def outcome(result: str, text: str, numbers: dict[str, Any] | None = None, log: str = "") -> Outcome:
        return Outcome(row.name, result, round(time.monotonic() - began, 1), text, numbers or {}, log)

    module, _, name = row.target.partition(":")
    try:
        call: Callable[[Context], Finding] = getattr(importlib.import_module(module), name)
        # Not the import: a torch that was interrupted while it loads is of no use to any row.
        with _limit(row.seconds if context.on_card else _PATIENCE * row.seconds):
            found = call(context)
    except Skipped as reason:
        return outcome("skip", str(reason))
    except Exception as error:  # whatever it is, the other rows go on
        first = (str(error).splitlines() or [""])[0]
        return outcome("FAIL", f"{type(error).__name__}: {first}"[:200], log=traceback.format_exc())
    if found.wrong:
        return outcome("FAIL", f"{found.wrong}; {found.text}", found.numbers)
    return outcome("ok", found.text, found.numbers)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside when the time is over. A timer that runs already goes on afterwards."""

    def over(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, over)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001) if left else 0)


def work_through(rows: Sequence[Row], context: Context, tell: Callable[[Outcome], None]) -> None:
    """Work on the rows in this process, one after the other."""
    for row in rows:
        tell(attempt(row, context))


def supervise(rows: Sequence[Row], context: Context, tell: Callable[[Outcome], None], budget: float) -> None:
    """Work on the rows in a process of their own; when one fails, crashes or hangs, the rest goes to another."""
    deadline = time.monotonic() + budget
    waiting = list(rows)
    spawned = multiprocessing.get_context("spawn")
    while waiting:
        if time.monotonic() >= deadline:
            tell(_late(waiting.pop(0)))
            continue
        ours, theirs = spawned.Pipe(duplex=False)
        # no daemon: loaders are processes of its own
        process = spawned.Process(target=_serve, args=(waiting, context, theirs))
        process.start()
        theirs.close()
        well = True
        while waiting and well and time.monotonic() < deadline:
            row = waiting.pop(0)
            outcome = _hear(ours, process, min(row.seconds + _GRACE, max(deadline - time.monotonic(), 1)), row)
            tell(outcome)
            well = outcome.result != "FAIL"
        ours.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _hear(ours: Connection, process: Any, seconds: float, row: Row) -> Outcome:
    began = time.monotonic()
    try:
        if ours.poll(seconds):
            outcome: Outcome = ours.recv()
            return outcome
        text = f"hangs: stopped after {seconds:.0f} s"
    except EOFError:
        process.join(5)
        text = f"its process ended (exit code {process.exitcode})"
    return Outcome(row.name, "FAIL", round(time.monotonic() - began, 1), text)


def _serve(rows: Sequence[Row], context: Context, theirs: Connection) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for row in rows:
        outcome = attempt(row, context)
        try:
            theirs.send(outcome)
        except BrokenPipeError:  # nobody waits any more
            return
        if outcome.result == "FAIL":
            return
        _free()


def _free() -> None:
    """Give back what a row had on the card."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _late(row: Row) -> Outcome:
    return Outcome(row.name, "FAIL", 0.0, "no time was left for it")


def lines(outcome: Outcome) -> list[str]:
    """Return a row of the table, 80 columns wide."""
    found = textwrap.wrap(outcome.text, _FOUND) or [""]
    first = f"{outcome.name:<{_NAME}} {outcome.result:<4} {outcome.seconds:>7.1f}  {found[0]}"
    return [first, *(" " * (WIDTH - _FOUND) + more for more in found[1:])]


def heading() -> list[str]:
    """Return what stands above the rows."""
    return [f"{'row':<{_NAME}} {'':<4} {'seconds':>7}  what was found", "-" * WIDTH]
