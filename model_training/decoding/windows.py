"""Recordings of any length as windows that the model can hear: cut where it is quiet, joined again after recognition.

    file or array ──blocks of minutes──> int16 pcm ──cut at the quietest point──> windows of `longest` samples at most

A window is cut in its second half and never leaves a rest shorter than a quarter of a window. An hour of audio is read
in blocks, so it takes no more memory than a few minutes.

Shapes: T samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from model_training.data.audio import BadSample, decode
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE

_BLOCK = 300 * SAMPLE_RATE
_HEARD = SAMPLE_RATE // 10
"""Samples over which loudness is measured: longer than a stop consonant's closure, shorter than a pause."""
_HOP = SAMPLE_RATE // 100


def windows(audio: str | Path | np.ndarray, longest: int) -> Iterator[np.ndarray]:
    """Windows of int16 [T] that follow each other without a gap; at least one, which may be empty.

    `audio` is a file that soundfile reads (WAV, FLAC, Ogg, MP3), or samples at 16 kHz: int16, or float in -1 ... 1.

    Raises:
        UserError: the file cannot be read, or the array is not a recording.
    """
    rest = np.zeros(0, np.int16)
    for block in _blocks(audio):
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
    """Where to cut off the first window of a recording longer than `longest` samples: its quietest point in reach."""
    first, last = longest // 2, min(longest, len(pcm) - longest // 4)
    energy = np.concatenate([[0.0], np.cumsum(pcm[first - _HEARD // 2 : last + _HEARD // 2].astype(np.float64) ** 2)])
    loudness = (energy[_HEARD:] - energy[:-_HEARD])[::_HOP]
    return first + int(loudness.argmin()) * _HOP


def _blocks(audio: str | Path | np.ndarray) -> Iterator[np.ndarray]:
    if isinstance(audio, np.ndarray):
        yield _int16(audio)
        return
    path = Path(audio)
    try:
        with open(path, "rb") as file:
            try:
                with soundfile.SoundFile(file) as sound:
                    samples = -(-sound.frames * SAMPLE_RATE // sound.samplerate)
            except soundfile.LibsndfileError as error:
                raise BadSample(path.name, "unreadable", error.error_string.strip(" .")) from None
            for start in range(0, max(samples, 1), _BLOCK):
                file.seek(0)
                end = None if start + _BLOCK >= samples else start + _BLOCK
                yield decode(path.name, file, start, end)
    except BadSample as error:
        mend = "convert it to WAV or FLAC first" if error.reason == "unreadable" else "copy or record it again"
        raise UserError(f"cannot read {path} as audio ({error.detail}): {mend}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


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
