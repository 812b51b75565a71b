"""Kill a real curation run at seeded random moments until it is through, then compare what it wrote with a run left in
peace.

Used by the short test and by the soak. Victims: the driver, a worker of some stage, the raylet.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import REPOSITORY

VICTIMS = ("driver", "worker", "raylet")


def command(settings: list[str]) -> list[str]:
    config = Path(settings[0].partition("=")[2]).parent / "empty.yaml"
    config.write_text("{}\n")
    return [sys.executable, "-m", "pipeline", "run", str(config), *settings]


def start(settings: list[str], log: Path, delay: float = 0.0) -> subprocess.Popen[bytes]:
    """The command line in a session of its own, so that a test can sweep up everything it started."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "FAST_ENGINES_DELAY": str(delay)}
    with log.open("ab") as output:
        return subprocess.Popen(
            command(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=environment,
            start_new_session=True,
        )


@dataclass
class Record:
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0


def run_with_kills(
    settings: list[str],
    log: Path,
    *,
    kills: int,
    seed: int,
    window: tuple[float, float],
    delay: float,
    victims: tuple[str, ...] = VICTIMS,
) -> Record:
    """Run with engines that take `delay` seconds a clip, killing something `kills` times, then run to the end.

    Three kills of four come `window` seconds after the engines are loaded, or after the kill before; the fourth while
    all starts.
    """
    rng = random.Random(seed)
    record = Record()
    while True:
        seen = log.read_text().count(AT_WORK) if log.exists() else 0
        process = start(settings, log, delay)
        record.starts += 1
        try:
            while sum(record.kills.values()) < kills and process.poll() is None:
                done = sum(record.kills.values())
                victim = victims[done % len(victims)]
                if done % 4 == 3:
                    _sleep(process, rng.uniform(1.0, 10.0))
                else:
                    _wait_for_work(process, log, seen)
                    _sleep(process, rng.uniform(*window))
                if process.poll() is None and _kill(process, victim, rng):
                    record.kills[victim] += 1
                    if victim != "worker":
                        break
            if sum(record.kills.values()) < kills and process.poll() is not None and process.returncode == 0:
                return record
            try:
                code = process.wait(timeout=600 if sum(record.kills.values()) >= kills else 30)
            except subprocess.TimeoutExpired:
                code = None
            if code == 0:
                return record
            if record.starts > 3 * kills + 5:
                raise AssertionError(f"the run does not come to an end after {record.starts} starts: see {log}")
        finally:
            # Zombies of a killed driver have had their chance to write; now the machine "reboots".
            sweep(process.pid)


AT_WORK = "ok engines"


def _wait_for_work(process: subprocess.Popen[bytes], log: Path, seen: int) -> None:
    while process.poll() is None and log.read_text().count(AT_WORK) <= seen:
        time.sleep(0.05)


def _sleep(process: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)


def _kill(process: subprocess.Popen[bytes], victim: str, rng: random.Random) -> bool:
    if victim == "driver":
        process.kill()
        return True
    found = [child for child in _session(process.pid) if _is(child, victim)]
    if not found:
        return False
    rng.choice(sorted(found, key=lambda child: child.pid)).kill()
    return True


def _is(process: psutil.Process, victim: str) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "ray::" in title and "Map" in title if victim == "worker" else title.split(" ")[0].endswith("raylet")


def _session(leader: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.pid != leader:
                members.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return members


def sweep(leader: int) -> None:
    """End whatever a run's session still holds."""
    for _ in range(50):
        left = _session(leader)
        if not left:
            return
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        time.sleep(0.05)


def digest(run: Path) -> dict[str, str]:
    """Checksum of every shard, ledger and quarantine file of a run directory."""
    files = [
        path for folder in ("shards", "quarantine") for path in sorted((run / folder).rglob("*")) if path.is_file()
    ]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
