"""Random-weight engines for tests: built once per version of their script, then taken from a cache folder.

    random_whisper(), random_whisper_en(), random_paraformer() ──> model folder, ready for WhisperX / FunAsr

They hear nothing; they make the real engine code run. Building takes some seconds and yields the same bytes each time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.conftest import REPOSITORY

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "random_engines" / "make.py"
_LIBRARIES = ("ctranslate2", "funasr", "tokenizers", "torch", "transformers")


def random_whisper() -> Path:
    """Folder of a CTranslate2 Whisper of 100 languages; identifies zh, en or yue."""
    return _built("make_whisper", "whisper-random")


def random_whisper_en() -> Path:
    """Folder of an English-only CTranslate2 Whisper."""
    return _built("make_whisper", "whisper-random.en", multilingual=False)


def random_paraformer() -> Path:
    """Folder of a FunASR Paraformer."""
    return _built("make_paraformer", "paraformer-random")


def sounds(*seconds: float, seed: int = 0) -> list[np.ndarray]:
    """Made-up clips of these lengths: int16 [samples] at 16 kHz, voiced-like pulses through drifting resonances."""
    rng = np.random.default_rng(seed)
    clips = []
    for length in seconds:
        samples = round(length * 16_000)
        time = np.arange(samples) / 16_000
        pitch = 110 + 60 * rng.random() + 30 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time)
        phase = 2 * np.pi * np.cumsum(pitch) / 16_000
        voice = sum(np.sin(k * phase + rng.uniform(0, 6)) * rng.random() / k for k in range(1, 25))
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * time + rng.uniform(0, 6)) + 0.3, 0, None)
        signal = voice * syllables + 0.02 * rng.standard_normal(samples)
        clips.append((signal / np.abs(signal).max() * 12_000).astype(np.int16))
    return clips


def mixed_clips() -> list[np.ndarray]:
    """Clips of mixed lengths, the shortest and the longest allowed among them, and one of digital silence."""
    return [*sounds(2, 30, 5, 7.1, 3.3, 12), np.zeros(2 * 16_000, np.int16)]


def nothing_known(clips: Sequence[np.ndarray]) -> list[None]:
    """No language given for any clip."""
    return [None] * len(clips)


def spoiled(folder: Path, target: Path, *, without: str = "", **contents: bytes) -> str:
    """A copy of a model folder with one file left out, or others overwritten (`model_bin` for model.bin)."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(without or "none"))
    for name, content in contents.items():
        (target / name.replace("_", ".")).write_bytes(content)
    return str(target)


@functools.cache
def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_engines_make", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _built(maker: str, name: str, **settings: bool) -> Path:
    versions = " ".join(importlib.metadata.version(library) for library in _LIBRARIES)
    key = hashlib.sha256(SCRIPT.read_bytes() + versions.encode()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"touchasp-random-engines-{os.getuid()}-{key}"
    folder = cache / name
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = getattr(_script(), maker)(Path(scratch) / name, **settings)
            try:
                made.rename(folder)  # one step, so that a test run beside this one never sees half a model
            except OSError:
                if not folder.is_dir():
                    raise
                shutil.rmtree(made)
    return folder


MODELS = REPOSITORY / "examples" / "starter_engines" / "models"
DEMO = REPOSITORY / "examples" / "demo_crawl"
SAMPLE_RATE = 16000


def load_whisper(folder: Path) -> Any:
    import whisperx

    return whisperx.load_model(str(folder), "cpu", compute_type="int8", threads=1, vad_model=object())
