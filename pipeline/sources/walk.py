"""Walk a folder that a crawler filled: every file, and everything that only looks like one, without opening any.

folder ──scandir, sorted──> Found(path, bytes)       regular files, and links to files
                        └─> Found(path, problem)     folders that may not be listed, FIFOs, sockets, devices, second
                                                     names, the shards of earlier runs
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

NOT_LOOKED_INTO = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Endings of archives that hold audio for all we know, but cannot be read in parts."""


RUN_PLAN, RUN_SHARDS = "plan.parquet", "shards"
"""What a folder that a run of ours wrote holds, beside each other."""
OF_A_RUN = "the shards of an earlier run: name this folder as a source of its own to curate them again"


@dataclass(frozen=True, slots=True)
class Found:
    """A Found is one entry below the root: `path` relative to it, "/" between parts, bytes that are not UTF-8 as
    surrogates.
    """

    path: str
    bytes: int | None = None
    problem: str | None = None
    """ "not_a_file", "permission", "duplicate" or "earlier_run"; None for a file that may be tried."""
    detail: str = ""


def walk(root: str) -> Iterator[Found]:
    """Yield everything below a folder that is not `passed_by`, in an order fixed by the names.

    Raises OSError when the root itself cannot be listed; a folder below it is a `Found` with problem "permission" then.
    """
    entered = [os.path.realpath(root)]
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            if not folder:
                raise
            yield Found(
                folder.rstrip("/"), problem="permission", detail=f"the folder cannot be listed: {error.strerror}"
            )
            continue
        below: list[str] = []
        is_run = {RUN_PLAN, RUN_SHARDS} <= {entry.name for entry in entries}
        for entry in entries:
            path = folder + entry.name
            if is_run and entry.name == RUN_SHARDS:
                yield Found(path, problem="earlier_run", detail=OF_A_RUN)
                continue
            if passed_by(path + "/" if entry.is_dir() else path):
                continue
            if entry.is_symlink():
                found, is_folder = _look_behind(path, entry.path, entered)
            elif is_folder := entry.is_dir():
                found = Found(path, problem="not_a_file", detail="a folder")
            else:
                found = _look_at(path, entry.path)
            if is_folder:
                below.append(path + "/")
            if found:
                yield found
        folders += reversed(below)


def passed_by(path: str) -> bool:
    """Return whether a path below the root is none of the crawl's: in a hidden folder such as .git, or macOS's "._"
    shadow of a file.

    Other names that start with a dot are taken: crawlers name files after titles, and titles start with "..." and
    ".hack". A part "." is no folder: `tar cf x.tar .` writes "./talk/1.mp3".
    """
    *folders, name = path.split("/")
    hidden = (folder.startswith(".") and folder != "." and not folder.startswith("..") for folder in folders)
    return name.startswith("._") or any(hidden)


def _look_at(path: str, full_path: str) -> Found:
    try:
        status = os.stat(full_path)
    except OSError:
        return Found(path)  # it vanished, or is a dangling link: reading it will say so
    if stat.S_ISREG(status.st_mode):
        return Found(path, bytes=status.st_size)
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return Found(path, problem="not_a_file", detail=kinds.get(stat.S_IFMT(status.st_mode), "no regular file"))


def _look_behind(path: str, full_path: str, entered: list[str]) -> tuple[Found | None, bool]:
    """What a symbolic link stands for, and whether to walk it as a folder; `entered` learns of the folder then."""
    target = os.path.realpath(full_path)
    met = any(_is_met(target, top) for top in entered)
    if not os.path.isdir(target):
        found = _look_at(path, full_path)
        if met and not found.problem and os.path.exists(target):
            detail = f"a link to {os.path.basename(target)}, which is in the source itself"
            found = Found(path, problem="duplicate", detail=detail)
        return found, False
    if met or any(_inside(top, target) for top in entered):
        return None, False  # walked under its own name, or a loop
    entered.append(target)
    return Found(path, problem="not_a_file", detail="a link to a folder"), True


def _inside(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _is_met(target: str, top: str) -> bool:
    """Whether the walk of `top` comes to `target` by itself. (git-annex keeps its files in a folder that is passed
    by.)
    """
    return _inside(target, top) and not passed_by(
        target[len(top.rstrip("/")) + 1 :] + ("/" if os.path.isdir(target) else "")
    )
