"""WeNet, and everything that reads WebDataset tars: a list of the tars of each split.

    ExportedClip ──> wenet/<split>/shards.list   tars whose every clip is of this split   (data_type: shard)
                     wenet/<split>/raw.list      clips of plain audio files               (data_type: raw)
                     wenet/<split>/again/*.tar   with --repack: what is of this split in tars that are not its alone

A reader of tars takes all that is in them, so a tar with clips of two splits, or with clips that the hand-off left out,
is in no list: its clips are counted, and --repack writes them again, the only audio that an export copies.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from operators.storage.fetch import RangedFile, locate
from operators.storage.uri import uri_to_path
from pipeline.export.clips import ExportedClip, Sources, refuse_s3
from pipeline.export.writer import Writer


class WenetWriter(Writer):
    name = "wenet"
    shows = "--data_type shard --train_data {place}/train/shards.list"

    def __init__(self, folder: Path, place: Path, sources: Sources, *, repack: bool) -> None:
        super().__init__(folder, place)
        self._sources, self._repack = sources, repack
        self._keys: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def add(self, clip: ExportedClip) -> None:
        refuse_s3(clip, "WeNet")
        row = clip.row
        if clip.member is not None:
            self._keys[row.shard][clip.split].add(_key(clip.member))
            return
        entry: dict[str, Any] = {"key": row.clip_id, "wav": uri_to_path(row.shard), "txt": clip.text}
        if clip.samples != clip.file_samples:
            entry |= {"start": clip.start_seconds, "end": clip.start_seconds + clip.seconds}
        self.files.write(f"{clip.split} raw", f"{clip.split}/raw.list", json.dumps(entry, ensure_ascii=False))

    def close(self) -> None:
        number = 0
        for uri, splits in self._keys.items():
            for split, keys in splits.items():
                if keys == {_key(name) for name in self._sources.names_of(uri).values()}:
                    place = uri_to_path(uri)
                elif self._repack:
                    name = f"{split}/again/{number:06d}.tar"
                    number += 1
                    _copy_samples(uri, self._sources, keys, self.folder / name)
                    place = f"{self.place}/{name}"
                else:
                    self.skipped[
                        "their tars hold clips that are not of the split, and a reader of tars takes all: say --repack"
                    ] += len(keys)
                    continue
                self.files.write(split, f"{split}/shards.list", place)
        super().close()


def _key(member: str) -> str:
    """Return what names the sample of a member, as WebDataset groups them: all up to the first dot of the name."""
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _copy_samples(uri: str, sources: Sources, keys: set[str], path: Path) -> None:
    store, tar_key = locate(uri, sources.s3)
    file = RangedFile(store, tar_key, 0, store.size(tar_key))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=file, mode="r:") as tar, tarfile.open(path, "w") as again:
        for member in tar:
            if member.isfile() and _key(member.name) in keys:
                again.addfile(member, tar.extractfile(member))
