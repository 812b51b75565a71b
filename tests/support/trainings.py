"""Commands of the trainer as processes of their own, forked from one that has imported what they need.

Importing torch and transformers takes seconds, which each process of a test would pay again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from model_training.__main__ import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "model_training.osum.train",
        "peft",
        "torch.distributed",
        "transformers.models.qwen2.modeling_qwen2",
        "transformers.models.whisper.modeling_whisper",
    ]
)


def start(log: Path, *arguments: str, **environment: str) -> BaseProcess:
    """Run `python -m model_training ARGUMENTS`; what it prints goes to a file."""
    process = _FORKS.Process(target=_run, args=(str(log), arguments, environment))
    process.start()
    return process


def _run(log: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(main(list(arguments)))
