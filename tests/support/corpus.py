"""Small corpora for tests of training data: tars of synthetic clips, an index of them, targets without a tokenizer."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from model_training.data.index import Index
from operators.index import Row, write_index
from operators.shard import feature_frames

RATE = 16_000


def noise(samples: int, scale: float = 1000.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, samples).astype(np.int16)


def voice(samples: int, pitch: float = 140.0, seed: int = 0) -> np.ndarray:
    """Harmonics that come and go, over faint noise: enough like speech for features to differ from frame to frame."""
    time = np.arange(samples) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 3.1 * time), 0, None)
    return (4000 * tone * envelope + np.random.default_rng(seed).normal(0, 20, samples)).astype(np.int16)


def encoded(pcm: np.ndarray, format: str = "FLAC", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, pcm, rate, format=format, subtype=subtype)
    return written.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> dict[str, tuple[int, int]]:
    """A plain tar; the place of every member in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}


@dataclass(frozen=True)
class Ids:
    ctc: list[int]
    inputs: list[int]
    targets: list[int]
    events_known: bool = True


def targets(row: Row) -> Ids:
    """One id per character, as a tokenizer of characters would: 10 and up; a character outside ASCII is unknown (1)."""
    ids = [ord(letter) - 87 if letter.isascii() else 1 for letter in row.label]
    return Ids(ctc=ids, inputs=[2, *ids], targets=[*ids, 3])


def make_rows(folder: Path, count: int, *, seconds: tuple[float, float] = (0.5, 2.0), seed: int = 0) -> list[Row]:
    """`count` voices of two domains in two FLAC tars under `folder`, and their rows."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for tar, domain in enumerate(("talk", "news")):
        clips = [voice(int(RATE * random.uniform(*seconds)), 100 + 7 * n, n) for n in range(tar, count, 2)]
        names = [f"{domain}-{n:04d}" for n in range(len(clips))]
        path = folder / f"{domain}.tar"
        places = write_tar(path, [(f"{name}.flac", encoded(pcm)) for name, pcm in zip(names, clips, strict=True)])
        for name, pcm in zip(names, clips, strict=True):
            offset, size = places[f"{name}.flac"]
            rows.append(
                Row(
                    clip_id=name,
                    shard=str(path),
                    offset=offset,
                    size=size,
                    frames=feature_frames(len(pcm)),
                    label_tokens=3,
                    label="abc",
                    domain=domain,
                    language="en",
                    recording_id=name,
                )
            )
    return rows


def make_index(folder: Path, rows: Sequence[Row]) -> Index:
    write_index(folder / "train.arrow", rows)
    return Index.open(str(folder / "train.arrow"))


def at(row: Row, **changes: object) -> Row:
    """`row` with some columns changed."""
    return replace(row, **changes)  # type: ignore[arg-type]
