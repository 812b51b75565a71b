"""Where the members of an uncompressed tar lie, so that one of them can be read without the others.

    tar ──headers only, by ranged reads──> Member(name, offset, size) ... ──> where the reading ended, if before the end

On S3 a header costs one small ranged read, so finding the members never downloads the tar. Tars come from outside: no
header makes this loop for ever, read much, or leave the file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from operators.storage.base import S3Settings
from operators.storage.fetch import RangedFile, locate

_BUFFER_BYTES = 32 << 10
_MAX_READ = 16 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarError(Exception):
    """A TarError says why a file is not a tar that can be read by ranges."""


@dataclass(frozen=True, slots=True)
class Member:
    """A Member is one entry of a tar: bytes [offset, offset + size) of it, or why it is no plain file."""

    name: str
    offset: int
    size: int
    problem: str | None = None


def read_members(uri: str, s3: S3Settings | None = None) -> Iterator[Member]:
    """Yield every member of a tar by its path or URI. Raises as `members_of`, and FileNotFoundError."""
    store, key = locate(uri, s3)
    yield from members_of(RangedFile(store, key, 0, store.size(key), _BUFFER_BYTES))


def members_of(file: RangedFile) -> Iterator[Member]:
    """Yield every member in the tar's order, folders left out. Names that are not UTF-8 keep their bytes as surrogates.

    Between two members the caller may read elsewhere in the file.

    Raises TarError at the start when it is no uncompressed tar, later when the rest of it cannot be read; OSError and
    UserError as storage does.
    """
    size = file.seek(0, os.SEEK_END)
    headers = _Headers(file)
    headers.seek(0)
    start = headers.read(8)
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise TarError(
                f"compressed with {kind}: only an uncompressed tar can be read in parts, so unpack or repack it"
            )
    headers.seek(0)
    yield from _members(headers, size)


def _members(headers: _Headers, size: int) -> Iterator[Member]:
    at = -1
    try:
        with tarfile.open(fileobj=headers, mode="r:", errors="surrogateescape", encoding="utf-8") as tar:  # type: ignore[call-overload]
            while True:
                if (info := tar.next()) is None:
                    if (place := _next_archive(headers, tar.offset)) is None:
                        break
                    tar.offset = place
                    continue
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                if info.size < 0 or info.offset_data < at or tar.offset <= at:
                    raise TarError(f"a broken header at byte {max(at, 0)}")
                at = tar.offset
                if info.isdir():
                    continue
                problem = None if info.isreg() and not info.issparse() else "a link, device or sparse file inside a tar"
                left = max(0, size - info.offset_data)
                yield Member(info.name, info.offset_data, min(info.size, left), problem)
            # tarfile takes any header that it cannot read for the end of the archive.
            headers.seek(tar.offset)
            end = headers.read(tarfile.BLOCKSIZE)
            if end.strip(b"\0"):
                raise TarError(f"a broken header at byte {tar.offset}")
            if len(end) < tarfile.BLOCKSIZE:
                raise TarError(f"cut off at byte {tar.offset}: a tar ends with a block of zeros")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise TarError(
            f"not a tar, or cut off: {error}" if at < 0 else f"broken or cut off after byte {at}: {error}"
        ) from error


def _next_archive(headers: _Headers, at: int) -> int | None:
    """Return where a tar begins behind the end of another, as `cat a.tar b.tar` writes it; None where there is none."""
    headers.seek(at)
    if headers.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        return None
    while block := headers.read(tarfile.BLOCKSIZE):
        at += tarfile.BLOCKSIZE
        if block.strip(b"\0"):
            return at if block[257:262] == b"ustar" else None
    return None


class _Headers:
    """A file for tarfile, which would believe a header that claims gigabytes for a name."""

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_READ:
            raise ValueError("a header of unbelievable length")
        return self._file.read(size)
