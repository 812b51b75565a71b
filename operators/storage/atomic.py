"""Files that are there whole or not at all, and last: write beside, fsync, rename, fsync the folder.

data ──> .tmp-<random>, locked while its writer lives ──fsync──> os.replace ──fsync of the folder──> the file
a temporary file that nobody locks has no writer any more ──remove_orphan──> gone
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from operators.errors import UserError
from operators.storage.base import AccessRefused

try:
    import fcntl
except ImportError:  # Windows, where exported models recognise and nothing is written
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp-"
"""Names that start so are writes in progress, or what a killed writer left: no listing shows them."""


class _Swept(Exception):
    """Another process took our temporary file for an orphan."""


def replace(path: Path, data: bytes | Path | Callable[[BinaryIO], object]) -> None:
    """Write bytes, a copy of a file, or what `data(file)` writes, to `path` in one atomic step that lasts.

    Missing folders are made. `data` may be called again, on a new file, when another process has swept the first.
    Raises UserError (AccessRefused among them) for what the user can fix: a full disk, a missing right.
    """
    with explained(path, "write"):
        _make_folders(path.parent)
        while True:
            # A sweep in the instant between making and locking the file may take it: then write it again.
            with suppress(_Swept):
                _replace(path, data)
                return


def _replace(path: Path, data: bytes | Path | Callable[[BinaryIO], object]) -> None:
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(OSError):  # the lock tells a sweep that we live; some network file systems have none
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            elif callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before the rename: else a power cut may leave the new name on empty blocks
            try:
                os.replace(temporary, path)
            except FileNotFoundError:
                raise _Swept from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_orphan(path: str) -> bool:
    """Remove a temporary file that no living writer holds; return whether it did."""
    try:
        with open(path, "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
    except OSError:
        return False  # in use, or already gone
    return True


def _make_folders(folder: Path) -> None:
    """Make missing parents, each one written down in its own parent: fsync of a file does not keep a new folder's
    name.
    """
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:  # its parent is there: /proc and the like are no storage
        raise UserError(
            f"cannot make the folder {folder}: {folder.parent} takes no new names; choose another"
        ) from error
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Write the folder's names to disk: fsync of a file does not keep its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path | str, verb: str) -> Iterator[None]:
    """Turn the operating system's errors that are the user's to fix into one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError):
            raise
        if error.errno in (errno.EACCES, errno.EPERM):
            message = f"no permission to {verb} {path}: fix its mode or owner, or run as another user"
            raise AccessRefused(message) from error
        fix = _FIX.get(error.errno or 0)
        if fix is None:
            raise
        raise UserError(f"cannot {verb} {path}: {fix}") from error


_FIX = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: (
        "the file would exceed the limit of the file system or of ulimit -f; raise it or choose another folder"
    ),
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EISDIR: "it is a folder, not a file; choose another name",
}
