"""One member of a shard, or a stretch of a long file, as 16 kHz mono samples; or the reason why not.

    file ──operators.audio.decode: the reader and the mixer of curation──> int16 pcm   | BadSample
         └─ FLAC that is int16 at 16 kHz already: libsndfile, the same samples in half the time

Expected bad data raises `BadSample`, which names the clip; it costs that clip, never the run.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
import soundfile

from operators.audio.decode import NO_SAMPLES, AudioError, Problem, audio_length
from operators.audio.decode import decode as decode_any
from operators.filterbank import SAMPLE_RATE

__all__ = ["REASONS", "BadSample", "audio_length", "decode"]

REASONS = (
    "unreadable",
    "truncated",
    "empty",
    "non_finite",
    "too_short",
    "too_long",
    "length_differs",
    "label_too_long",
    "empty_label",
    "unknown_token",
    "duplicate",
)
"""Why a clip cannot be trained on; the closed list of the bad-sample ledger."""

_REASON_OF = {"truncated": "truncated", "non_finite": "non_finite", "too_large": "too_long"}
"""What a hole in a clip makes of it; other holes make it unreadable."""
_HARMLESS = ("trailing_data", "other_track")
"""Beside what was heard, not in it."""


class BadSample(Exception):
    """A BadSample says which clip cannot be used, why (one of `REASONS`), and more for a reader."""

    def __init__(self, clip_id: str, reason: str, detail: str) -> None:
        super().__init__(clip_id, reason, detail)
        self.clip_id, self.reason, self.detail = clip_id, reason, detail


def decode(clip_id: str, file: BinaryIO, start: int | None = None, end: int | None = None) -> np.ndarray:
    """Return the samples [start, end) at 16 kHz of an audio file, int16; all of them where None.

    They are the samples that curation hears. A label speaks of the whole clip, so one with a hole is refused.

    Raises:
        BadSample: cannot be decoded, has a hole, ends too early, holds no sample, NaN or infinity, or more than memory.
    """
    try:
        if (plain := _plain_flac(file, start or 0, end)) is not None:
            return plain
        file.seek(0)
        heard = decode_any(file, (start or 0, end))
    except AudioError as error:
        reason = "empty" if error.detail == NO_SAMPLES else "unreadable"
        raise BadSample(clip_id, reason, error.detail or error.reason) from None
    except MemoryError:
        raise BadSample(clip_id, "too_long", "it is longer than this machine's memory") from None
    holes = [problem for problem in heard.problems if problem.reason not in _HARMLESS]
    if holes:
        raise BadSample(clip_id, _REASON_OF.get(holes[0].reason, "unreadable"), "; ".join(map(describe, holes[:3])))
    if end is not None and len(heard.pcm) < end - (start or 0):
        there = heard.total_samples if heard.total_samples is not None else (start or 0) + len(heard.pcm)
        raise BadSample(clip_id, "truncated", f"the file ends at sample {there}, the clip at {end}")
    if not len(heard.pcm):
        raise BadSample(clip_id, "empty", NO_SAMPLES)
    return heard.pcm


def describe(problem: Problem) -> str:
    """Say what could not be read and where: "12.30 to 14.00 s could not be read (gap)"."""
    span = problem.span
    place = f"{span.start / SAMPLE_RATE:.2f} to {span.end / SAMPLE_RATE:.2f} s"
    if not span.samples:
        place = f"something at {span.start / SAMPLE_RATE:.2f} s"
    return f"{place} could not be read ({problem.reason})"


def _plain_flac(file: BinaryIO, start: int, end: int | None) -> np.ndarray | None:
    """The stretch of a sound FLAC file of 16-bit mono at 16 kHz; None for anything else, and where anything is odd."""
    head = file.read(26)
    packed = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels - 1, 5 bits per sample - 1, 36 samples
    total = packed & ((1 << 36) - 1)
    if head[:4] != b"fLaC" or packed >> 36 != (SAMPLE_RATE << 8 | 0 << 5 | 15) or not total:
        return None
    if start >= total or (end is not None and end > total):
        return None
    file.seek(0)
    if end is None:
        data = file.read()
        # A second file may stand behind the first; and no samples are so dull that a byte holds a thousand.
        if data.find(b"fLaC", 4) >= 0 or total > 1000 * len(data):
            return None
        file = io.BytesIO(data)
    wanted = (total if end is None else end) - start
    try:
        with soundfile.SoundFile(file) as audio:
            if start:
                audio.seek(start)
            pcm: np.ndarray = audio.read(wanted, dtype="int16")
    except (soundfile.LibsndfileError, RuntimeError, MemoryError):
        return None
    return pcm if len(pcm) == wanted else None
