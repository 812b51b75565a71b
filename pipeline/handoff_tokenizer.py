"""The tokenizer of a hand-off: built by the trainer's own command, because nothing here may import the trainer.

labels of train, scheme ──python -m model_training tokenizer──> tokenizer/tokenizer.json      or: an earlier one, copied
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from operators.errors import UserError
from pipeline.config import S3Settings
from pipeline.storage import open_store

_FILE = "tokenizer.json"
_ROOT = Path(__file__).resolve().parent.parent


def build_tokenizer(
    folder: Path, texts: Path, *, scheme: str | None, bpe_size: int | None, ready: str | None, s3: S3Settings
) -> None:
    """Put a tokenizer into `folder`: `ready`, the folder or hand-off of an earlier one, or one built from `texts`.

    `texts` holds one label a line. Raises UserError.
    """
    folder.mkdir()
    if ready is not None:
        (folder / _FILE).write_bytes(_earlier(ready, s3))
        return
    command = [sys.executable, "-m", "model_training", "tokenizer", "--texts", str(texts), "--out", str(folder)]
    command += ["--scheme", scheme] if scheme is not None else []
    command += ["--bpe-size", str(bpe_size)] if bpe_size is not None else []
    done = subprocess.run(command, env=trainer_environment(), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"the tokenizer cannot be built: {lines[-1].removeprefix('touchasp: ')}")


def _earlier(ready: str, s3: S3Settings) -> bytes:
    store = open_store(ready, s3)
    for key in (_FILE, f"tokenizer/{_FILE}"):
        if store.exists(key):
            return store.read(key)
    raise UserError(f"no {_FILE} in {ready}: give the folder of a tokenizer, or an earlier hand-off")


def trainer_environment() -> dict[str, str]:
    """This environment, in which `python -m model_training` finds the package that lies beside this one."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
