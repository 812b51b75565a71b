"""Log-mel features of a whole corpus in one memory map, and the training examples cut from it.

    manifest ──audio──frontend──> features.f16 [frames, 80] + index.json ──Corpus.examples(r, max_seconds)──> Example
    Example: a run of whole sentences of one recording, frames [start, end), its text and language; silence has no text

Features are kept before any normalisation that looks at a whole clip, so that a run of sentences cut from a recording
has the features that the same clip would have by itself (but for a frame at either end).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from examples.starter_engines.synthesize import MAX_SEGMENT_SECONDS, read_audio, read_manifest
from operators.errors import UserError

FRAMES_PER_SECOND = 100
BINS = 80
NONSPEECH_FRAMES = 600
"""of a recording without speech give one example: often enough to learn that there is nothing to write"""
MARGIN_FRAMES = 60
"""how much pause an example may keep at either end: what a voice activity detector leaves."""

Frontend = Callable[[np.ndarray], np.ndarray]
"""float32 [samples] at 16 kHz -> float32 [frames, 80]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An Example is a run of sentences, frames [start, end) of a corpus."""

    start: int
    end: int
    text: str
    language: str
    sentences: tuple[tuple[int, int, str], ...] = ()
    """each with its frames in the example, where it is known when they are said."""

    @property
    def frames(self) -> int:
        return self.end - self.start

    def cut(self, features: np.ndarray) -> np.ndarray:
        """Return its part of a corpus's features: float32 [frames, 80]."""
        return np.asarray(features[self.start : self.end], np.float32)


class Timed(Protocol):
    """A Timed has a length and a place in its corpus."""

    @property
    def frames(self) -> int: ...
    @property
    def start(self) -> int: ...


AnyExample = TypeVar("AnyExample", bound=Timed)


def whisper_frontend(samples: np.ndarray) -> np.ndarray:
    """whisperX's log10 mel energies before its clamp to 8 below the clip's loudest: float32 [frames, 80], at least
    -10.
    """
    import torch
    from whisperx.audio import HOP_LENGTH, N_FFT, mel_filters

    audio = torch.from_numpy(samples)
    spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True)
    mel = mel_filters("cpu", BINS) @ (spectrum[..., :-1].abs() ** 2)
    return torch.clamp(mel, min=1e-10).log10().T.contiguous().numpy()


def paraformer_frontend(samples: np.ndarray) -> np.ndarray:
    """FunASR's log filterbank before frame stacking and normalisation: float32 [frames, 80]. No dither."""
    import torch
    from funasr.frontends.wav_frontend import WavFrontend

    frontend = WavFrontend(dither=0.0)
    audio = torch.from_numpy(samples)[None]
    features, _ = frontend(audio, torch.tensor([audio.shape[1]]))
    return features[0].numpy()


