"""A store in a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from operators.storage.atomic import TEMPORARY, explained, remove_orphan, replace, sync_folder
from operators.storage.base import Store, check_key
from operators.storage.uri import path_to_uri, scheme, split_member, uri_to_path


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
        with explained(path, "read"):
            return path.stat().st_size

    def version(self, key: str) -> str:
        path = self._path(key)
        with explained(path, "read"):
            found = path.stat()
        return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"

    def read(self, key: str) -> bytes:
        path = self._path(key)
        with explained(path, "read"):
            return path.read_bytes()

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        path = self._path(key)
        with explained(path, "read"), path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def put(self, key: str, data: bytes | Path) -> None:
        replace(self._path(key), data)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        yield from self._list("", prefix)

    def _list(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        path = os.path.join(self.root, folder)
        try:
            # Names as bytes: a folder of a long run holds millions, and this is the least that can be kept of each.
            with explained(path, "list"), os.scandir(os.fsencode(path)) as entries:
                # A folder sorts as "name/", so that the whole listing is in order of full keys, as on S3.
                found = sorted(entry.name + b"/" if entry.is_dir() else entry.name for entry in entries)
        except FileNotFoundError:
            return  # nothing has been written yet, or another process has just removed it
        for raw in found:
            name = os.fsdecode(raw)
            key = folder + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._list(key, prefix)
            elif key.startswith(prefix) and not name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):
                    yield key, os.stat(os.path.join(path, name)).st_size

    def names(self, prefix: str = "", parts: Sequence[str] = ("",)) -> Iterator[str]:
        folders = [prefix.rpartition("/")[0] + "/" if "/" in prefix else ""]
        while folders:
            folder = folders.pop()
            path = os.path.join(self.root, folder)
            with suppress(FileNotFoundError), explained(path, "list"), os.scandir(path) as entries:
                for entry in entries:
                    key = folder + entry.name
                    if entry.is_dir():
                        if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                            folders.append(f"{key}/")
                    elif key.startswith(prefix) and not entry.name.startswith(TEMPORARY):
                        yield key

    def delete(self, key: str) -> None:
        path = self._path(key)
        with explained(path, "delete"), suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def sweep(self, prefix: str = "") -> int:
        removed, folders = 0, [os.path.join(self.root, prefix)]
        while folders:
            with suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.startswith(TEMPORARY) and remove_orphan(entry.path):
                        removed += 1
        return removed


@lru_cache(maxsize=1 << 16)
def real_uri(uri: str) -> str:
    """Return one name for all spellings of a local file: without "..", symbolic links followed. It need not exist; what
    has a scheme stays as it is.
    """
    if scheme(uri) is not None:
        return uri
    place, member = split_member(uri)
    folder, name = os.path.split(uri_to_path(place))
    path = os.path.join(_real_folder(folder), name)
    real = path_to_uri(os.path.realpath(path) if os.path.islink(path) else path)
    return real if member is None else f"{real}#{member}"


# A look at every folder of a path takes longer than all else that is done for a row, and files share their folders.
_real_folder = lru_cache(maxsize=1 << 12)(os.path.realpath)
