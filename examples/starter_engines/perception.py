"""A small elastic model for speech perception: its hand-off from a corpus, and its training by model_training itself.

    manifest of a corpus ──cut──> clips, sounds ──tars──model_training index──> WORK/perception/easy, WORK/perception/all
    easy: single sentences, clean ──train──> weights ──train.init_from──> all: runs of sentences, noise, sounds ──train──>

Clean single sentences come first: on them CTC finds its alignment within some hundred steps. Labels beside the text are
the language, the gender of the voice, and for what is no speech its sound, where the scheme has a name for it.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.starter_engines.features import join
from examples.starter_engines.synthesize import SAMPLE_RATE, read_audio, read_manifest
from examples.starter_engines.voices import FEMALE

SOUNDS = {"music": "music", "street": "engine"}
"""Sounds of the recipe that are events of the model's scheme."""
PLAIN = ("white", "pink", "brown", "silence")
"""Sounds that are no event: put beside speech, so that the model learns to write nothing for them."""
BESIDE_SHARE = 0.15
MARGIN_SECONDS = 0.6
SOUND_SECONDS = (2.0, 8.0)
BPE_SIZE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """A cutting says which clips are cut of a corpus."""

    max_seconds: float
    """of a run of sentences, whose length is drawn up to it; 0: single sentences"""
    min_snr_db: float = -99.0
    sounds: bool = True


EASY = Cutting(max_seconds=0, min_snr_db=20, sounds=False)
ALL = Cutting(max_seconds=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip is audio and what a hand-off says of it, as the JSON of a tar's sample has it."""

    pcm: np.ndarray
    """int16 [samples]"""
    about: dict[str, Any]


def clips(manifest: Path, cutting: Cutting, seed: int) -> Iterator[Clip]:
    """Yield the clips of a corpus, in its order. Same seed, same clips. Raises UserError for a manifest that is none."""
    plain: list[np.ndarray] = []
    for number, row in enumerate(read_manifest(manifest)):
        r = random.Random(f"{seed}/{number}")
        if row.get("snr_db") is not None and row["snr_db"] < cutting.min_snr_db:
            continue
        audio = read_audio(row)
        about = {"recording_id": row["path"], "domain": "speech"}
        if not row["segments"]:
            if row.get("sound") in PLAIN:
                plain = [*plain[-20:], audio]
            elif row.get("sound") in SOUNDS and cutting.sounds:
                for start, end in _stretches(len(audio), r):
                    yield Clip(
                        pcm=_int16(audio[start:end]),
                        about=about | {"domain": "sounds", "text": "", "events": [SOUNDS[row["sound"]]]},
                    )
            continue
        about |= {"language": row["language"]}
        voices = [voice for voice in str(row.get("voice") or "").split("+") if voice]
        genders = {"female" if voice in FEMALE else "male" for voice in voices}
        if len(genders) == 1:
            about["gender"] = genders.pop()
        if row.get("sound") not in SOUNDS:
            about["events"] = []
        for start, end, text in runs(row["segments"], len(audio) / SAMPLE_RATE, cutting.max_seconds, r):
            samples = audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
            if cutting.sounds and plain and r.random() < BESIDE_SHARE:
                other = r.choice(plain)
                other = other[: int(r.uniform(1, 4) * SAMPLE_RATE)]
                samples = np.concatenate([samples, other] if r.random() < 0.5 else [other, samples])
            yield Clip(pcm=_int16(samples), about=about | {"text": text})


def runs(
    segments: list[dict[str, Any]], seconds: float, max_seconds: float, r: random.Random
) -> Iterator[tuple[float, float, str]]:
    """Yield (start, end, text) of runs of whole sentences, in seconds, with a part of the pause at either end."""
    first = 0
    while first < len(segments):
        limit = r.uniform(0, max_seconds)
        last = first
        while last + 1 < len(segments) and segments[last + 1]["end_s"] - segments[first]["start_s"] < limit:
            last += 1
        before = segments[first - 1]["end_s"] if first else 0.0
        after = segments[last + 1]["start_s"] if last + 1 < len(segments) else seconds
        start = segments[first]["start_s"] - r.uniform(0, min(MARGIN_SECONDS, segments[first]["start_s"] - before))
        end = segments[last]["end_s"] + r.uniform(0, max(0.0, min(MARGIN_SECONDS, after - segments[last]["end_s"])))
        yield max(0.0, start), min(end, seconds), join([segment["text"] for segment in segments[first : last + 1]])
        first = last + 1


def _stretches(samples: int, r: random.Random) -> Iterator[tuple[int, int]]:
    at = 0
    while samples - at > SOUND_SECONDS[0] * SAMPLE_RATE:
        length = int(r.uniform(*SOUND_SECONDS) * SAMPLE_RATE)
        yield at, min(samples, at + length)
        at += length


def _int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def write_tar(path: Path, made: Iterator[Clip]) -> list[tuple[str, str]]:
    """Write clips as samples of a WebDataset tar, FLAC and JSON, and return the (text, language) of each."""
    import soundfile

    texts = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, clip in enumerate(made):
            audio = io.BytesIO()
            soundfile.write(audio, clip.pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            for suffix, data in (("flac", audio.getvalue()), ("json", json.dumps(clip.about).encode())):
                member = tarfile.TarInfo(f"{number:07d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            texts.append((clip.about["text"], clip.about.get("language", "")))
    return texts


def handoffs(manifest: Path, folder: Path, seed: int) -> dict[str, Path]:
    """Make the two hand-offs of a corpus in `folder`, of one vocabulary. Raises UserError."""
    from model_training.data.plain_tars import IndexSettings, index_from_tars
    from model_training.text.tokenizer import Tokenizer
    from model_training.text.tokens import Scheme

    made, tokenizer = {}, None
    for name, cutting in (("all", ALL), ("easy", EASY)):
        tar, made[name] = folder / "tars" / name / "clips.tar", folder / name
        texts = write_tar(tar, clips(manifest, cutting, seed))
        if tokenizer is None:
            labels, languages = zip(*texts, strict=True)
            tokenizer = Tokenizer.train(labels, Scheme(), languages=languages, bpe_size=BPE_SIZE)
        made[name].mkdir(parents=True, exist_ok=True)
        index_from_tars(
            [str(tar)],
            made[name],
            IndexSettings(dev_share=0.01, test_share=0.0, seed=seed),
            build_tokenizer=lambda rows, place, known=tokenizer: known.save(place),
        )
    return made
