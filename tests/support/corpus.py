"""Small corpora and models for tests of training: tars of synthetic clips, an index of them, a hand-off to learn in a
minute, checkpoints with random weights.

In the hand-off every letter is a tone, and the speaker's octave is the gender.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from model_training import config
from model_training.data.features import Cmvn
from model_training.data.index import Index
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.training import checkpoint
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import Domain, HandoffRecord, Split
from operators.index import Row, write_index
from operators.shard import feature_frames

RATE = 16_000


def noise(samples: int, scale: float = 1000.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, samples).astype(np.int16)


def voice(samples: int, pitch: float = 140.0, seed: int = 0) -> np.ndarray:
    """Harmonics that come and go, over faint noise: enough like speech for features to differ from frame to frame."""
    time = np.arange(samples) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 3.1 * time), 0, None)
    return (4000 * tone * envelope + np.random.default_rng(seed).normal(0, 20, samples)).astype(np.int16)


def encoded(pcm: np.ndarray, format: str = "FLAC", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, pcm, rate, format=format, subtype=subtype)
    return written.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> dict[str, tuple[int, int]]:
    """A plain tar; the place of every member in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}


@dataclass(frozen=True)
class Ids:
    ctc: list[int]
    inputs: list[int]
    targets: list[int]
    content: tuple[int, int]
    events_known: bool = True


def targets(row: Row) -> Ids:
    """One id per character, as a tokenizer of characters would: 10 and up; a character outside ASCII is unknown (1)."""
    ids = [ord(letter) - 87 if letter.isascii() else 1 for letter in row.label]
    return Ids(ctc=ids, inputs=[2, *ids], targets=[*ids, 3], content=(0, len(ids)))


