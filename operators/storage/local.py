"""A store in a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from operators.storage.atomic import TEMPORARY, explained, remove_orphan, replace, sync_folder
from operators.storage.base import Store, check_key


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
            with explained(path, "list"), os.scandir(path) as entries:
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
        with explained(path, "delete"), suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def sweep(self, prefix: str = "") -> int:
        removed = 0
        for folder, _, names in os.walk(os.path.join(self.root, prefix)):
            for name in names:
                if name.startswith(TEMPORARY) and remove_orphan(os.path.join(folder, name)):
                    removed += 1
        return removed
