"""Whisper from wherever it lies, and its encoder on clips of any length.

    hub name | folder of transformers | folder of CTranslate2 | run of stage 1 ──load──> Whisper
    features [B, F, bins], lengths ──encode──> [B, S, width], lengths     S = half of F

A clip in a batch is heard as alone: what lies behind its end is zero before both convolutions, and no frame attends to
it. transformers' own forward takes 30 s only and masks nothing.

Shapes: B clips, F mel frames, S encoder frames of 20 ms, D width, L tokens.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model_training.osum.parts.sources import digest, find, quietly
from operators.errors import UserError

KNOWN: dict[str, dict[str, int]] = {
    "openai/whisper-tiny": {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6},
    "openai/whisper-base": {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8},
    "openai/whisper-small": {"d_model": 768, "encoder_layers": 12, "encoder_attention_heads": 12},
    "openai/whisper-medium": {"d_model": 1024, "encoder_layers": 24, "encoder_attention_heads": 16},
    "openai/whisper-large-v3": {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "bins": 128},
}
"""Published sizes, so that a configuration can be counted without a hub."""


@dataclass(frozen=True)
class Whisper:
    """A Whisper is a model of transformers with where it came from; `encoder` is what OSUM needs of it."""

    model: Any  # WhisperForConditionalGeneration
    digest: str
    """of its weights; empty where they were just drawn"""
    tokenizer: Any = None  # tokenizers.Tokenizer, where its folder has one

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.model.model.encoder
        return encoder


def known_config(source: str) -> Any:
    """Return the configuration of a published Whisper by its hub name, without the hub; None for other sources."""
    from transformers import WhisperConfig

    sizes = dict(KNOWN.get(source, {}))
    if not sizes:
        return None
    bins = sizes.pop("bins", 80)
    layers, heads, width = sizes["encoder_layers"], sizes["encoder_attention_heads"], sizes["d_model"]
    return WhisperConfig(
        **sizes,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        num_mel_bins=bins,
    )


def load(source: str) -> Whisper:
    """Return a Whisper in float32, in eval mode.

    Args:
        source: hub name, or folder of transformers or CTranslate2.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from tokenizers import Tokenizer

    folder = find(source, "model.encoder.source")
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file)) if file.exists() else None
    if (folder / "model.bin").exists() and not (folder / "pytorch_model.bin").exists():
        model = _from_ctranslate2(folder)
    else:
        from transformers import WhisperForConditionalGeneration

        try:
            with quietly():
                model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"model.encoder.source={source} is no Whisper of transformers ({reason})") from None
        if model.config.model_type != "whisper":
            raise UserError(f"model.encoder.source={source} is a {model.config.model_type}, not a Whisper")
    return Whisper(model.eval(), digest(folder), tokenizer)


def encode(
    encoder: Any, features_BFM: Tensor, lengths_B: Tensor, *, full_window: bool, checkpointing: bool = False
) -> tuple[Tensor, Tensor]:
    """Return [B, S, D] and the frames of each clip, zero behind its end.

    Args:
        features_BFM: log-mel, of 3000 frames where `full_window`.
        lengths_B: of the clips, in mel frames.
    """
    frames_B = (lengths_B + 1) // 2
    x_BMF = features_BFM.transpose(1, 2).to(encoder.conv1.weight.dtype)
    mask = None
    if full_window:
        x_BDS = F.gelu(encoder.conv2(F.gelu(encoder.conv1(x_BMF))))
    else:
        keep_B1F = within(lengths_B, x_BMF.shape[2]).unsqueeze(1)
        x_BDF = F.gelu(encoder.conv1(x_BMF * keep_B1F)) * keep_B1F
        x_BDS = F.gelu(encoder.conv2(x_BDF))
        keep_BS = within(frames_B, x_BDS.shape[2])
        # Finite, for minus infinity makes NaN of a row that is hidden whole.
        mask = torch.zeros_like(keep_BS, dtype=x_BDS.dtype).masked_fill(~keep_BS, -1e9)[:, None, None, :]
        mask = mask.expand(-1, 1, x_BDS.shape[2], -1)
    x_BSD = x_BDS.transpose(1, 2)
    x_BSD = x_BSD + encoder.embed_positions.weight[: x_BSD.shape[1]]
    for layer in encoder.layers:
        if checkpointing and torch.is_grad_enabled():
            x_BSD = checkpoint(layer, x_BSD, mask, None, use_reentrant=False)[0]
        else:
            x_BSD = layer(x_BSD, mask, None)[0]
    x_BSD = encoder.layer_norm(x_BSD)[:, : int(frames_B.max())]
    return x_BSD * within(frames_B, x_BSD.shape[1]).unsqueeze(2), frames_B


def within(lengths_B: Tensor, longest: int) -> Tensor:
    """Return bool [B, longest]: true up to each length."""
    return torch.arange(longest, device=lengths_B.device) < lengths_B.unsqueeze(1)


