"""Where the audio of an utterance lies and how much there is of it, or why it cannot be used.

uri ──headers; where they tell no length, to its end──> Audio ──start, end in seconds──> Span
                                                    └─> Unusable(reason, detail)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operators.audio.decode import AudioError, audio_length, probe
from operators.clip import SAMPLE_RATE, Span
from operators.storage.base import AccessRefused, S3Settings
from operators.storage.fetch import RangedFile, locate


@dataclass(frozen=True, slots=True)
class Audio:
    """An Audio is a file, or a member of a tar, with its length."""

    shard: str
    offset: int
    size: int
    samples: int
    """at 16 kHz"""


class Unusable(Exception):
    """(reason, detail) of an utterance that cannot be used: it costs that one, never the others."""


def open_audio(place: str, member: tuple[int, int] | None, s3: S3Settings) -> Audio | Unusable:
    """Return the audio at a local path or s3:// URI, or why there is none. `member` is (offset, size) in a tar.

    It is opened as the trainer will open it.
    """
    try:
        store, key = locate(place, s3)
        offset, size = member or (0, store.size(key))
        file: Any = RangedFile(store, key, offset, size)
        samples = probe(file).declared_samples or audio_length(file)
    except FileNotFoundError:
        return Unusable("missing", "there is no such file")
    except AccessRefused as error:
        return Unusable("permission", str(error))
    except AudioError as error:
        return Unusable(error.reason, error.detail)
    return Audio(place, offset, size, samples)


def span_of(start: Any, end: Any, samples: int) -> Span:
    """Return seconds as samples at 16 kHz; None is the file's own start or end. Raises Unusable."""
    try:
        first = 0 if start in (None, "") else round(float(start) * SAMPLE_RATE)
        last = samples if end in (None, "") else round(float(end) * SAMPLE_RATE)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unusable("bad_span", f"start {start!r} and end {end!r} are not seconds") from error
    # Times written to two decimals may point a little past the end.
    if last > samples + SAMPLE_RATE // 10 or first < 0 or first >= last:
        raise Unusable("bad_span", f"{start!r} to {end!r} s of a file of {samples / SAMPLE_RATE:.2f} s")
    return Span(first, min(last, samples))


def label_of(record: Any, known: Any) -> str:
    """Return the text of a row of a manifest, blanks joined; `known` are its labels. Raises Unusable without a text
    where there is no sound event either.
    """
    text = record.get("text")
    label = " ".join(text.split()) if isinstance(text, str) else ""
    if not label and not known.get("events"):
        raise Unusable("no_text", "a row needs 'text', or 'events' without speech")
    return label
