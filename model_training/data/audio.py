"""One member of a shard, or a stretch of a long file, as 16 kHz mono samples; or the reason why not.

    file ──soundfile (FLAC, Ogg Opus, WAV, MP3)──> float ──mean of channels──> ──resample──> int16 pcm   | BadSample

Expected bad data raises `BadSample`, which names the clip; it costs that clip, never the run.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import soundfile

from model_training.data.augment import resample
from operators.filterbank import SAMPLE_RATE

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

_MARGIN = 64
"""Output samples decoded on both sides of a stretch, so that resampling it equals resampling the whole."""
_MAX_RATE, _MAX_CHANNELS = 768_000, 64


class BadSample(Exception):
    """A BadSample says which clip cannot be used, why (one of `REASONS`), and more for a reader."""

    def __init__(self, clip_id: str, reason: str, detail: str) -> None:
        super().__init__(clip_id, reason, detail)
        self.clip_id, self.reason, self.detail = clip_id, reason, detail


def decode(clip_id: str, file: BinaryIO, start: int | None = None, end: int | None = None) -> np.ndarray:
    """Return the samples [start, end) at 16 kHz of an audio file, int16; all of them where None.

    Samples at 16 kHz and 16 bits come back as they are; others are resampled and rounded, and clipped where they exceed
    full scale.

    Raises:
        BadSample: cannot be decoded, ends too early, holds no sample, NaN or infinity, or claims more than memory
        holds.
    """
    try:
        with soundfile.SoundFile(file) as audio:
            if audio.samplerate > _MAX_RATE or audio.channels > _MAX_CHANNELS:
                raise BadSample(clip_id, "unreadable", f"{audio.channels} channels at {audio.samplerate} Hz")
            signal = _stretch(clip_id, audio, start or 0, end)
    except soundfile.LibsndfileError as error:
        raise BadSample(clip_id, "unreadable", error.error_string.strip()) from None
    except MemoryError:  # a damaged header may claim any length
        raise BadSample(clip_id, "too_long", "it says that it is longer than this machine's memory") from None
    if not len(signal):
        raise BadSample(clip_id, "empty", "no samples")
    return np.clip(np.rint(signal * 32768.0), -32768, 32767).astype(np.int16)


def _stretch(clip_id: str, audio: soundfile.SoundFile, start: int, end: int | None) -> np.ndarray:
    """Return float32 [end - start] at 16 kHz."""
    shared = int(np.gcd(SAMPLE_RATE, audio.samplerate))
    up, down = SAMPLE_RATE // shared, audio.samplerate // shared
    # From a place where an input and an output sample coincide: so the filter falls on the samples as in the whole.
    blocks = max(0, start - _MARGIN) // up
    first = blocks * down
    last = audio.frames if end is None else min(audio.frames, -(-(end + _MARGIN) * down // up))
    if first and first < audio.frames:
        audio.seek(first)
    wanted = max(0, last - first)
    native = audio.read(wanted, dtype="float32", always_2d=True)
    if len(native) < wanted:
        raise BadSample(clip_id, "truncated", f"{first + len(native)} of {audio.frames} samples could be decoded")
    if not np.isfinite(native).all():
        raise BadSample(clip_id, "non_finite", "NaN or infinity among the samples")
    mono = native[:, 0] if native.shape[1] == 1 else native.mean(axis=1, dtype=np.float32)
    offset = start - blocks * up
    signal = resample(mono, up, down)[offset : None if end is None else offset + end - start]
    if end is not None and len(signal) < end - start:
        there = start + len(signal)
        raise BadSample(clip_id, "truncated", f"the file ends at sample {there}, the clip at {end}")
    return signal
