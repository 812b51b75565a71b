"""Where the starter engines and the demo crawl lie, and the way to load the first as whisperX does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "examples" / "starter_engines" / "models"
DEMO = REPOSITORY / "examples" / "demo_crawl"
SAMPLE_RATE = 16000


def load_whisper(folder: Path) -> Any:
    import whisperx

    return whisperx.load_model(str(folder), "cpu", compute_type="int8", threads=1, vad_model=object())
