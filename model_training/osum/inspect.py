"""How large a configuration is, and what memory a card needs for it: counted on the meta device, nothing is loaded.

settings ──meta device──> Counts per part ──estimate──> gigabytes: weights, gradients, moments, activations
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_training.osum.learner import trained_parameters
from model_training.osum.parts import whisper
from model_training.osum.parts.adaptor import Adaptor
from model_training.osum.parts.llm import RANDOM, add_lora, random_config
from model_training.osum.settings import OsumSettings
from operators.errors import UserError

_QWEN2: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-7B-Instruct": {
        "vocab_size": 152_064,
        "hidden_size": 3_584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2-0.5B-Instruct": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
"""Published sizes, so that the presets can be counted without a hub."""
_QUESTION_TOKENS, _ANSWER_TOKENS = 60, 60
_GB = 1e9


@dataclass(frozen=True)
class Counts:
    """The Counts are parameters of one part."""

    total: int
    trained: int


def count(settings: OsumSettings) -> dict[str, Counts]:
    """Return the parameters of each part. Raises UserError for parts whose sizes cannot be known here."""
    import torch._dynamo  # drawing weights on the meta device imports it, and cannot from inside

    with torch.device("meta"):
        encoder: Any = whisper.encoder_only(_whisper_config(settings.model.encoder.source))
        llm: Any = _llm(settings)
        width = int(llm.get_input_embeddings().weight.shape[1])
        adaptor = Adaptor(settings.model.adaptor, int(encoder.config.d_model), width)
        if settings.model.llm.lora_rank and "llm" in settings.trained():
            llm = add_lora(llm, settings.model.llm)
    model = nn.ModuleDict({"encoder": encoder, "adaptor": adaptor, "llm": llm})
    trained = trained_parameters(model, settings)
    return {
        name: Counts(
            sum(map(torch.numel, part.parameters())),
            sum(parameter.numel() for own, parameter in trained.items() if own.startswith(f"{name}.")),
        )
        for name, part in model.items()
    }


def memory_gb(settings: OsumSettings, counts: dict[str, Counts]) -> dict[str, float]:
    """Return what a training on one card needs in bf16, by what it is for, in gigabytes.

    Activations are estimated: with checkpointing a state per layer is kept, and one layer is computed again at a time.
    """
    trained = sum(part.trained for part in counts.values())
    frozen = sum(part.total - part.trained for part in counts.values())
    with torch.device("meta"):
        llm = _llm(settings).config
    speech = settings.data.max_frames / 8  # 10 ms frames to the language model's 80 ms
    clips = min(settings.data.max_clips, max(1, settings.data.max_frames // 300))
    tokens = speech + clips * (_QUESTION_TOKENS + _ANSWER_TOKENS)
    layers, width, inner = llm.num_hidden_layers, llm.hidden_size, llm.intermediate_size
    one_layer = tokens * (8 * width + 3 * inner) * 2
    kept = tokens * width * 2 * layers
    activations = kept + one_layer if settings.model.checkpointing else one_layer * layers
    logits = clips * _ANSWER_TOKENS * llm.vocab_size * 4 * 3
    return {
        "frozen weights (bf16)": frozen * 2 / _GB,
        "trained weights, gradients, moments (fp32)": trained * 16 / _GB,
        "activations (estimated)": (activations + logits) / _GB,
    }


def describe(settings: OsumSettings) -> str:
    """Return counts and memory as lines of text."""
    if settings.stage == 1:
        config = _whisper_config(settings.model.encoder.source)
        from transformers import WhisperForConditionalGeneration

        with torch.device("meta"):
            total = sum(p.numel() for p in WhisperForConditionalGeneration(config).parameters())
        return f"  whisper {total:>14,} parameters, all trained: {total * 16 / _GB:.1f} GB and activations"
    counts = count(settings)
    lines = [f"  {name:8} {one.total:>14,} parameters, {one.trained:>13,} trained" for name, one in counts.items()]
    total, trained = (sum(getattr(one, what) for one in counts.values()) for what in ("total", "trained"))
    lines.append(f"  {'all':8} {total:>14,} parameters, {trained:>13,} trained")
    memory = memory_gb(settings, counts)
    lines += [f"  {name:44} {gigabytes:6.1f} GB" for name, gigabytes in memory.items()]
    lines.append(f"  {'a card needs about':44} {sum(memory.values()):6.1f} GB")
    return "\n".join(lines)


def _whisper_config(source: str) -> Any:
    found = whisper.known_config(source)
    if found is None:
        if not Path(source).is_dir():
            raise UserError(f"model.encoder.source={source}: its sizes are not known here; give a folder of it")
        from model_training.osum.build import load_encoder

        found = load_encoder(source).model.config
    return found


def _llm(settings: OsumSettings) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

    source = settings.model.llm.source
    if source == RANDOM:
        config: Any = random_config(settings.model.llm, settings.model.llm.units)
    elif source in _QWEN2:
        config = Qwen2Config(**_QWEN2[source])
    elif Path(source).is_dir():
        config = AutoConfig.from_pretrained(source)
    else:
        raise UserError(f"model.llm.source={source}: its sizes are not known here; give a folder of it")
    return AutoModelForCausalLM.from_config(config)
