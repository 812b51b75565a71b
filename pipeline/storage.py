"""Storage of a run and of its sources: one small set of verbs over a local folder or an s3:// prefix.

    put(key) ── temporary name ──fsync──> os.replace ─> the object, whole       (local folder)
             └─ one PUT, or multipart ──> its completion ─> the object, whole   (S3, pipeline/s3.py)
    fetch(uri) ─> a local path for as long as the context lasts                 (any source, local or s3://)

Keys are ours: relative, with "/" between parts. URIs are the user's (pipeline/uri.py). A reader sees the old object or
the new one, never a part, whatever dies when.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from operators.errors import UserError
from pipeline.config import S3Settings
from pipeline.scratch import scratch_file
from pipeline.uri import is_s3, scheme, split_member, split_s3, uri_to_path

TEMPORARY = ".tmp-"
"""Names that start so are writes in progress, or what a killed writer left: no listing shows them."""


class StoreUnavailable(UserError):
    """The store does not answer, after every retry: the same work may succeed later."""


class AccessRefused(UserError, PermissionError):
    """Permission is missing: for a run's output it is the user's to mend, for one source it is a quarantined
    recording.
    """


class Store(ABC):
    """Objects under one root. Picklable: connections are made per process, on first use.

    Every method may raise UserError (AccessRefused, StoreUnavailable among them) with one line that says how to mend
    it.
    """

    root: str

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of the object. Raises FileNotFoundError."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    @abstractmethod
    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size), fewer where the object ends first. Raises FileNotFoundError."""

    @abstractmethod
    def put(self, key: str, data: bytes | Path) -> None:
        """Write bytes, or a copy of a file, under `key` in one atomic step that lasts."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(key, bytes) of every object whose key starts with `prefix` (a string, not a folder), by UTF-8 order of
        keys.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""

    @abstractmethod
    def sweep(self, prefix: str = "") -> int:
        """Remove what killed writers left under `prefix`, never a write in progress; answers how many."""

    def url(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}"

    def download(self, key: str, offset: int, size: int, file: BinaryIO) -> None:
        """Append bytes [offset, offset + size) to an open file."""
        file.write(self.read_range(key, offset, size))


@dataclass(frozen=True)
class LocalStore(Store):
    root: str

    def _path(self, key: str) -> Path:
        check_key(key)
        return Path(self.root) / key

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        path = self._path(key)
        with _explained(path, "read"):
            return path.stat().st_size

    def read(self, key: str) -> bytes:
        path = self._path(key)
        with _explained(path, "read"):
            return path.read_bytes()

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        path = self._path(key)
        with _explained(path, "read"), path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def put(self, key: str, data: bytes | Path) -> None:
        path = self._path(key)
        with _explained(path, "write"):
            _make_folders(path.parent)
            while True:
                # A sweep in the instant between making and locking the file may take it: then write it again.
                with suppress(_Swept):
                    _replace(path, data)
                    return

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        yield from self._list("", prefix)

    def _list(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        path = os.path.join(self.root, folder)
        try:
            with _explained(path, "list"), os.scandir(path) as entries:
                # A folder sorts as "name/", so that the whole listing is in order of full keys, as on S3.
                found = sorted(
                    ((entry.name + "/" if entry.is_dir() else entry.name, entry) for entry in entries),
                    key=lambda item: os.fsencode(item[0]),
                )
        except FileNotFoundError:
            return  # nothing has been written yet, or another process has just removed it
        for name, entry in found:
            key = folder + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._list(key, prefix)
            elif key.startswith(prefix) and not name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):
                    yield key, entry.stat().st_size

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _explained(path, "delete"), suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def sweep(self, prefix: str = "") -> int:
        removed = 0
        for folder, _, names in os.walk(os.path.join(self.root, prefix)):
            for name in names:
                if name.startswith(TEMPORARY) and _remove_orphan(os.path.join(folder, name)):
                    removed += 1
        return removed


@dataclass(frozen=True)
class Fetch:
    """Gives a source's bytes as a local file, wherever they lie. Picklable.

    `scratch` is the folder for downloaded copies; None means the system's temporary folder.
    """

    s3: S3Settings = field(default_factory=S3Settings)
    scratch: str | None = None
    max_bytes: int | None = None
    """a larger object is not downloaded: it would fill the scratch folder before any decoder could refuse it."""

    @contextmanager
    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> Iterator[str]:
        """A local path with the bytes of a source for as long as the context lasts; a downloaded copy is gone
        afterwards.

        With `member` = (offset, size) the path stands for the tar before "#", and only that range is sure to be in it:
        a copy from S3 is a sparse file with the member's bytes where they lie in the tar, so the same (offset, size)
        reads both. A local path is handed out unseen. From S3, FileNotFoundError, AudioError "too_large" and UserError
        (AccessRefused: this object) are raised here.
        """
        place = uri if member is None else split_member(uri)[0]
        if not is_s3(place):
            yield uri_to_path(place)
            return
        store, key = locate(place, self.s3)
        offset, size = member or (0, store.size(key))
        if self.max_bytes is not None and size > self.max_bytes:
            from operators.audio.decode import AudioError

            raise AudioError("too_large", f"{size:,} bytes, more than {self.max_bytes:,}")
        with scratch_file(self.scratch) as (path, file):
            with _explained(path, "write the scratch file"):
                file.seek(offset)
                store.download(key, offset, size, file)
                file.flush()
            yield path

    def open(self, uri: str, member: tuple[int, int] | None = None) -> str | RangedFile:
        """What a decoder can read headers from without a download: the local path, or ranged reads of the object on S3.

        A tar on local disk is its path; the member's range is for the caller to apply. Raises as `fetch`.
        """
        place = uri if member is None else split_member(uri)[0]
        if not is_s3(place):
            return uri_to_path(place)
        store, key = locate(place, self.s3)
        return RangedFile(store, key, *(member or (0, store.size(key))))


class RangedFile(io.RawIOBase):
    """An object, or a part of one, as a seekable binary file: each read that its buffer cannot answer is one ranged
    read.
    """

    def __init__(self, store: Store, key: str, offset: int, size: int, buffer_bytes: int = 256 << 10) -> None:
        super().__init__()
        self._store, self._key, self._offset, self._size, self._buffer_bytes = store, key, offset, size, buffer_bytes
        self._at = self._buffer_at = 0
        self._buffer = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        size = left if size < 0 else min(size, left)
        if not self._buffer_at <= self._at <= self._at + size <= self._buffer_at + len(self._buffer):
            ahead = min(left, max(size, self._buffer_bytes))
            self._buffer = self._store.read_range(self._key, self._offset + self._at, ahead)
            self._buffer_at = self._at
        start = self._at - self._buffer_at
        data = self._buffer[start : start + size]
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError(f"seek to {at}, before the start")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


def open_store(root: str, s3: S3Settings | None = None) -> Store:
    """The store at a local path or `s3://bucket/prefix`; nothing is touched or made yet."""
    if is_s3(root):
        from pipeline.s3 import S3Store  # boto3 takes a third of a second, which local runs need not pay

        bucket, prefix = split_s3(root)
        return S3Store(bucket=bucket, prefix=prefix.strip("/"), s3=s3 or S3Settings())
    other = scheme(root)
    if other or not root or "\0" in root:
        what = f"{other}:// is no storage we know" if other else "a storage path is empty or not a path"
        raise UserError(f"{what}: give a local path or s3://bucket/prefix")
    return LocalStore(root=os.path.abspath(root))


def locate(uri: str, s3: S3Settings | None = None) -> tuple[Store, str]:
    """The store and the key that an URI (not a tar member) stands for."""
    if is_s3(uri):
        bucket, key = split_s3(uri)
        return open_store(f"s3://{bucket}", s3), key
    folder, name = os.path.split(os.path.abspath(uri_to_path(uri)))
    return LocalStore(root=folder), name


def check_key(key: str) -> None:
    """Raises ValueError for a key that could leave its root: keys are made by us, so that is a bug."""
    if not key or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"not a storage key: {key!r}")


class _Swept(Exception):
    """Another process took our temporary file for an orphan."""


def _replace(path: Path, data: bytes | Path) -> None:
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(OSError):  # the lock tells a sweep that we live; some network file systems have none
                fcntl.flock(file, fcntl.LOCK_EX)
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
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
    _sync_folder(path.parent)


def _remove_orphan(path: str) -> bool:
    try:
        with open(path, "rb") as file:
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
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path | str, verb: str) -> Iterator[None]:
    """Turn the operating system's errors that are the user's to mend into one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError):
            raise
        if error.errno in (errno.EACCES, errno.EPERM):
            message = f"no permission to {verb} {path}: mend its mode or owner, or run as another user"
            raise AccessRefused(message) from error
        mend = _MEND.get(error.errno or 0)
        if mend is None:
            raise
        raise UserError(f"cannot {verb} {path}: {mend}") from error


_MEND = {
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
