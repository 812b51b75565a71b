"""Make a transcribed speech corpus out of nothing: WAV files of 10 to 28 s and a manifest in the shape of a truth file.

    (seed, draw) ──grammar──> sentences ──voices──> speech ──acoustics──> NAME.wav + one line of manifest.jsonl

A recording has one speaker (now and then two), one language, pauses between sentences and one acoustic condition.
A manifest line: path, language, duration_s, voice, snr_db (null: clean), sound (what is heard beside the speech or in
its place), segments[{start_s, end_s, text, language}].
The trainers read any manifest of this shape, so real transcribed audio can take the place of this corpus. Of a line
they need path, language and segments; `read_manifest` says what is wrong with the others.
"""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.starter_engines import acoustics
from examples.starter_engines.grammar import sentence
from examples.starter_engines.voices import SAMPLE_RATE, Speaker, say
from operators.audio.decode import AudioError, decode
from operators.errors import UserError

NONSPEECH_SHARE = 0.08
MIN_SEGMENT_SECONDS, MAX_SEGMENT_SECONDS = 0.1, 30.0
"""What is longer than Whisper's window would be cut, and its text not; what is shorter has no frame to learn from."""
END_SLACK_SECONDS = 0.5
"""how far a segment may reach past the end of its audio: lengths of codecs and of transcripts are rounded"""


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
    return sound(seconds, r)[1]


def sound(seconds: float, r: random.Random) -> tuple[str, np.ndarray]:
    """Return a sound that is no speech: its kind (one of `acoustics.NOISES`, or silence), and float32 [samples]."""
    g = np.random.default_rng(r.getrandbits(32))
    samples = int(seconds * SAMPLE_RATE)
    kind = r.choice([*acoustics.NOISES, "music", "silence"])
    if kind == "silence":
        return kind, (g.standard_normal(samples) * 10 ** r.uniform(-5, -3)).astype(np.float32)
    out = acoustics.noise(g, kind, samples)
    return kind, (out * r.uniform(0.02, 0.5) / np.abs(out).max()).astype(np.float32)


def recording(
    r: random.Random, voices: list[str], language: str, side: str, seconds: float, *, pace: tuple[int, int] = (135, 215)
) -> tuple[np.ndarray, list[dict[str, object]], list[Speaker]]:
    """Clean speech of about `seconds` with pauses: float32 [samples], its segments, its speakers (two in one of
    eight).
    """
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
    """Write `hours` of recordings and their manifest into `folder`; returns the manifest's path. Same seed, same
    corpus.
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    r = random.Random(seed)
    lines, babble, total = list[dict[str, Any]](), list[np.ndarray](), 0.0
    while total < hours * 3600:
        language = ("zh", "en")[len(lines) % 2]
        seconds, condition = r.uniform(10, 24), Condition.draw(r)
        if r.random() < NONSPEECH_SHARE:
            kind, audio = sound(seconds, r)
            segments, speakers, condition = [], [], Condition()
        else:
            audio, segments, speakers = recording(r, voices, language, side, seconds)
            if len(babble) < 50:
                babble.append(audio)
            else:
                babble[r.randrange(50)] = audio
            audio, kind = condition.apply(audio, np.random.default_rng(r.getrandbits(32)), babble), condition.noise
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
                "sound": kind,
                "segments": segments,
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return manifest


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The lines of a manifest, segments by start, each line with `file`, the path of its audio.

    Raises UserError naming the line that is wrong.
    """
    rows = []
    try:
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if line.strip():
                try:
                    rows.append(_row(json.loads(line), path.parent))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}:{number}: {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text") from None
    if not any(row["segments"] for row in rows):
        raise UserError(f"{path} holds no speech: expected one JSON object per recording, with its segments")
    return rows


def _row(line: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(line, dict):
        raise ValueError("expected a JSON object")
    for key in ("path", "language", "segments"):
        if key not in line:
            raise ValueError(f"no {key}")
    if not isinstance(line["path"], str) or not (folder / line["path"]).is_file():
        raise ValueError(f"no audio at {line['path']!r} (path is relative to the manifest)")
    if line["language"] not in ("zh", "en"):
        raise ValueError(f"language is zh or en, not {line['language']!r}")
    if not isinstance(line["segments"], list):
        raise ValueError("segments is no list")
    if line.get("snr_db") is not None:
        _number(line, "snr_db")
    segments = sorted((_segment(segment) for segment in line["segments"]), key=lambda segment: segment["start_s"])
    return line | {"file": folder / line["path"], "segments": segments}


def _segment(segment: Any) -> dict[str, Any]:
    if not isinstance(segment, dict):
        raise ValueError("a segment is a JSON object")
    start, end = _number(segment, "start_s"), _number(segment, "end_s")
    if not 0 <= start < end:
        raise ValueError(f"a segment runs from start_s to end_s, in seconds, not from {start:g} to {end:g}")
    if not MIN_SEGMENT_SECONDS <= end - start <= MAX_SEGMENT_SECONDS:
        limits = f"{MIN_SEGMENT_SECONDS:g} to {MAX_SEGMENT_SECONDS:g} s"
        raise ValueError(f"the segment at {start:g} s is {end - start:g} s long: expected {limits}")
    text = segment.get("text")
    if not isinstance(text, str) or not re.search("[一-鿿a-z]", text):
        raise ValueError(f"the segment at {start:g} s has no text")
    strange = re.search("[^一-鿿a-z' ]", text)
    if strange:
        raise ValueError(
            f"the text of the segment at {start:g} s has {strange[0]!r}: spoken form is Han characters, a-z, ' "
            "and spaces only"
        )
    return segment


def _number(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    try:
        if type(value) in (int, float) and math.isfinite(value):  # not bool
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{key} is no number" if key in record else f"a segment has no {key}")


def read_audio(row: dict[str, Any]) -> np.ndarray:
    """The audio of a manifest's line as the pipeline reads it: float32 [samples] at 16 kHz. Raises UserError naming the
    file.
    """
    try:
        pcm = decode(str(row["file"])).pcm
    except AudioError as error:
        raise UserError(f"{row['file']} cannot be read: {error}") from error
    seconds = len(pcm) / SAMPLE_RATE
    for segment in row["segments"]:
        start, end = segment["start_s"], segment["end_s"]
        if end > seconds + END_SLACK_SECONDS or start > seconds - MIN_SEGMENT_SECONDS:
            raise UserError(f"{row['file']} is {seconds:.2f} s long, a segment of it runs from {start:g} to {end:g} s")
    return pcm.astype(np.float32) / 32768
