"""A hand-off directory of clips that can be learnt in a minute: every letter is a tone, the speaker's octave is the
gender.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from model_training.data.features import Cmvn
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import Domain, HandoffRecord, Split
from operators.index import Row, write_index
from operators.shard import feature_frames
from tests.support.corpus import RATE, encoded, write_tar

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