def make_rows(folder: Path, count: int, *, seconds: tuple[float, float] = (0.5, 2.0), seed: int = 0) -> list[Row]:
    """`count` voices of two domains in two FLAC tars under `folder`, and their rows."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for tar, domain in enumerate(("talk", "news")):
        clips = [voice(int(RATE * random.uniform(*seconds)), 100 + 7 * n, n) for n in range(tar, count, 2)]
        names = [f"{domain}-{n:04d}" for n in range(len(clips))]
        path = folder / f"{domain}.tar"
        places = write_tar(path, [(f"{name}.flac", encoded(pcm)) for name, pcm in zip(names, clips, strict=True)])
        for name, pcm in zip(names, clips, strict=True):
            offset, size = places[f"{name}.flac"]
            rows.append(
                Row(
                    clip_id=name,
                    shard=str(path),
                    offset=offset,
                    size=size,
                    frames=feature_frames(len(pcm)),
                    label_tokens=3,
                    label="abc",
                    domain=domain,
                    language="en",
                    recording_id=name,
                )
            )
    return rows


def make_index(folder: Path, rows: Sequence[Row]) -> Index:
    write_index(folder / "train.arrow", rows)
    return Index.open(str(folder / "train.arrow"))


def at(row: Row, **changes: object) -> Row:
    """`row` with some columns changed."""
    return replace(row, **changes)  # type: ignore[arg-type]


LETTERS = "abcdefgh"
LETTER_SECONDS = 0.16


def beeps(word: str, octave: float, random: np.random.Generator) -> np.ndarray:
    """int16 at 16 kHz: one tone per letter, pauses of 40 ms, a little noise."""
    time = np.arange(int(RATE * LETTER_SECONDS)) / RATE
    parts = [np.zeros(RATE // 10)]
    for letter in word:
        pitch = octave * 300 * 2 ** (LETTERS.index(letter) / 4)
        parts += [np.sin(2 * np.pi * pitch * time) * np.hanning(len(time)), np.zeros(RATE // 25)]
    sound = np.concatenate([*parts, np.zeros(RATE // 10)])
    return (8000 * sound + random.normal(0, 30, len(sound))).astype(np.int16)


def make_handoff(folder: Path, *, train: int = 64, dev: int = 8, seed: int = 0, longest: int = 6) -> Path:
    """`train` and `dev` clips of `longest` letters at most, in two domains."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    sums = MelSums()
    tokenizer = Tokenizer.train(LETTERS.upper(), Scheme(events=("dog",)), bpe_size=len(LETTERS) + 1)
    splits: dict[str, Split] = {}
    clips = {"words": 0, "bells": 0}
    for split, count in (("train", train), ("dev", dev)):
        made = []
        for number in range(count):
            word = "".join(random.choice(list(LETTERS), random.integers(2, longest + 1)))
            gender = ("male", "female")[number % 2]
            made.append((f"{split}-{number:04d}", word, gender, beeps(word, 1 + number % 2, random)))
        path = folder / f"{split}.tar"
        places = write_tar(path, [(f"{name}.flac", encoded(pcm)) for name, _, _, pcm in made])
        rows = []
        for number, (name, word, gender, pcm) in enumerate(made):
            offset, size = places[f"{name}.flac"]
            domain = ("words", "bells")[number % 2]
            frames, label = feature_frames(len(pcm)), word.upper()
            more = {"language": "en", "gender": gender, "recording_id": name}
            rows.append(
                Row(
                    clip_id=name,
                    shard=str(path),
                    offset=offset,
                    size=size,
                    frames=frames,
                    label_tokens=len(word),
                    label=label,
                    domain=domain,
                    **more,
                )
            )
            if split == "train":
                sums = sums.add(filterbank(pcm))
                clips[domain] += 1
        write_index(folder / f"{split}.arrow", rows)
        splits[split] = Split(index=f"{split}.arrow", clips=count)
    (folder / "cmvn.json").write_text(json.dumps(Cmvn.of(sums).to_dict(sums.frames)))
    tokenizer.save(folder / "tokenizer")
    record = HandoffRecord(
        seed=seed,
        splits=splits,
        domains={name: Domain(clips=number) for name, number in clips.items()},
        attributes={"language": {"en": train}, "gender": {"male": train // 2, "female": train // 2}},
    )
    (folder / "handoff.json").write_text(record.to_json())
    return folder


SMALL = [
    "model.d_model=32",
    "model.heads=4",
    "model.d_ff=64",
    "model.encoder_layers=2",
    "model.decoder_layers=2",
    "model.kernel=5",
]


def make_checkpoint(folder: Path, *settings: str, ema: bool = False) -> Path:
    """A checkpoint of a training run in `folder`, its weights drawn at random."""
    chosen = config.load(None, [*SMALL, *settings])
    tokenizer = Tokenizer.train(["HELLO WORLD 你好世界"], Scheme(events=("dog", "rain")), bpe_size=20)
    torch.manual_seed(0)
    model = SpeechModel(chosen.model, len(tokenizer))
    for name, tensor in model.state_dict().items():
        if "selection_bias" in name:  # zero until training moves it
            torch.nn.init.normal_(tensor, std=0.05)
        if "content_bias" in name or "position_bias" in name:
            torch.nn.init.normal_(tensor, std=0.3)
    cmvn = Cmvn(np.full(80, 12.0, np.float32), np.full(80, 0.4, np.float32))
    record = {
        "settings": config.to_dict(chosen),
        "vocabulary": len(tokenizer),
        "tokenizer": tokenizer.fingerprint,
        "data": "0",
        "handoff": "handoff",
    }
    texts = {"tokenizer.json": tokenizer.to_bytes().decode(), "cmvn.json": json.dumps(cmvn.to_dict(1))}
    weights = model.state_dict()
    averaged = {name: tensor * 0.5 for name, tensor in weights.items()} if ema else None
    return checkpoint.save(folder, 7, weights, {}, record, texts, ema=averaged)


def full_model(path: Path) -> SpeechModel:
    found = checkpoint.open_checkpoint(path)
    model = SpeechModel(config.restore(found.record["settings"]).model, int(found.record["vocabulary"]))
    checkpoint.load_weights(model, found.weights(), found.path)
    return model.eval()


@dataclass(frozen=True)
class Clip:
    """What evaluation reads of a clip's row, as far as a test says it."""

    clip_id: str = "clip"
    label: str | None = "hello 你好"
    language: str | None = None
    age: str | None = None
    gender: str | None = None
    emotion: str | None = None
    events: tuple[str, ...] | None = None
    frames: int = 100
    recording_id: str = ""
    speaker: str | None = None
    shard: str = "x.tar"
    offset: int = 0
    size: int = 0
    start_sample: int | None = None
    end_sample: int | None = None


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, for sums that do not depend on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
