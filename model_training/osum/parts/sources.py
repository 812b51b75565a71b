"""Where published parts lie, and a digest by which they are known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from operators.errors import UserError

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_BESIDE = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def find(source: str, setting: str) -> Path:
    """Return the folder of a source, fetched from the hub where it is a hub name.

    Raises:
        UserError: there is no such folder, and no hub or no such name on it.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{setting}={source}: there is no such folder")
    from huggingface_hub import snapshot_download

    try:
        with quietly():
            return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    except Exception as error:  # the hub's client raises whatever its transport does
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{setting}={source}: no such folder, and the hub does not give it ({reason})") from None


def digest(folder: Path) -> str:
    """Return the SHA-256 over the weights of a folder and what says how to use them, names and contents."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS or path.name in _BESIDE:
            with open(path, "rb") as file:
                total.update(path.name.encode() + b"\n" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from printing bars and advice."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        logging.set_verbosity(before)
