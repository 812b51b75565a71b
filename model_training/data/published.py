"""Sets as they are published, as an index to evaluate on: nothing is copied, nothing handed off.

    [NAME=]PATH[@SPLIT] ──published──> rows ──of the split──> headers of the audio ──> Index      + what cannot be used

What can be read is in operators/labelled: manifests, ESC-50, SpeechIO, Kaldi, LibriSpeech, AISHELL-1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from model_training.config import s3_settings
from model_training.data.audio import BadSample
from model_training.data.index import Index
from operators.annotate.manifest import known_labels
from operators.clip import Span, clip_id
from operators.errors import UserError
from operators.index import Row, index_table
from operators.labelled.audio import Audio, Unusable, label_of, open_audio, span_of
from operators.labelled.forms import PublishedSet, place_of, published
from operators.labelled.splits import known_split, split_of
from operators.language import canonical
from operators.shard import feature_frames
from operators.storage.local import real_uri
from operators.storage.uri import path_to_uri
from operators.text.spoken import tokens

_ROWS = 4096
_THREADS = 8


@dataclass(frozen=True, slots=True)
class IndexedSet:
    """An IndexedSet is an index of utterances, and those that cannot be used."""

    name: str
    index: Index
    unusable: tuple[BadSample, ...]


def index_set(argument: str) -> IndexedSet:
    """Return the set that `[NAME=]PATH[@SPLIT]` names.

    Without @SPLIT it is the rows that the set's own column `split` gives to test, all rows where there is no such
    column. SPLIT is one of these splits, or a value of the set's column `fold`. Raises UserError.
    """
    s3 = s3_settings()
    name, path, wanted = _parts(argument)
    found = published(path, s3)
    rows, unusable = list[Row](), list[BadSample]()
    chosen = _chosen(found, wanted)
    with ThreadPoolExecutor(_THREADS) as pool:
        while chunk := list(islice(chosen, _ROWS)):
            good = [(number, row) for number, row in chunk if isinstance(row, dict)]
            unusable += [
                BadSample(f"{path}:{number}", "unreadable", row) for number, row in chunk if isinstance(row, str)
            ]
            places = [path_to_uri(place_of(str(row.get("uri") or ""), found.folder)) for _, row in good]
            distinct = list(dict.fromkeys(places))
            opened = dict(zip(distinct, pool.map(lambda place: open_audio(place, None, s3), distinct), strict=True))
            for (number, row), place in zip(good, places, strict=True):
                try:
                    rows.append(_row(name or found.name, row, place, opened[place]))
                except Unusable as error:
                    unusable.append(BadSample(f"{path}:{number}", *error.args))
    if not rows:
        first = unusable[0]
        raise UserError(f"no row of {path} can be used; the first, {first.clip_id}: {first.reason} ({first.detail})")
    return IndexedSet(name or found.name, Index(index_table(rows), path), tuple(unusable))


def _parts(argument: str) -> tuple[str | None, str, str | None]:
    """Return name, path and split. A path that is there as it stands has no name or split cut off."""
    if os.path.exists(argument):
        return None, argument, None
    name, path = None, argument
    before, equals, after = argument.partition("=")
    if equals and "/" not in before and not os.path.exists(argument.rpartition("@")[0] or argument):
        name, path = before, after
    if not os.path.exists(path) and "@" in Path(path).name:
        path, _, wanted = path.rpartition("@")
        return name, path, wanted
    return name, path, None


def _chosen(found: PublishedSet, wanted: str | None) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the rows of the split, and the bad ones. Raises UserError for an unknown split, and when none is of it."""
    there, is_empty = dict[str, None](), True
    for number, row in found.rows():
        if isinstance(row, str):
            yield number, row
            continue
        own, fold = split_of(row, f"{found.path}:{number}"), row.get("fold")
        there |= {str(value): None for value in (row.get("split"), fold) if value not in (None, "")}
        if _is_of(row, own, wanted):
            is_empty = False
            yield number, row
    if is_empty:
        names = f"it has {', '.join(sorted(there)[:12])}" if there else "it has no column 'split' or 'fold'"
        raise UserError(f"no row of {found.path} is of the split {wanted or 'test'}: {names}")


def _is_of(row: dict[str, Any], own: str | None, wanted: str | None) -> bool:
    if wanted is None:
        return "split" not in row or own == "test"
    exact = wanted in (str(row.get("split") or "").strip(), str(row.get("fold")))
    return exact or (own is not None and wanted.isalpha() and known_split(wanted) == own)


def _row(name: str, record: dict[str, Any], place: str, audio: Audio | Unusable) -> Row:
    if isinstance(audio, Unusable):
        raise audio
    known = known_labels(record)
    label = label_of(record, known)
    span = span_of(record.get("start"), record.get("end"), audio.samples)
    frames = feature_frames(span.samples)
    if not frames:
        raise Unusable("too_short", f"{span.samples} samples")
    whole = span == Span(0, audio.samples)
    events = known.pop("events", None)
    return Row(
        clip_id=clip_id(real_uri(place), span),
        shard=audio.shard,
        offset=audio.offset,
        size=audio.size,
        start_sample=None if whole else span.start,
        end_sample=None if whole else span.end,
        frames=frames,
        label_tokens=len(tokens(label)),
        label=label,
        domain=name,
        language=canonical(str(record["language"])) if record.get("language") else None,
        events=None if events is None else tuple(events),
        recording_id=str(record.get("recording_id") or place),
        **known,
    )
