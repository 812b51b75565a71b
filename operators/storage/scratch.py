"""Scratch files for downloaded sources: removed after use, and after a killed process by the next one to come.

process   ──> SCRATCH/touchasp-scratch-<random>/ with `lock`, held for as long as the process lives ──> its files
processes ──> SCRATCH/touchasp-scratch-<user>-<name>/ with `lock`, which they share ──> one file for all of them
a folder whose lock is free has no owner any more ──> removed
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from operators.errors import UserError
from operators.storage.atomic import replace

_PREFIX = "touchasp-scratch-"
_LOCK = "lock"


@dataclass(slots=True)
class _Folder:
    path: Path
    lock: int
    """descriptor that holds the lock; the kernel frees it when the process dies, however it dies."""


_folders: dict[tuple[int, str], _Folder] = {}
_shared: dict[Path, int] = {}
"""Folders of shared copies that this process uses, with the descriptors of their locks."""


@contextmanager
def scratch_file(folder: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """Give an empty file open for writing, and its path, under `folder` (None: the system's temporary folder)."""
    home = _process_folder(folder or tempfile.gettempdir())
    descriptor, path = tempfile.mkstemp(dir=home)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield path, file
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def scratch_folder(folder: str | None) -> Iterator[Path]:
    """Give an empty folder under `folder` (None: the system's temporary folder), gone with all that is in it."""
    path = Path(tempfile.mkdtemp(dir=_process_folder(folder or tempfile.gettempdir())))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def shared_copy(name: str, write: Callable[[BinaryIO], object], folder: str | None = None) -> Path:
    """Return a file that holds what `write(file)` writes, made once for all processes of this user on this machine.

    `name` must name the content. The file goes when the last process that asked for it ends. It is for what many
    processes map into memory, such as an index.
    """
    root = folder or tempfile.gettempdir()
    home = Path(root) / f"{_PREFIX}{os.getuid()}-{name}"
    copy = home / "copy"
    with _usable(root):
        if home not in _shared or not home.exists():
            os.makedirs(root, exist_ok=True)
            _remove_abandoned(Path(root))
            _shared[home] = _share(home)
            atexit.register(_leave, os.getpid(), home)
        making = os.open(home / "making", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(making, fcntl.LOCK_EX)  # one process makes the copy, the others wait for it
        if not copy.exists():
            replace(copy, write)
    finally:
        os.close(making)
    return copy


@contextmanager
def _usable(root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = (
            f"cannot use {root} for temporary files ({error.strerror}): set execution.scratch, or TMPDIR, to a "
            "writable folder"
        )
        raise UserError(message) from error


def _process_folder(root: str) -> Path:
    key = (os.getpid(), root)
    known = _folders.get(key)
    if known is None or not known.path.is_dir():
        with _usable(root):
            os.makedirs(root, exist_ok=True)
            _remove_abandoned(Path(root))
            known = _folders[key] = _make(root)
            atexit.register(_remove_own, os.getpid(), known.path)
    return known.path


def _make(root: str) -> _Folder:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / _LOCK).exists():  # else another process swept it in the instant before it was locked
            return _Folder(path=path, lock=lock)
        os.close(lock)


def _share(home: Path) -> int:
    """Return a descriptor that shares the lock of a folder, which is made where it is missing."""
    while True:
        home.mkdir(mode=0o700, exist_ok=True)
        if home.lstat().st_uid != os.getuid():  # the temporary folder is everybody's: nobody may slip us a file
            raise PermissionError(errno.EPERM, f"{home} belongs to another user")
        # Another process may sweep the folder in the instant before it is locked, and a third make it again.
        with suppress(FileNotFoundError):
            lock = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(lock), os.stat(home / _LOCK)):
                    return os.dup(lock)
            finally:
                os.close(lock)


def _leave(owner: int, home: Path) -> None:
    """Remove a shared folder that no other process uses."""
    lock = _shared.get(home)
    if os.getpid() == owner and lock is not None:
        with suppress(OSError):  # in use
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)


def _remove_own(owner: int, path: Path) -> None:
    if os.getpid() == owner:  # a forked child inherits the exit handler, not the folder
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            # /tmp is everybody's: it may be a FIFO by now.
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # another user's, or just removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # its owner lives
        finally:
            os.close(lock)
