"""What the libraries that we build on may do in our processes: no telemetry, no chatter, as many threads as were asked
for.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_dependencies() -> None:
    """Switch telemetry off, and keep the chatter of dependencies away from the user's terminal."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYANNOTE_METRICS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
    for logger in (
        "ray",
        "ray.data",
        "whisperx",
        "funasr",
        "pyannote",
        "modelscope",
        "speechbrain",
        "lightning",
        "root",
    ):
        logging.getLogger(logger).setLevel(logging.ERROR)


_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3
"""Names of glibc's `mallopt`, from malloc.h."""


KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
}
"""`keep_freed_memory` as environment of processes yet to start; other allocators than glibc's do not read it."""


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what native code frees, here and in processes that start from here, decoders among
    them. Return whether it took that. Call it before the first thread.

    CTranslate2 frees its buffers after every batch and takes them again. glibc gives large ones back to the system at
    once, which then clears every page again: a third of the CPU time of a recogniser. With one arena and no giving back
    the heap stays at its peak, which the next batch needs anyway. Other systems' allocators are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.update(KEEP_FREED_MEMORY | os.environ)  # the user's own settings go before ours
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return False
    most = 2**31 - 1  # bytes; no larger number fits the call
    return bool(mallopt(_ARENA_MAX, 1) & mallopt(_TRIM_THRESHOLD, most) & mallopt(_MMAP_THRESHOLD, most))


@contextmanager
def without_collections() -> Iterator[None]:
    """Keep Python's garbage collector from looking at what is made meanwhile.

    Engines import half a million objects that live as long as their process: to look at them again and again takes a
    fifth of their start-up.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Send what native code of this process writes to stderr meanwhile nowhere; exceptions come after."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def use_threads(count: int) -> None:
    """Set the thread counts of native libraries in this process, now and for what is imported later."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)
