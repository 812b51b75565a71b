"""Third-party engines kept from talking over the user's terminal while they load and run.

    with quiet(): import and load   ──>  no warnings, no prints, no log lines; the caller's root logger as it was

Nothing here logs. FunASR's import configures the root logger, prints, and logs to it; left alone, every program that
loads it changes its own log format. So the root logger is put back as the caller had it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

TELEMETRY_OFF = {"PYANNOTE_METRICS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop prints, warnings and log lines below ERROR inside the block; restore the root logger after it."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
