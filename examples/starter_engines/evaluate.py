"""Measure the starter engines as they are shipped, through unmodified whisperX and FunASR: CER and WER by condition.

    held-out sentences × {zh, en} × {seen, unseen voices} × {clean, 20, 10, 5 dB} ──clips of 2 to 12 s──> both engines
                                                                       └──> models/measured.json, one row per cell

    python -m examples.starter_engines.evaluate
    python -m examples.starter_engines.evaluate --models MODELS --manifest dev.jsonl      on segments of your own audio

CER (zh) is over Han characters and Latin words as one token each, WER (en) over words. A cell has the same speech in
every noise condition; segments of a manifest are heard as they are, in a cell for each language. Also measured:
identified language, text written for clips without speech, how often the two engines make the same mistake, and what
the Whisper hears when clips share a window (of other sentences).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.starter_engines import acoustics
from examples.starter_engines.features import join
from examples.starter_engines.sharing.held_out import held_out
from examples.starter_engines.synthesize import nonspeech, read_audio, read_manifest, recording
from examples.starter_engines.voices import SAMPLE_RATE, UNSEEN, training_voices
from operators.errors import UserError

MODELS = Path(__file__).parent / "models"
CLIPS = 40
SNRS = (None, 20, 10, 5)
SEED, SHARING_SEED = 31, 42
RECORDINGS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    audio: np.ndarray
    text: str
    language: str
    voices: str
    snr_db: int | None


def tokens(text: str) -> list[str]:
    """What errors are counted over: Han characters and Latin words, lower case."""
    return re.findall(r"[一-鿿]|[a-z']+", text.lower())


def errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Edit distance over tokens, and the number of reference tokens."""
    from rapidfuzz.distance import Levenshtein

    wanted = tokens(reference)
    return Levenshtein.distance(wanted, tokens(hypothesis)), len(wanted)


def held_out_clips(count: int, sentences: int, seed: int = SEED) -> list[Clip]:
    """`count` clips for each language and kind of voice, of up to about `sentences` held-out sentences, in every
    noise.
    """
    seen = [voice for voice in training_voices(0) if voice in training_voices(1)]
    clips = []
    for language in ("zh", "en"):
        for kind, voices in (("seen", seen), ("unseen", list(UNSEEN))):
            r = random.Random(f"{seed}/{language}/{kind}")
            for index in range(count):
                speech, segments, _ = recording(r, voices, language, "test", r.uniform(0.5, 3 * sentences - 2))
                text = join([str(segment["text"]) for segment in segments])
                noise = r.choice(acoustics.NOISES)
                for snr_db in SNRS:
                    g = np.random.default_rng((seed, index))
                    audio = (
                        speech
                        if snr_db is None
                        else acoustics.mix(speech, acoustics.noise(g, noise, len(speech)), snr_db)
                    )
                    clips.append(Clip(audio=audio, text=text, language=language, voices=kind, snr_db=snr_db))
    return clips


