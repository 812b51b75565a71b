"""What every format of an export does: take clips one by one, then say what was written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import ClassVar, TextIO

from pipeline.export.clips import ExportedClip


class Writer(ABC):
    """A Writer writes one format into `folder`, which will stand at `place` when all is written.

    `skipped` counts, by reason, clips that this format has no words for.
    """

    name: ClassVar[str]
    shows: ClassVar[str]
    """how a reader opens it; {place} stands for the folder"""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = folder
        self.place = place
        self.skipped: Counter[str] = Counter()
        self.files = SplitFiles(folder)

    @abstractmethod
    def add(self, clip: ExportedClip) -> None:
        """Take one clip. Raises UserError for one that this format's readers could not reach."""

    def close(self) -> None:
        """Write what is left, and close all files."""
        self.files.close()


class SplitFiles:
    """SplitFiles are text files by their path in a folder, one open at a time for each kind of file.

    A crawl may have a hundred thousand tars, and a manifest for each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, tuple[str, TextIO]] = {}

    def write(self, kind: str, name: str, line: str) -> None:
        """Append a line to the file `name`, and close the one that the same kind wrote to before."""
        before, file = self._open.get(kind, ("", None))
        if before != name or file is None:
            if file is not None:
                file.close()
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a", encoding="utf-8", newline="\n")
            self._open[kind] = name, file
        file.write(line + "\n")

    def close(self) -> None:
        for _, file in self._open.values():
            file.close()
        self._open.clear()
