"""What the trainer's own commands do for a hand-off, the tokenizer above all: nothing here may import the trainer.

Texts of train, scheme ──python -m model_training tokenizer──> tokenizer/tokenizer.json      or: an earlier one, copied,
                                                                                              or grown by these texts
one character, scheme ──the same, before any work: a mistake in the scheme or the size──> UserError
--config ──python -m model_training settings──> UserError
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from operators.errors import UserError
from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from pipeline.handoff.indexes import Texts

_FILE = "tokenizer.json"
_ROOT = Path(__file__).resolve().parents[2]


def build_tokenizer(
    folder: Path, texts: Texts, *, scheme: str | None, bpe_size: int | None, grow: Path | None = None
) -> None:
    """Put a tokenizer built from `texts`, or that of the folder `grow` with what it lacks, into `folder`.

    Raises:
        UserError: the trainer cannot build it.
    """
    folder.mkdir()
    command = ["tokenizer", "--texts", str(texts.labels), "--languages", str(texts.languages), "--out", str(folder)]
    command += ["--scheme", scheme] if scheme is not None else []
    command += ["--bpe-size", str(bpe_size)] if bpe_size is not None else []
    command += ["--grow", str(grow)] if grow is not None else []
    _trainer(command, "the tokenizer cannot be built")


def try_tokenizer(scratch: Path, *, scheme: str | None, bpe_size: int | None, grow: Path | None = None) -> None:
    """Raise UserError for a scheme or a size that no labels could make a tokenizer of."""
    if scheme is None and bpe_size is None and grow is None:
        return
    texts = Texts(scratch / "try.txt", scratch / "try-languages.txt")
    texts.labels.write_text("字\n", "utf-8")  # a character of its own needs no pieces, so any size will do
    texts.languages.write_text("\n", "utf-8")
    build_tokenizer(scratch / "try", texts, scheme=scheme, bpe_size=bpe_size, grow=grow)


def check_config(config: str) -> None:
    """Raise UserError for a preset or a file that the trainer will not take."""
    _trainer(["settings", "--config", config], f"--config {config}")


def _trainer(command: list[str], what: str) -> None:
    command = [sys.executable, "-m", "model_training", *command]
    done = subprocess.run(command, env=trainer_environment(), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{what}: {lines[-1].removeprefix('touchasp: ')}")


def copy_tokenizer(folder: Path, ready: str, s3: S3Settings) -> None:
    """Put the tokenizer of `ready`, its folder or an earlier hand-off, into `folder`. Raises UserError."""
    store = open_store(ready, s3)
    for key in (_FILE, f"tokenizer/{_FILE}"):
        if store.exists(key):
            break
    else:
        raise UserError(f"no {_FILE} in {ready}: give the folder of a tokenizer, or an earlier hand-off")
    data = store.read(key)
    try:
        known = {"schema_version", "scheme"} <= json.loads(data).keys()
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{store.url(key)} is no tokenizer: give another, or make it again")
    folder.mkdir()
    (folder / _FILE).write_bytes(data)


def trainer_environment() -> dict[str, str]:
    """Return this environment, in which `python -m model_training` finds the package that lies beside this one."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