def given_clips(manifest: Path, count: int, seed: int = SEED) -> list[Clip]:
    """`count` segments of a manifest for each language, or all where there are fewer. Raises UserError."""
    listed = [(row, segment) for row in read_manifest(manifest) for segment in row["segments"]]
    clips = []
    for language in ("zh", "en"):
        spoken = [(row, segment) for row, segment in listed if row["language"] == language]
        for row, segment in random.Random(f"{seed}/{language}").sample(spoken, min(count, len(spoken))):
            first, last = (int(segment[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
            audio = read_audio(row)[first:last]
            clips.append(Clip(audio=audio, text=segment["text"], language=language, voices="given", snr_db=None))
    return clips


def silences(count: int, seed: int = SEED) -> list[np.ndarray]:
    r = random.Random(f"{seed}/nonspeech")
    return [nonspeech(r.uniform(2, 12), r) for _ in range(count)]


def hear_whisper(folder: Path, audio: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
    """Transcripts by `whisperx.load_model(folder)`, in order, each clip decoded in its language."""
    import whisperx
    from faster_whisper.tokenizer import Tokenizer

    pipeline = whisperx.load_model(str(folder), "cpu", compute_type="int8", threads=1, vad_model=object())
    texts = [""] * len(audio)
    for language in sorted(set(languages)):
        chosen = sorted((i for i in range(len(audio)) if languages[i] == language), key=lambda i: -len(audio[i]))
        pipeline.tokenizer = Tokenizer(pipeline.model.hf_tokenizer, True, task="transcribe", language=language)
        heard = pipeline(({"inputs": audio[i].astype(np.float32)} for i in chosen), batch_size=8, num_workers=0)
        for index, result in zip(chosen, heard, strict=True):
            text = result["text"]
            texts[index] = (text[0] if isinstance(text, list) else text).strip()
    return texts


def hear_languages(folder: Path, audio: Sequence[np.ndarray]) -> list[str]:
    """The language whisperX identifies for each clip."""
    import whisperx

    pipeline = whisperx.load_model(str(folder), "cpu", compute_type="int8", threads=1, vad_model=object())
    return [pipeline.detect_language(clip.astype(np.float32)) for clip in audio]


def hear_paraformer(folder: Path, audio: Sequence[np.ndarray]) -> list[str]:
    """Transcripts by `funasr.AutoModel(folder)`, in order."""
    from funasr import AutoModel

    model = AutoModel(model=str(folder), disable_update=True, disable_pbar=True, log_level="ERROR", ncpu=1)
    texts = []
    for clip in audio:
        results = model.generate(input=[clip.astype(np.float32)], batch_size=1)
        texts.append(results[0]["text"] if results else "")
    return texts


def measure(models: Path, clips: list[Clip], quiet: list[np.ndarray]) -> dict[str, object]:
    """What both engines get wrong of `clips`, a cell for each language, kind of voice and noise, and write for `quiet`
    ones.
    """
    audio = [clip.audio for clip in clips]
    heard = {
        "whisper": hear_whisper(models / "whisper-starter", audio, [clip.language for clip in clips]),
        "paraformer": hear_paraformer(models / "paraformer-starter", audio),
    }
    cells = []
    for cell in dict.fromkeys((clip.language, clip.voices, clip.snr_db) for clip in clips):
        chosen = [i for i, clip in enumerate(clips) if (clip.language, clip.voices, clip.snr_db) == cell]
        row: dict[str, object] = dict(zip(("language", "voices", "snr_db"), cell, strict=True)) | {"clips": len(chosen)}
        for engine, texts in heard.items():
            counts = [errors(clips[i].text, texts[i]) for i in chosen]
            row["tokens"] = sum(n for _, n in counts)
            row[engine] = round(100 * sum(e for e, _ in counts) / sum(n for _, n in counts), 2)
        wrong = [[tokens(clips[i].text) != tokens(texts[i]) for i in chosen] for texts in heard.values()]
        row["clips_wrong"] = {engine: sum(flags) for engine, flags in zip(heard, wrong, strict=True)}
        row["clips_both_wrong"] = sum(a and b for a, b in zip(*wrong, strict=True))
        row["clips_same_mistake"] = sum(
            a and tokens(heard["whisper"][i]) == tokens(heard["paraformer"][i])
            for i, a in zip(chosen, wrong[0], strict=True)
        )
        cells.append(row)
    clean = [i for i, clip in enumerate(clips) if clip.snr_db is None]
    named = hear_languages(models / "whisper-starter", [audio[i] for i in clean])
    return {
        "cells": cells,
        "language_identified_percent": round(
            100 * float(np.mean([name == clips[i].language for name, i in zip(named, clean, strict=True)])), 1
        ),
        "nonspeech_clips": len(quiet),
        "nonspeech_clips_with_text": {
            "whisper": sum(bool(text) for text in hear_whisper(models / "whisper-starter", quiet, ["zh"] * len(quiet))),
            "paraformer": sum(bool(text) for text in hear_paraformer(models / "paraformer-starter", quiet)),
        },
    }


def measure_sharing(folder: Path, recordings: int = RECORDINGS) -> dict[str, float]:
    """Return what the pipeline's own engine gets wrong of clips that share windows, and of the same clips alone, in %.

    recordings: minutes of held-out sentences for each language.
    """
    from operators.asr.whisperx import WhisperX

    sentences = held_out(SHARING_SEED, recordings)
    clips, languages = [one.audio for one in sentences], [one.language for one in sentences]
    engine = WhisperX(str(folder), compute_type="int8")
    shared = engine.transcribe(clips, languages, [one.recording for one in sentences])
    wrong = {}
    for name, heard in (("alone", engine.transcribe(clips, languages)), ("shared", shared)):
        pairs = [errors(one.text, found.text) for one, found in zip(sentences, heard, strict=True)]
        wrong[name] = round(100 * sum(mistakes for mistakes, _ in pairs) / sum(total for _, total in pairs), 2)
    return {
        "clips": len(clips),
        "seconds": round(sum(map(len, clips)) / SAMPLE_RATE),
        "windows": len({found.window for found in shared}),
        "heard_again": sum(found.retaken for found in shared),
        **wrong,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_engines.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--models", type=Path, default=MODELS, help="folder with both models (default: the shipped ones)"
    )
    parser.add_argument(
        "--manifest", type=Path, help="measure on segments of this audio instead of synthetic sentences"
    )
    parser.add_argument(
        "--clips", type=int, default=CLIPS, help=f"for each language and kind of voice (default {CLIPS})"
    )
    parser.add_argument("--sentences", type=int, default=3, help="in a synthetic clip, at most (default 3)")
    options = parser.parse_args(arguments)
    try:
        if options.clips < 1 or options.sentences < 1:
            raise UserError("--clips and --sentences are whole numbers from 1")
        for engine in ("whisper", "paraformer"):
            if not (options.models / f"{engine}-starter").is_dir():
                raise UserError(
                    f"{options.models} has no {engine}-starter: --models is the folder that make wrote both models to"
                )
        if options.manifest is not None and not options.manifest.is_file():
            raise UserError(f"{options.manifest}: no such manifest")
        if options.manifest is None:
            source = {"manifest": None, "sentences_a_clip": options.sentences}
            clips = held_out_clips(options.clips, options.sentences)
        else:
            source = {"manifest": options.manifest.name, "sentences_a_clip": None}
            clips = given_clips(options.manifest, options.clips)
        import torch

        torch.set_num_threads(1)
        result = source | measure(options.models, clips, silences(options.clips))
        if options.manifest is None:
            result["shared_windows"] = measure_sharing(options.models / "whisper-starter")
    except UserError as error:
        print(f"touchasp: {error}", file=sys.stderr)
        return 2
    (options.models / "measured.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    for row in result["cells"]:
        print(row)
    print({key: value for key, value in result.items() if key != "cells"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
