"""lhotse: one cut a clip, which reads its bytes out of the tar.

    ExportedClip ──> lhotse/<split>/cuts.jsonl.gz        CutSet.from_file("lhotse/train/cuts.jsonl.gz")

lhotse's recordings are files, commands, URLs or bytes; none is "these bytes of that file", so a clip in a tar is a
command of two standard tools, and a plain file is a file.
"""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

from operators.storage.uri import uri_to_path
from pipeline.export.clips import ExportedClip, refuse_s3
from pipeline.export.writer import Writer


class LhotseWriter(Writer):
    name = "lhotse"
    shows = 'lhotse.CutSet.from_file("{place}/train/cuts.jsonl.gz")'

    def __init__(self, folder: Path, place: Path) -> None:
        super().__init__(folder, place)
        self._files: dict[str, gzip.GzipFile] = {}

    def add(self, clip: ExportedClip) -> None:
        refuse_s3(clip, "lhotse")
        if clip.split not in self._files:
            path = self.folder / clip.split / "cuts.jsonl.gz"
            path.parent.mkdir(parents=True)
            # No time in the header, so that the same clips give the same bytes.
            self._files[clip.split] = gzip.GzipFile(path, "wb", mtime=0)
        self._files[clip.split].write((json.dumps(_cut(clip), ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        super().close()


def _cut(clip: ExportedClip) -> dict[str, Any]:
    row, path = clip.row, uri_to_path(clip.row.shard)
    if clip.member is None:
        source = {"type": "file", "channels": [0], "source": path}
    else:
        command = f"tail -c +{row.offset + 1} {shlex.quote(path)} | head -c {row.size}"
        source = {"type": "command", "channels": [0], "source": command}
    custom = {
        "domain": row.domain,
        "emotion": row.emotion,
        "style": row.style,
        "age": row.age,
        "events": list(row.events) if row.events is not None else None,
        "license": clip.license,
        "source_url": clip.source_url,
    }
    supervision = {
        "id": row.clip_id,
        "recording_id": row.clip_id,
        "start": 0.0,
        "duration": clip.seconds,
        "channel": 0,
        "text": row.label,
        "language": row.language,
        "speaker": row.speaker,
        "gender": row.gender,
        "custom": {key: value for key, value in custom.items() if value is not None},
    }
    recording = {
        "id": row.clip_id,
        "sources": [source],
        "sampling_rate": clip.sample_rate,
        "num_samples": clip.file_samples,
        "duration": clip.file_samples / clip.sample_rate,
        "channel_ids": [0],
    }
    return {
        "id": row.clip_id,
        "start": clip.start_seconds,
        "duration": clip.seconds,
        "channel": 0,
        "supervisions": [{key: value for key, value in supervision.items() if value is not None}],
        "recording": recording,
        "type": "MonoCut",
    }
