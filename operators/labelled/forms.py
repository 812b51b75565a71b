"""A published set by its path, whatever its form: its name, and its utterances as rows of a manifest.

    manifest with uri, text, ...            ─┐
    ESC-50's meta/esc50.csv                  ├──published──> PublishedSet(name, rows)
    SpeechIO's folder with metadata.tsv      │
    Kaldi, LibriSpeech, AISHELL-1 folder    ─┘

A row is a dictionary of the columns that labelled manifests have, or a text that says what is wrong with it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from operators.errors import UserError
from operators.labelled.folders import aishell_texts, is_librispeech, read_aishell, read_librispeech
from operators.labelled.kaldi import is_kaldi, read_kaldi
from operators.labelled.manifest import Row, is_manifest, read_rows
from operators.storage.base import S3Settings
from operators.storage.fetch import Fetch
from operators.storage.uri import is_s3

_ESC50 = {"filename", "fold", "category"}
_SPEECHIO = "metadata.tsv"


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A published set has a name and rows whose relative uris start at `folder`."""

    path: str
    name: str
    folder: str
    rows: Callable[[], Iterator[Row]]


def published(path: str, s3: S3Settings) -> PublishedSet:
    """Return the set at a path. Raises UserError when it is none of the forms."""
    local = Path(path)
    if not is_s3(path) and local.is_dir():
        name, folder = local.absolute().name, str(local.absolute())
        if is_kaldi(local):
            return PublishedSet(path, name, folder, lambda: read_kaldi(local))
        if (local / _SPEECHIO).is_file():
            return PublishedSet(path, name, folder, lambda: _speechio(local / _SPEECHIO))
        if is_librispeech(local):
            return PublishedSet(path, name, folder, lambda: read_librispeech(local))
        if (texts := aishell_texts(local)) is not None:
            return PublishedSet(path, name, folder, lambda: read_aishell(local, texts))
        raise UserError(
            f"{path} is no set of a known form: want a folder with wav.scp and text (Kaldi), with metadata.tsv "
            "(SpeechIO), or as LibriSpeech and AISHELL-1 are unpacked; or a manifest"
        )
    if not is_manifest(path):
        raise UserError(f"{path} is no folder and no manifest (.jsonl, .csv, .tsv, .parquet): fix the path of the set")
    if not is_s3(path):
        if not local.is_file():
            raise UserError(f"there is no manifest {path}: fix the path of the set")
        if local.suffix == ".csv" and set(_header(local)) >= _ESC50:
            return PublishedSet(path, local.stem, str(local.absolute().parent.parent / "audio"), lambda: _esc50(local))
    folder = path.rpartition("/")[0] if is_s3(path) else str(local.absolute().parent)
    return PublishedSet(path, local.stem, folder, lambda: _manifest(path, s3))


def _manifest(path: str, s3: S3Settings) -> Iterator[Row]:
    try:
        with Fetch(s3).fetch(path) as copy:
            yield from read_rows(str(copy), path)
    except FileNotFoundError:
        raise UserError(f"there is no manifest {path}: fix the path of the set") from None


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file), [])


def _esc50(path: Path) -> Iterator[Row]:
    """Yield ESC-50's clips: one event each, no speech; clips of one Freesound recording are one recording."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            yield (
                number,
                {
                    "uri": row["filename"],
                    "events": [row["category"]],
                    "fold": row["fold"],
                    "recording_id": row.get("src_file"),
                },
            )


def _speechio(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"AUDIO", "TEXT"} <= set(reader.fieldnames or ()):
            raise UserError(f"{path} has no columns AUDIO and TEXT: is it SpeechIO's?")
        for number, row in enumerate(reader, start=2):
            yield number, {"uri": row["AUDIO"], "text": row["TEXT"]}


def place_of(uri: str, folder: str) -> str:
    """Return where the audio of a row lies, a relative path from the set's folder."""
    if is_s3(uri) or uri.startswith(("/", "bytes:/")):
        return uri
    return f"{folder}/{uri}" if is_s3(folder) else os.path.join(folder, uri)
