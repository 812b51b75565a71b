"""A random Whisper for benchmarks whose transcripts are as long as the speech: about four tokens per second of it.

    examples/random_engines (random weights) ──loudness channel steers the end of text──> CTranslate2 folder, cached

Speed with random weights means something only where the work is that of real weights. An encoder pass costs the same
whatever it holds, but beam search runs as long as the transcript, and how clips are cut decides how many transcripts
there are. The engines for tests write 8 to 25 tokens for a clip of any length, which would flatter whoever merges clips
to 30 s.

One channel of the encoder is 1 where a frame is louder than silence and padding and 0 elsewhere; no random weight
writes to it. One head of the last cross attention averages it over the 30-s window, and holds the end-of-text token
back in proportion.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "random_engines" / "make.py"
SIZES = {"mini": (192, 4, 3), "tiny": (384, 4, 6), "base": (512, 6, 8)}
"""width, layers of encoder and of decoder, heads; tiny and base as OpenAI published them."""

LOUD, LOUDER = 2, 3  # encoder channels; 0 and 1 are END_DIM and FLAT_DIM of the random engines' decoder
LOW_BANDS = 40  # where voices are
TOKENS_PER_WINDOW = 120  # four for each second of speech
RAMP_PER_TOKEN = 1.5
END_WINS = 13.5  # where the end-of-text token outweighs the likeliest other
LOUD_LEVEL = 3.0  # of the loud channel after the encoder's last layer norm


def whisper(size: str) -> Path:
    """Folder of a CTranslate2 Whisper of one of `SIZES`, built on first use (half a minute) and kept in a cache
    folder.
    """
    versions = " ".join(
        importlib.metadata.version(name) for name in ("ctranslate2", "tokenizers", "torch", "transformers")
    )
    key = hashlib.sha256(SCRIPT.read_bytes() + Path(__file__).read_bytes() + versions.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"touchasp-benchmark-engines-{os.getuid()}-{key}" / f"whisper-random-{size}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        width, layers, heads = SIZES[size]
        make: Any = _script()
        randomise = make._randomise_whisper

        def randomise_and_steer(model: WhisperForConditionalGeneration, tokenizer: Any) -> None:
            randomise(model, tokenizer)
            end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
            _end_with_the_speech(model, end, end_dim=make.END_DIM)

        make._randomise_whisper = randomise_and_steer
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = make.make_whisper(Path(scratch) / folder.name, width=width, layers=layers, heads=heads)
            shutil.move(made, folder)
    return folder


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_random_engines", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_with_the_speech(model: WhisperForConditionalGeneration, end: int, end_dim: int) -> None:
    """Make the end-of-text token wait for `TOKENS_PER_WINDOW` times the share of the window that is loud."""
    import torch

    encoder, decoder = model.model.encoder, model.model.decoder
    with torch.no_grad():
        # Log-mel of low bands: silence and padding lie near -0.7, speech above 0. The difference of two GELUs
        # saturates.
        for channel, offset in ((LOUD, 2.0), (LOUDER, 1.0)):
            encoder.conv1.weight[channel] = 0
            encoder.conv1.weight[channel, :LOW_BANDS, 1] = 6 / LOW_BANDS
            encoder.conv1.bias[channel] = offset
        encoder.conv2.weight[:, [LOUD, LOUDER]] = 0
        encoder.conv2.weight[LOUD] = 0
        encoder.conv2.weight[LOUD, LOUD, 1], encoder.conv2.weight[LOUD, LOUDER, 1] = 40, -40
        encoder.conv2.bias[LOUD] = 0
        encoder.embed_positions.weight[:, LOUD] = 0
        for layer in encoder.layers:
            for projection in (layer.self_attn.out_proj, layer.fc2):
                projection.weight[LOUD] = 0
                projection.bias[LOUD] = 0
        attention = decoder.layers[-1].encoder_attn
        width = attention.head_dim
        for projection in (attention.q_proj, attention.v_proj):  # no query: the head averages over all frames
            projection.weight[:width] = 0
            projection.bias[:width] = 0
        attention.v_proj.weight[0, LOUD] = 1
        attention.out_proj.weight[:, :width] = 0
        attention.out_proj.weight[end_dim, 0] = -RAMP_PER_TOKEN * TOKENS_PER_WINDOW / LOUD_LEVEL
        places = decoder.embed_positions.weight
        places[:, end_dim] = END_WINS + RAMP_PER_TOKEN * (torch.arange(len(places)) - 6)
        words = decoder.embed_tokens.weight
        words[end] = 0
        words[end, end_dim] = 12
