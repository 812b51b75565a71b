"""From a path or URI of the user's to bytes: which store holds it, and a local file of it.

locate(uri)     ─> the store that holds it, and its key there
fetch(uri)      ─> a local path for as long as the context lasts   (any source, local or s3://)
open(uri)       ─> the local path, or ranged reads of the object   (headers, without a download)
local_copy(uri) ─> a local path for as long as the process lives   (what is mapped into memory)
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from operators.errors import UserError
from operators.storage.atomic import explained
from operators.storage.base import S3Settings, Store
from operators.storage.local import LocalStore
from operators.storage.scratch import scratch_file, shared_copy
from operators.storage.uri import is_s3, scheme, split_member, split_s3, uri_to_path


@dataclass(frozen=True)
class Fetch:
    """A Fetch gives a source's bytes as a local file, wherever they lie. Picklable.

    `scratch` is the folder for downloaded copies; None means the system's temporary folder.
    """

    s3: S3Settings = field(default_factory=S3Settings)
    scratch: str | None = None
    max_bytes: int | None = None
    """a larger object is not downloaded: it would fill the scratch folder before any decoder could refuse it."""

    @contextmanager
    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> Iterator[str]:
        """Give a local path with the bytes of a source for as long as the context lasts; a downloaded copy is gone
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
            from operators.audio.media import AudioError

            raise AudioError("too_large", f"{size:,} bytes, more than {self.max_bytes:,}")
        with scratch_file(self.scratch) as (path, file):
            with explained(path, "write the scratch file"):
                file.seek(offset)
                store.download(key, offset, size, file)
                file.flush()
            yield path

    def open(self, uri: str, member: tuple[int, int] | None = None) -> str | RangedFile:
        """Return what a decoder can read headers from without a download: the local path, or ranged reads from S3.

        A tar on local disk is its path; the member's range is for the caller to apply. Raises as `fetch`.
        """
        place = uri if member is None else split_member(uri)[0]
        if not is_s3(place):
            return uri_to_path(place)
        store, key = locate(place, self.s3)
        return RangedFile(store, key, *(member or (0, store.size(key))))


class RangedFile(io.RawIOBase):
    """A RangedFile is an object, or a part of one, as a seekable binary file.

    Each read that its buffer cannot answer is one ranged read, of `buffer_bytes` or more.
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


class RangedFileForC(RangedFile):
    """A RangedFileForC is a RangedFile as a library in C reads it: no exception passes through C, so `failure` keeps
    the one that came.

    The library takes it for the end of the file. Whoever called the library raises it.
    """

    failure: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.read(len(buffer))
        except Exception as error:
            self.failure = error
            return 0
        buffer[: len(data)] = data
        return len(data)


def open_store(root: str, s3: S3Settings | None = None) -> Store:
    """Return the store at a local path or `s3://bucket/prefix`; nothing is touched or made yet."""
    if is_s3(root):
        from operators.storage.s3 import S3Store  # boto3 takes a third of a second, which local runs need not pay

        bucket, prefix = split_s3(root)
        return S3Store(bucket=bucket, prefix=prefix.strip("/"), s3=s3 or S3Settings())
    _refuse_other(root)
    return LocalStore(root=os.path.abspath(root))


def _refuse_other(root: str) -> None:
    other = scheme(root)
    if other or not root or "\0" in root:
        what = f"{other}:// is no storage we know" if other else "a storage path is empty or not a path"
        raise UserError(f"{what}: give a local path or s3://bucket/prefix")


def locate(uri: str, s3: S3Settings | None = None) -> tuple[Store, str]:
    """Return the store and the key that an URI (not a tar member) stands for.

    Raises UserError for a place that is no local path and not on S3.
    """
    if is_s3(uri):
        bucket, key = split_s3(uri)
        return open_store(f"s3://{bucket}", s3), key
    path = uri_to_path(uri)
    if path == uri:
        _refuse_other(path)
    folder, name = os.path.split(os.path.abspath(path))
    if not name:
        raise UserError(f"{uri} names no file")
    return LocalStore(root=folder), name


def local_copy(uri: str, s3: S3Settings | None = None) -> Path:
    """Return a local file with the bytes of a source: the file itself, or the object's copy.

    An object is downloaded once per version of it, whichever processes of this machine ask, and the copy goes with the
    last of them. Raises FileNotFoundError, UserError.
    """
    store, key = locate(uri, s3)
    version = store.version(key)
    if not is_s3(uri):
        return Path(uri_to_path(uri))

    def write(file: BinaryIO) -> None:
        store.download(key, 0, store.size(key), file)
        if store.version(key) != version:
            raise UserError(f"{uri} was replaced while it was read: start again")

    place = f"{s3.endpoint_url if s3 else None} {uri} {version}"
    return shared_copy(hashlib.sha256(place.encode("utf-8", "backslashreplace")).hexdigest()[:32], write)
