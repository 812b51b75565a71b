"""Workers keep the memory that native code frees, so that the system does not clear the same pages again and again."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from operators.audio.decode import AudioError
from operators.audio.isolated import IsolatedDecoder
from pipeline.executor.dependencies import KEEP_FREED_MEMORY, keep_freed_memory
from tests.conftest import REPOSITORY

CHILD = """
import os, resource, subprocess, sys, threading
from pipeline.executor.dependencies import keep_freed_memory
if "parent" in sys.argv:
    keep_freed_memory()
    sys.exit(subprocess.run([sys.executable, "-c", os.environ["CHILD"]]).returncode)
if "keep" in sys.argv:
    assert keep_freed_memory()
faults = []
def work():
    for size in (60, 100, 80, 40) * 5:  # MB, as a batch's buffers come and go
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (size << 20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(sum(faults[4:]))
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's allocator, which is not in use here"
)


def page_faults(*arguments: str, **environment: str) -> int:
    """Minor faults while the same buffers are taken and freed again, in a process and thread of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=REPOSITORY,
        env=kept | {"PYTHONPATH": str(REPOSITORY), "CHILD": CHILD} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_a_worker_takes_its_memory_from_the_system_once() -> None:
    plain = page_faults()
    assert plain > 10_000, "glibc gives large buffers back, or this is no test"
    assert page_faults("keep") < plain / 20


def test_the_environment_of_rays_workers_says_the_same() -> None:
    assert page_faults(**KEEP_FREED_MEMORY) < page_faults() / 20


def test_what_a_worker_starts_does_so_too() -> None:
    """A worker's decoder is a process of its own, with the worker's environment."""
    assert page_faults("parent") < page_faults() / 20


def test_a_decoder_has_the_environment_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEEP_FREED_MEMORY:
        monkeypatch.delenv(name, raising=False)
    keep_freed_memory()
    with IsolatedDecoder() as decoder:
        with pytest.raises(AudioError):
            decoder.probe(io.BytesIO(b"no audio"))
        environment = Path(f"/proc/{decoder.pid}/environ").read_bytes().decode().split("\0")
    assert {f"{name}={value}" for name, value in KEEP_FREED_MEMORY.items()} <= set(environment)
