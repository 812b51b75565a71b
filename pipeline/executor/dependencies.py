"""What the libraries that we build on may do in our processes: no telemetry, no chatter, as many threads as were asked
for.
"""

from __future__ import annotations

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
