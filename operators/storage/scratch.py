"""Scratch files for downloaded sources: removed after use, and after a killed process by the next one to come.

process ──> SCRATCH/touchasp-scratch-<random>/ with `lock`, held for as long as the process lives ──> its files
a folder whose lock is free has no owner any more ──> removed
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from operators.errors import UserError

_PREFIX = "touchasp-scratch-"
_LOCK = "lock"


@dataclass(slots=True)
class _Folder:
    path: Path
    lock: int
    """descriptor that holds the lock; the kernel frees it when the process dies, however it dies."""


_folders: dict[tuple[int, str], _Folder] = {}


@contextmanager
def scratch_file(folder: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """An empty file open for writing, and its path, under `folder` (None: the system's temporary folder)."""
    home = _process_folder(folder or tempfile.gettempdir())
    descriptor, path = tempfile.mkstemp(dir=home)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield path, file
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _process_folder(root: str) -> Path:
    key = (os.getpid(), root)
    known = _folders.get(key)
    if known is None or not known.path.is_dir():
        try:
            os.makedirs(root, exist_ok=True)
            _remove_abandoned(Path(root))
            known = _folders[key] = _make(root)
            atexit.register(_remove_own, os.getpid(), known.path)
        except OSError as error:
            message = (
                f"cannot use {root} for temporary files ({error.strerror}): set execution.scratch to a writable folder"
            )
            raise UserError(message) from error
    return known.path


def _make(root: str) -> _Folder:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / _LOCK).exists():  # else another process swept it in the instant before it was locked
            return _Folder(path=path, lock=lock)
        os.close(lock)


def _remove_own(owner: int, path: Path) -> None:
    if os.getpid() == owner:  # a forked child inherits the exit handler, not the folder
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            lock = os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )  # /tmp is everybody's: it may be a FIFO by now
        except OSError:
            continue  # another user's, or just removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # its owner lives
        finally:
            os.close(lock)
