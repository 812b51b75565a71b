"""Sentences that no starter engine was trained on, as clips of recordings that can share windows.

recordings of held-out sentences in voices that both engines know ──cut at their pauses──> Sentence, Sentence, ...
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from examples.starter_engines import acoustics
from examples.starter_engines.synthesize import recording
from examples.starter_engines.voices import SAMPLE_RATE, training_voices

RECORDING_SECONDS = 60.0
PAD_SECONDS = 0.2
SNRS = (None, 20, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A Sentence is a clip of one sentence with a little pause at either end, int16 [samples]."""

    audio: np.ndarray
    text: str
    language: str
    recording: str


def held_out(seed: int, count: int) -> list[Sentence]:
    """Return the sentences of `count` recordings for each language, every third clean, the others at 20 and 10 dB."""
    voices = [voice for voice in training_voices(0) if voice in training_voices(1)]
    found = []
    for language in ("zh", "en"):
        for index in range(count):
            r, g = random.Random(f"{seed}/{language}/{index}"), np.random.default_rng((seed, index))
            speech, segments, _ = recording(r, voices, language, "test", RECORDING_SECONDS)
            snr_db = SNRS[index % len(SNRS)]
            if snr_db is not None:
                speech = acoustics.mix(speech, acoustics.noise(g, r.choice(acoustics.NOISES), len(speech)), snr_db)
            pcm = np.clip(speech * 32768, -32768, 32767).astype(np.int16)
            pad = int(PAD_SECONDS * SAMPLE_RATE)
            for segment in segments:
                start, end = (int(float(str(segment[name])) * SAMPLE_RATE) for name in ("start_s", "end_s"))
                found.append(
                    Sentence(
                        audio=pcm[max(0, start - pad) : end + pad],
                        text=str(segment["text"]),
                        language=language,
                        recording=f"{language}-{index}",
                    )
                )
    return found
