"""What a store can do, and how it says no.

    put(key) ── temporary name ──fsync──> os.replace ─> the object, whole       (a local folder: local.py)
             └─ one PUT, or multipart ──> its completion ─> the object, whole   (S3: s3.py)

Keys are ours: relative, with "/" between parts. URIs are the user's (uri.py). A reader sees the old object or the
new one, never a part, whatever dies when.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from operators.errors import UserError
from operators.settings import setting


@dataclass
class S3Settings:
    """S3Settings say how an S3 store is reached; they are the section `s3` of the settings."""

    endpoint_url: str | None = setting(None, "for S3-compatible stores")
    region: str | None = setting(None, "boto3's own where none is given")
    profile: str | None = setting(None, "of ~/.aws; credentials come from boto3's own chain, never from here")
    addressing_style: str = setting("auto", "path for most stores that are not AWS")
    max_attempts: int = setting(8, "of one request", at_least=1)
    connect_timeout: float = setting(10.0, "seconds", at_least=0.001)
    read_timeout: float = setting(60.0, "seconds", at_least=0.001)
    multipart_threshold_mb: int = setting(64, "a larger object is sent in parts")


class StoreUnavailable(UserError):
    """The store does not answer, after every retry: the same work may succeed later."""


class AccessRefused(UserError, PermissionError):
    """Permission is missing: for a run's output it is the user's to fix, for one source it is a quarantined
    recording.
    """


class StoreRefused(UserError):
    """The store answers with a refusal of its own, perhaps because it wants to be addressed in another style."""


class Store(ABC):
    """A Store holds objects under one root. Picklable: connections are made per process, on first use.

    Every method may raise UserError (AccessRefused, StoreUnavailable, StoreRefused among them) with one line that says
    how to fix it.
    """

    root: str

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the bytes of the object. Raises FileNotFoundError."""

    @abstractmethod
    def version(self, key: str) -> str:
        """Return a text that is another one when another object has taken the key. Raises FileNotFoundError."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return the whole object. Raises FileNotFoundError."""

    @abstractmethod
    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer where the object ends first. Raises FileNotFoundError.

        Threads may read one object at once: no call has a place in the file that another could move.
        """

    @abstractmethod
    def put(self, key: str, data: bytes | Path) -> None:
        """Write bytes, or a copy of a file, under `key` in one atomic step that lasts."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of every object whose key starts with `prefix` (a string, not a folder), by UTF-8 order of
        keys.
        """

    def names(self, prefix: str = "", parts: Sequence[str] = ("",)) -> Iterator[str]:
        """Yield the keys that start with `prefix`, in no order and without their sizes: the quickest listing there is.

        `parts` are what may follow the prefix, none the beginning of another; a store that answers a page at a time is
        asked for several of them at once.
        """
        yield from (key for key, _ in self.list(prefix))

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""

    @abstractmethod
    def sweep(self, prefix: str = "") -> int:
        """Remove what killed writers left under `prefix`, never a write in progress; return how many."""

    def url(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}"

    def download(self, key: str, offset: int, size: int, file: BinaryIO) -> None:
        """Append bytes [offset, offset + size) to an open file."""
        file.write(self.read_range(key, offset, size))


def check_key(key: str) -> None:
    """Raise ValueError for a key that could leave its root: keys are made by us, so that is a bug."""
    if not key or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"not a storage key: {key!r}")
