"""Twelve clips for OSUM: beeps that spell a word, as known by their gender and their emotion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_training.data.index import Index
from operators.clip import Word
from operators.index import Row, write_index
from tests.support.corpus import RATE, make_handoff

if TYPE_CHECKING:
    from model_training.osum.model import Osum
    from model_training.osum.settings import OsumSettings

EMOTIONS = ("neutral", "happiness", "anger")


def make_questions(folder: Path, *, clips: int = 12) -> Path:
    """A hand-off whose clips of train know text, gender, emotion, style, words and an answer."""
    make_handoff(folder, train=clips, dev=2, longest=3)
    for split in ("train", "dev"):
        index = Index.open(str(folder / f"{split}.arrow"))
        write_index(folder / f"{split}.arrow", [known(index.row(place), place) for place in range(len(index))])
    return folder


def known(row: Row, place: int) -> Row:
    return replace(
        row,
        label=row.label.lower(),
        emotion=EMOTIONS[place // 2 % 3],
        style=("news", "story")[place // 3 % 2],
        words=(Word(text=row.label.lower(), start=RATE // 10, end=RATE // 2),),
        answer=f"you said {row.label.lower()}",
    )


def make_parts(folder: Path) -> list[str]:
    """A Whisper and a language model of a few thousand weights; the settings that name them."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from model_training.osum.parts.llm import make_random
    from model_training.osum.settings import LlmSettings

    torch.manual_seed(1)
    whisper = WhisperConfig(
        vocab_size=400,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    WhisperForConditionalGeneration(whisper).save_pretrained(folder / "whisper")
    make_random(
        folder / "llm", LlmSettings(width=64, layers=2, units=330), ["what is said here, male or female"], seed=1
    )
    return [
        f"model.encoder.source={folder / 'whisper'}",
        f"model.llm.source={folder / 'llm'}",
        "model.llm.lora_rank=4",
        "model.adaptor.width=32",
        "model.adaptor.inner=64",
        "model.adaptor.layers=1",
        "train.threads=1",
    ]


def drawn(settings: OsumSettings) -> Osum:
    """A model whose LoRA is no longer zero, in eval mode."""
    import torch

    from model_training.osum.build import build

    torch.manual_seed(2)
    model = build(settings, None).model.eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model