def encoder_only(config: Any) -> nn.Module:
    """Return an encoder of a configuration with weights as they come."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(config)


# --- CTranslate2 ------------------------------------------------------------------------------------------------------

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def _variables(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of CTranslate2's model.bin (format 6): name, shape, type and bytes of each."""
    data, place = path.read_bytes(), 0

    def number(code: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{code}", data, place)
        place += struct.calcsize(code)
        return int(value)

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    version, spec = number("I"), text()
    if version < 6 or spec != "WhisperSpec":
        raise UserError(f"{path} is a {spec} of CTranslate2's format {version}, not a Whisper of format 6")
    number("I")
    found: dict[str, np.ndarray] = {}
    for _ in range(number("I")):
        name, rank = text(), number("B")
        shape = [number("I") for _ in range(rank)]
        kind, size = number("B"), number("I")
        if kind not in _TYPES:
            raise UserError(f"{path}: weights of CTranslate2's type {kind} cannot be read; convert it to float16")
        found[name] = np.frombuffer(data, _TYPES[kind], size // np.dtype(_TYPES[kind]).itemsize, place).reshape(shape)
        place += size
    return found


def _from_ctranslate2(folder: Path) -> Any:
    from tokenizers import Tokenizer
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    try:
        variables = _variables(folder / "model.bin")
        tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        start, end = (tokens.token_to_id(token) for token in ("<|startoftranscript|>", "<|endoftext|>"))
        weights = {name: _plain(variables, name) for name in variables if name.endswith(("weight", "encodings"))}
        layers = {part: 1 + max(_layer(name) for name in variables if name.startswith(part)) for part in _PARTS}
        width, bins, _ = weights["encoder/conv1/weight"].shape
        model = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=len(weights["decoder/embeddings/weight"]),
                d_model=width,
                num_mel_bins=bins,
                encoder_layers=layers["encoder"],
                decoder_layers=layers["decoder"],
                encoder_attention_heads=int(variables["encoder/num_heads"]),
                decoder_attention_heads=int(variables["decoder/num_heads"]),
                encoder_ffn_dim=len(variables["encoder/layer_0/ffn/linear_0/weight"]),
                decoder_ffn_dim=len(variables["decoder/layer_0/ffn/linear_0/weight"]),
                decoder_start_token_id=start,
                pad_token_id=end,
                bos_token_id=end,
                eos_token_id=end,
            )
        )
        state = {f"model.{name}": tensor for part in _PARTS for name, tensor in _part(variables, part)}
    except Exception as error:  # of tokenizers, too, whose errors have no class of their own
        raise UserError(f"{folder / 'model.bin'} is no Whisper of CTranslate2 that can be read ({error})") from None
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    return model


_PARTS = ("encoder", "decoder")


def _layer(name: str) -> int:
    part = name.split("/")[1]
    return int(part.removeprefix("layer_")) if part.removeprefix("layer_").isdigit() else -1


def _plain(variables: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return a weight as float32; an int8 one is divided by the scale of its row."""
    value = variables[name]
    if value.dtype == np.int8:
        scale = variables[f"{name}_scale"]
        return value.astype(np.float32) / scale.reshape(-1, *[1] * (value.ndim - 1))
    return value.astype(np.float32)


def _part(variables: dict[str, np.ndarray], part: str) -> list[tuple[str, Tensor]]:
    """Return encoder or decoder as transformers names it. CTranslate2 joins query, key and value into one matrix."""
    found: list[tuple[str, np.ndarray]] = []

    def take(ours: str, theirs: str) -> None:
        found.append((f"{part}.{ours}.weight", _plain(variables, f"{part}/{theirs}/weight")))
        found.append((f"{part}.{ours}.bias", _plain(variables, f"{part}/{theirs}/bias")))

    def norm(ours: str, theirs: str) -> None:
        found.append((f"{part}.{ours}.weight", _plain(variables, f"{part}/{theirs}/gamma")))
        found.append((f"{part}.{ours}.bias", _plain(variables, f"{part}/{theirs}/beta")))

    def split(ours: str, theirs: str, names: tuple[str, ...]) -> None:
        weights = np.split(_plain(variables, f"{part}/{theirs}/weight"), len(names))
        biases = np.split(_plain(variables, f"{part}/{theirs}/bias"), len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            found.append((f"{part}.{ours}.{name}.weight", weight))
            if name != "k_proj":  # Whisper's keys have no bias; CTranslate2 writes zeros
                found.append((f"{part}.{ours}.{name}.bias", bias))

    found.append((f"{part}.embed_positions.weight", _plain(variables, f"{part}/position_encodings/encodings")))
    if part == "encoder":
        take("conv1", "conv1")
        take("conv2", "conv2")
    else:
        found.append((f"{part}.embed_tokens.weight", _plain(variables, f"{part}/embeddings/weight")))
    norm("layer_norm", "layer_norm")
    for number in range(1 + max(_layer(name) for name in variables if name.startswith(part))):
        ours, theirs = f"layers.{number}", f"layer_{number}"
        norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        split(f"{ours}.self_attn", f"{theirs}/self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
        take(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        if part == "decoder":
            norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
            split(f"{ours}.encoder_attn", f"{theirs}/attention/linear_0", ("q_proj",))
            split(f"{ours}.encoder_attn", f"{theirs}/attention/linear_1", ("k_proj", "v_proj"))
            take(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
        norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        take(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        take(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
    return [(name, torch.from_numpy(np.ascontiguousarray(value))) for name, value in found]
