"""Recordings of any length as windows that the model can hear: cut where it is quiet, joined again after recognition.

    file or array ──operators.audio.decode.stream──> int16 pcm ──cut at the quietest point──> windows of `longest`
    samples at most

A window is cut in its second half and never leaves a rest shorter than a quarter of a window. A file is heard as
curation hears it, to its end, and read as it goes, so that an hour takes no more memory than a few windows.

Shapes: T samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from operators.audio.decode import NO_SAMPLES, AudioError, Problem, stream
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE

_HEARD = SAMPLE_RATE // 10
"""Samples over which loudness is measured: longer than a stop consonant's closure, shorter than a pause."""
_HOP = SAMPLE_RATE // 100


def windows(
    audio: str | Path | np.ndarray, longest: int, on_problem: Callable[[Problem], None] | None = None
) -> Iterator[np.ndarray]:
    """Yield windows of int16 [T] that follow each other without a gap; at least one, which may be empty.

    `audio` is a file with sound in any container, or samples at 16 kHz: int16, or float in -1 ... 1. `on_problem` is
    called with every stretch that could not be read; where its length is known it is silence.

    Raises:
        UserError: the file cannot be read, or the array is not a recording.
    """
    rest = np.zeros(0, np.int16)
    for block in blocks(audio, longest, on_problem):
        rest = np.concatenate([rest, block])
        while len(rest) > 2 * longest:  # the end of the recording may still come near: see `cut`
            place = cut(rest, longest)
            yield rest[:place]
            rest = rest[place:]
    while len(rest) > longest:
        place = cut(rest, longest)
        yield rest[:place]
        rest = rest[place:]
    yield rest


def cut(pcm: np.ndarray, longest: int) -> int:
    """Return where to cut off the first window of a recording longer than `longest` samples: its quietest point in
    reach.
    """
    first, last = longest // 2, min(longest, len(pcm) - longest // 4)
    energy = np.concatenate([[0.0], np.cumsum(pcm[first - _HEARD // 2 : last + _HEARD // 2].astype(np.float64) ** 2)])
    loudness = (energy[_HEARD:] - energy[:-_HEARD])[::_HOP]
    return first + int(loudness.argmin()) * _HOP


def blocks(
    audio: str | Path | np.ndarray, least: int, on_problem: Callable[[Problem], None] | None = None
) -> Iterator[np.ndarray]:
    """Yield int16 [T] of `least` samples or more, as they are read; arguments and errors as of `windows`."""
    if isinstance(audio, np.ndarray):
        yield _int16(audio)
        return
    parts, held = stream(str(audio)), list[np.ndarray]()
    try:
        while True:
            try:
                held.append(next(parts))
            except StopIteration as end:
                if on_problem:
                    for problem in end.value.problems:
                        on_problem(problem)
                break
            if sum(map(len, held)) >= least:
                yield np.concatenate(held)
                held = []
    except AudioError as error:
        if error.reason in ("missing", "permission", "read_error", "not_a_file"):
            raise UserError(f"cannot read {audio}: {error.detail or error.reason.replace('_', ' ')}") from None
        again = error.detail == NO_SAMPLES or error.reason == "empty_file"
        fix = "copy or record it again" if again else "convert it to WAV or FLAC first"
        why = error.detail or error.reason.replace("_", " ")
        raise UserError(f"cannot read {audio} as audio ({why}): {fix}") from None
    if held:
        yield np.concatenate(held)


def _int16(pcm: np.ndarray) -> np.ndarray:
    if pcm.ndim != 1:
        raise UserError(
            f"an array of audio has one dimension, 16 kHz samples of one channel; this has shape {pcm.shape}"
        )
    if pcm.dtype == np.int16:
        return pcm
    if not np.issubdtype(pcm.dtype, np.floating) or not np.isfinite(pcm).all():
        raise UserError(f"an array of audio holds int16, or finite floats between -1 and 1; this is {pcm.dtype}")
    return np.clip(np.rint(pcm * 32768.0), -32768, 32767).astype(np.int16)