def extract(manifest: Path, folder: Path, frontend: Frontend) -> None:
    """Write the features of every recording of `manifest` and their index into `folder`. Raises UserError."""
    rows = read_manifest(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    start = 0
    with (folder / "features.f16").open("wb") as out:
        for row in rows:
            features = frontend(read_audio(row)).astype(np.float16)
            out.write(features.tobytes())
            index.append(
                {
                    "start": start,
                    "frames": len(features),
                    "language": row["language"],
                    "snr_db": row.get("snr_db"),
                    "sentences": [
                        [
                            min(len(features), round(segment["start_s"] * FRAMES_PER_SECOND)),
                            min(len(features), round(segment["end_s"] * FRAMES_PER_SECOND)),
                            segment["text"],
                        ]
                        for segment in row["segments"]
                    ],
                }
            )
            start += len(features)
    (folder / "index.json").write_text(json.dumps(index, ensure_ascii=False), "utf-8")  # last: its presence says done


class Corpus:
    """Features and index of `extract`, opened for reading."""

    def __init__(self, folder: Path) -> None:
        self.index: list[dict[str, Any]] = json.loads((folder / "index.json").read_text("utf-8"))
        self.features = np.memmap(folder / "features.f16", np.float16, "r").reshape(-1, BINS)

    @property
    def hours(self) -> float:
        return sum(row["frames"] for row in self.index) / FRAMES_PER_SECOND / 3600

    def texts(self) -> list[str]:
        return [text for row in self.index for _, _, text in row["sentences"]]

    def texts_with_language(self) -> list[tuple[str, str]]:
        return [(text, row["language"]) for row in self.index for _, _, text in row["sentences"]]

    def examples(self, r: random.Random, max_seconds: float, min_snr_db: float = -99.0) -> list[Example]:
        """Every sentence once, in runs of up to a length drawn for each run (single sentences when `max_seconds` is 0),
        and stretches without speech."""
        out: list[Example] = []
        for row in self.index:
            if row["snr_db"] is not None and row["snr_db"] < min_snr_db:
                continue
            base, sentences = row["start"], row["sentences"]
            if not sentences:
                for _ in range(max(1, row["frames"] // NONSPEECH_FRAMES)):
                    seconds = min(row["frames"] / FRAMES_PER_SECOND, r.uniform(2, max(6.0, max_seconds)))
                    frames = int(seconds * FRAMES_PER_SECOND)
                    at = base + r.randint(0, row["frames"] - frames)
                    out.append(Example(start=at, end=at + frames, text="", language=row["language"]))
                continue
            first = 0
            while first < len(sentences):
                limit = r.uniform(2, max(2.0, max_seconds)) * FRAMES_PER_SECOND
                last = first
                while (
                    last + 1 < len(sentences)
                    and sentences[last + 1][1] - sentences[first][0] < limit
                    and max_seconds > 0
                ):
                    last += 1
                before = sentences[first - 1][1] if first else 0
                after = sentences[last + 1][0] if last + 1 < len(sentences) else row["frames"]
                # What is as long as Whisper's window has no room for a pause in front.
                room = max(0, int(MAX_SEGMENT_SECONDS * FRAMES_PER_SECOND) - (sentences[last][1] - sentences[first][0]))
                start = sentences[first][0] - r.randint(
                    0, min(MARGIN_FRAMES, room, max(0, sentences[first][0] - before))
                )
                end = sentences[last][1] + r.randint(0, min(MARGIN_FRAMES, max(0, after - sentences[last][1])))
                run = [(a - start, b - start, text) for a, b, text in sentences[first : last + 1]]
                out.append(
                    Example(
                        start=base + start,
                        end=base + end,
                        text=join([text for _, _, text in run]),
                        language=row["language"],
                        sentences=tuple(run),
                    )
                )
                first = last + 1
        return out


def join(sentences: list[str]) -> str:
    """One transcript of sentences said in a row: a space wherever Latin letters touch anything."""
    text = " ".join(sentences)
    return re.sub(r"(?<=[一-鿿]) (?=[一-鿿])", "", text)


def batches(
    corpus: Corpus, r: random.Random, max_seconds: float, frames_per_batch: int, min_snr_db: float = -99.0
) -> Iterator[list[Example]]:
    """Without end: passes over the corpus, each cut again, in batches of like length and bounded padded size, shuffled.

    Raises UserError when no speech is as clean as `min_snr_db`.
    """
    while True:
        examples = corpus.examples(r, max_seconds, min_snr_db)
        if not any(example.text for example in examples):
            raise UserError(f"the corpus has no speech at {min_snr_db:g} dB or above, where training begins")
        yield from alike(examples, r, frames_per_batch)


def alike(examples: Sequence[AnyExample], r: random.Random, frames_per_batch: int) -> list[list[AnyExample]]:
    """Return batches of like length and bounded padded size, shuffled."""
    grouped: list[list[AnyExample]] = [[]]
    for example in sorted(examples, key=lambda e: (e.frames + r.uniform(-20, 20), e.start)):
        if grouped[-1] and (len(grouped[-1]) + 1) * example.frames > frames_per_batch:
            grouped.append([])
        grouped[-1].append(example)
    r.shuffle(grouped)
    return grouped
