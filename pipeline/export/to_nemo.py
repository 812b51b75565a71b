"""NeMo: a manifest for each tar, numbered as its loader pairs them, and an `input_cfg.yaml` that names them all.

    ExportedClip ──> nemo/<split>/manifest_0.json ...  audio_0.tar -> the shard: a link; of S3 a command that streams it
                     nemo/<split>/files.json           clips of plain audio files
                     nemo/<split>/input_cfg.yaml       what `train_ds.input_cfg` takes

NeMo pairs `manifest_<n>.json` with `audio_<n>.tar` by the number in their names. It looks the members of a tar up by
name, and passes over those that the manifest lacks (`skip_missing_manifest_entries`, in versions that ask).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from operators.storage.uri import is_s3, uri_to_path
from pipeline.export.clips import ExportedClip
from pipeline.export.writer import Writer


class NemoWriter(Writer):
    name = "nemo"
    shows = "train_ds.use_lhotse=true train_ds.input_cfg={place}/train/input_cfg.yaml"

    def __init__(self, folder: Path, place: Path, endpoint_url: str | None = None) -> None:
        super().__init__(folder, place)
        self._endpoint_url = endpoint_url
        self._shards: dict[str, dict[str, int]] = {}
        self._plain: set[str] = set()

    def add(self, clip: ExportedClip) -> None:
        row, split = clip.row, clip.split
        if clip.member is None:
            self._plain.add(split)
            self.files.write(f"{split} files", f"{split}/files.json", _line(clip, uri_to_path(row.shard)))
            return
        shards = self._shards.setdefault(split, {})
        number = shards.setdefault(row.shard, len(shards))
        line = _line(clip, clip.member, shard_id=number)
        self.files.write(split, f"{split}/manifest_{number}.json", line)

    def close(self) -> None:
        super().close()
        for split in sorted(self._shards.keys() | self._plain):
            shards = self._shards.get(split, {})
            tars = [self._tar(split, uri, number) for uri, number in shards.items()]
            numbers = [str(number) for number in shards.values()]
            if len(tars) > 1 and not any(map(is_s3, shards)):  # one pattern for all, as NeMo's own scripts name them
                numbers = [f"_OP_0..{len(tars) - 1}_CL_"]
                tars = [f"{self.place}/{split}/audio_{numbers[0]}.tar"]
            entries: list[dict[str, Any]] = [
                {
                    "type": "nemo_tarred",
                    "manifest_filepath": f"{self.place}/{split}/manifest_{number}.json",
                    "tarred_audio_filepaths": tar,
                    "skip_missing_manifest_entries": True,
                }
                for number, tar in zip(numbers, tars, strict=True)
            ]
            if split in self._plain:
                entries.append({"type": "nemo", "manifest_filepath": f"{self.place}/{split}/files.json"})
            text = yaml.safe_dump(entries, allow_unicode=True, sort_keys=False, width=10_000)
            (self.folder / split / "input_cfg.yaml").write_text(text, encoding="utf-8")

    def _tar(self, split: str, uri: str, number: int) -> str:
        name = f"audio_{number}.tar"
        if is_s3(uri):
            endpoint = f" --endpoint-url {shlex.quote(self._endpoint_url)}" if self._endpoint_url else ""
            # The number that the loader looks for stands in a comment, which the shell passes over.
            return f"pipe:aws s3 cp{endpoint} {shlex.quote(uri)} - # {name}"
        (self.folder / split / name).symlink_to(uri_to_path(uri))
        return f"{self.place}/{split}/{name}"


def _line(clip: ExportedClip, audio: str, **more: Any) -> str:
    row = clip.row
    known = {
        "offset": clip.start_seconds if clip.samples != clip.file_samples else None,
        "lang": row.language,
        "speaker": row.speaker,
        "gender": row.gender,
        "age": row.age,
        "emotion": row.emotion,
        "domain": row.domain,
        "license": clip.license,
        "clip_id": row.clip_id,
    }
    entry = {"audio_filepath": audio, "duration": clip.seconds, "text": row.label, **more}
    return json.dumps(entry | {key: value for key, value in known.items() if value is not None}, ensure_ascii=False)
