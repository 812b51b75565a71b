"""Small crawls for tests: folders, manifests and tars made on the spot, and what comes out of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from pipeline.config import SourceSettings
from pipeline.sources.files import SourceFile, read_sources


def read(*paths: object, **settings: Any) -> list[SourceFile]:
    return list(read_sources([SourceSettings(path=str(path), **settings) for path in paths]))


def problems(files: list[SourceFile]) -> dict[str, str]:
    return {file.recording_id: file.problem.reason for file in files if file.problem}


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def manifest(tmp_path: Path, text: str | bytes, name: str = "m.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def tar_bytes(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()
