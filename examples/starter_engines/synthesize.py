"""Make a transcribed speech corpus out of nothing: WAV files of 10 to 28 s and a manifest in the shape of a truth file.

    (seed, draw) ──grammar──> sentences ──voices──> speech ──acoustics──> NAME.wav + one line of manifest.jsonl

A recording has one speaker (now and then two), one language, pauses between sentences and one acoustic condition.
A manifest line: path, language, duration_s, voice, snr_db (null: clean), segments[{start_s, end_s, text, language}].
The trainers read any manifest of this shape, so real transcribed audio can take the place of this corpus.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.starter_engines import acoustics
from examples.starter_engines.grammar import sentence
from examples.starter_engines.voices import SAMPLE_RATE, Speaker, say

NONSPEECH_SHARE = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a recording went through. The defaults are none of it."""

    noise: str | None = None
    snr_db: float | None = None
    reverberation_seconds: float = 0.0
    bandwidth: int | None = None
    mp3: float | None = None

    @classmethod
    def draw(cls, r: random.Random) -> Condition:
        """Training conditions: half clean, noise from 30 dB down to 3 dB, some rooms, telephones and codecs."""
        noisy = r.random() < 0.5
        return cls(
            noise=r.choice([*acoustics.NOISES, "babble"]) if noisy else None,
            snr_db=r.choice([30, 25, 20, 20, 15, 15, 10, 10, 7, 5, 3]) if noisy else None,
            reverberation_seconds=r.uniform(0.15, 0.5) if r.random() < 0.2 else 0.0,
            bandwidth=8000 if r.random() < 0.12 else None,
            mp3=r.uniform(0.5, 0.95) if r.random() < 0.1 else None,
        )

    def apply(self, speech: np.ndarray, r: np.random.Generator, babble: list[np.ndarray]) -> np.ndarray:
        """float32 [samples] to the same length; `babble` is other speech to draw a crowd from."""
        if self.reverberation_seconds:
            speech = acoustics.reverberate(r, speech, self.reverberation_seconds)
        if self.noise == "babble":
            crowd = np.zeros(len(speech))
            for index in r.integers(len(babble), size=5):
                crowd += np.resize(np.roll(babble[index], int(r.integers(len(babble[index])))), len(speech))
            speech = acoustics.mix(speech, crowd, self.snr_db or 0.0)
        elif self.noise:
            speech = acoustics.mix(speech, acoustics.noise(r, self.noise, len(speech)), self.snr_db or 0.0)
        if self.bandwidth:
            speech = acoustics.band_limit(speech, self.bandwidth)
        if self.mp3 is not None:
            speech = acoustics.through_mp3(speech, self.mp3)
        return speech


def nonspeech(seconds: float, r: random.Random) -> np.ndarray:
    """Noise, music, or near silence: float32 [samples]."""
    g = np.random.default_rng(r.getrandbits(32))
    samples = int(seconds * SAMPLE_RATE)
    kind = r.choice([*acoustics.NOISES, "music", "silence"])
    if kind == "silence":
        return (g.standard_normal(samples) * 10 ** r.uniform(-5, -3)).astype(np.float32)
    out = acoustics.noise(g, kind, samples)
    return (out * r.uniform(0.02, 0.5) / np.abs(out).max()).astype(np.float32)


def recording(
    r: random.Random, voices: list[str], language: str, side: str, seconds: float, *, pace: tuple[int, int] = (135, 215)
) -> tuple[np.ndarray, list[dict[str, object]], list[Speaker]]:
    """Clean speech of about `seconds` with pauses: float32 [samples], its segments, its speakers (two in one of eight)."""
    speakers = [Speaker.draw(r, voices, pace) for _ in range(2 if r.random() < 0.125 else 1)]
    parts: list[np.ndarray] = [np.zeros(int(r.uniform(0.1, 0.5) * SAMPLE_RATE), np.float32)]
    segments: list[dict[str, object]] = []
    length = len(parts[0])
    while length < seconds * SAMPLE_RATE:
        text = sentence(r, language, side)
        speech = say(text, r.choice(speakers)) * r.uniform(0.7, 1.3)
        segments.append(
            {
                "start_s": round(length / SAMPLE_RATE, 3),
                "end_s": round((length + len(speech)) / SAMPLE_RATE, 3),
                "text": text,
                "language": language,
            }
        )
        pause = np.zeros(int(r.uniform(0.2, 1.1) * SAMPLE_RATE), np.float32)
        parts += [speech, pause]
        length += len(speech) + len(pause)
    return np.concatenate(parts), segments, speakers


def corpus(folder: Path, *, hours: float, seed: int, voices: list[str], side: str = "train") -> Path:
    """Write `hours` of recordings and their manifest into `folder`; returns the manifest's path. Same seed, same corpus."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    r = random.Random(seed)
    lines, babble, total = [], [], 0.0
    while total < hours * 3600:
        language = ("zh", "en")[len(lines) % 2]
        seconds, condition = r.uniform(10, 24), Condition.draw(r)
        if r.random() < NONSPEECH_SHARE:
            audio, segments, speakers, condition = nonspeech(seconds, r), [], [], Condition()
        else:
            audio, segments, speakers = recording(r, voices, language, side, seconds)
            if len(babble) < 50:
                babble.append(audio)
            else:
                babble[r.randrange(50)] = audio
            audio = condition.apply(audio, np.random.default_rng(r.getrandbits(32)), babble)
        audio = audio * 10 ** r.uniform(-0.9, 0.25) if np.abs(audio).max() < 0.55 else audio * 10 ** r.uniform(-0.9, 0)
        name = f"{len(lines):06d}.wav"
        soundfile.write(folder / name, audio, SAMPLE_RATE, subtype="PCM_16")
        duration = len(audio) / SAMPLE_RATE
        total += duration
        lines.append(
            {
                "path": name,
                "language": language,
                "duration_s": round(duration, 3),
                "voice": "+".join(speaker.voice for speaker in speakers),
                "snr_db": condition.snr_db,
                "segments": segments,
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return manifest


def read_manifest(path: Path) -> Iterator[dict[str, object]]:
    """The lines of a manifest, each with `file`, the absolute path of its audio."""
    for line in path.read_text("utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            yield row | {"file": path.parent / row["path"]}
