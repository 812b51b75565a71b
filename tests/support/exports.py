"""Checkpoints of small untrained models to export: random weights, a real tokenizer, every form of layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from model_training import config
from model_training.data.features import Cmvn
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.training import checkpoint

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
