"""A Conformer of WeNet's (U2, U2++) as ours: which of its tensors are which of ours, and what does not fit.

    final.pt | *.safetensors   train.yaml  units.txt ──read──> tensors by our names, sizes, tokens, normalisation

The names are those of wenet/transformer: encoder.py, encoder_layer.py, attention.py, convolution.py, subsampling.py,
decoder.py and ctc.py. `model.encoder=wenet` makes our encoder compute what theirs does: attention goes by the place of
the frame that is looked at instead of the distance to it (WeNet leaves Transformer-XL's shift out), and a norm stands
behind the last block.

    theirs                              ours
    encoder.embed.conv, .out            encoder.subsampling
    encoders.N.feed_forward_macaron     encoder.blocks.N.first_ffn     a dense block, or copied into experts
    encoders.N.self_attn                encoder.blocks.N.attention     pos_bias_u, v: content_, position_bias
    encoders.N.conv_module              encoder.blocks.N.convolution   with layer_norm, not batch_norm
    encoders.N.feed_forward             encoder.blocks.N.second_ffn
    encoder.after_norm                  encoder.norm
    ctc.ctc_lo                          ctc                            rows by the spelling in units.txt
    decoder.left_decoder or decoder     decoder                        its blocks have ReLU, ours SiLU
    decoder.right_decoder               reverse_decoder                likewise, with model.reverse_layers
    encoder.global_cmvn                 cmvn.json

A causal kernel of k frames, all of them past, is one of 2k - 1 frames with the later half zero: the same function, but
for the first k - 1 frames of a recording, which WeNet pads before the gate and we behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
import yaml
from torch import Tensor

from model_training.config import ModelSettings
from operators.errors import UserError

SAME_AS = {"<sot>": "<sos/eos>", "<eot>": "<sos/eos>"}
"""Our tokens that WeNet writes otherwise."""
_FIRST = ("final.safetensors", "model.safetensors", "final.pt")
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
_ATTENTION = {
    "linear_q": "query",
    "linear_k": "key",
    "linear_v": "value",
    "linear_out": "out",
    "linear_pos": "position",
}
_RENAMED = (
    (r"encoder\.embed\.conv\.(\d)\.", r"encoder.subsampling.convolutions.\1."),
    (r"encoder\.embed\.out\.0\.", "encoder.subsampling.out."),
    (r"encoder\.after_norm\.", "encoder.norm."),
    (r"ctc\.ctc_lo\.", "ctc."),
    (r"encoder\.encoders\.(\d+)\.", r"encoder.blocks.\1."),
    (r"decoder\.left_decoder\.", "decoder."),
    (r"decoder\.right_decoder\.", "reverse_decoder."),
    (r"decoder\.embed\.0\.", "decoder.embedding."),
    (r"decoder\.after_norm\.", "decoder.norm."),
    (r"decoder\.output_layer\.", "decoder.out."),
    (r"decoder\.decoders\.(\d+)\.", r"decoder.layers.\1."),
)
_IN_BLOCK = {
    "feed_forward_macaron.w_1": "first_ffn.w_in",
    "feed_forward_macaron.w_2": "first_ffn.w_out",
    "feed_forward.w_1": "second_ffn.w_in",
    "feed_forward.w_2": "second_ffn.w_out",
    "conv_module.pointwise_conv1": "convolution.gate",
    "conv_module.depthwise_conv": "convolution.depthwise",
    "conv_module.norm": "convolution.norm",
    "conv_module.pointwise_conv2": "convolution.out",
    "norm_ff_macaron": "norms.0",
    "norm_mha": "norms.1",
    "norm_conv": "norms.2",
    "norm_ff": "norms.3",
    "norm_final": "norms.4",
    **{f"self_attn.{theirs}": f"attention.{ours}" for theirs, ours in _ATTENTION.items()},
}
_IN_LAYER = {
    "feed_forward.w_1": "ffn.w_in",
    "feed_forward.w_2": "ffn.w_out",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "norms.2",
    **{f"self_attn.{theirs}": f"own.{ours}" for theirs, ours in _ATTENTION.items()},
    **{f"src_attn.{theirs}": f"encoder.{ours}" for theirs, ours in _ATTENTION.items()},
}
_BIASES = {"self_attn.pos_bias_u": "attention.content_bias_HW", "self_attn.pos_bias_v": "attention.position_bias_HW"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A Found is a checkpoint of WeNet's under our names."""

    tensors: dict[str, Tensor]
    sizes: dict[str, Any]
    tokens: tuple[str, ...] | None
    cmvn: str | None
    optional: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...]


def find(path: Path) -> Path | None:
    """Return the file with the weights: the path itself, or the one of its folder; None where there is none."""
    if path.is_file():
        return path if path.suffix in _ENDINGS else None
    for name in _FIRST:
        if (path / name).is_file():
            return path / name
    files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file())
    return files[0] if len(files) == 1 else None


def read(theirs: Mapping[str, Tensor], file: Path, settings: ModelSettings) -> Found:
    """Return the tensors by our names, and what else is known of the model.

    Args:
        theirs: the state dict.
        file: where it lay; train.yaml and units.txt stand beside it.
        settings: of our model, whose kernel says whether convolutions are causal where nothing else does.

    Raises:
        UserError: no Conformer of WeNet's, or one that ours cannot be.
    """
    said = _settings(file.parent / "train.yaml")
    _refuse_others(theirs, said, file)
    ours: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in theirs.items():
        renamed = rename(name)
        if renamed is None:
            left.append(name)
        elif ".gate." in renamed or ".convolution.out." in renamed:
            ours[renamed] = tensor.squeeze(-1)
        else:
            ours[renamed] = tensor
    kernel, notes = _kernel(ours, bool(said.get("causal")) if said else None, settings)
    tokens = _tokens(file.parent)
    if tokens is None:
        notes.append("no units.txt beside it: the rows of its vocabulary are not known")
    if any(name.startswith("decoder.") for name in ours):
        notes.append("blocks of its decoder had ReLU, ours have SiLU: a start, not the same function")
    blocks = {int(match[1]) for name in ours if (match := re.match(r"encoder\.blocks\.(\d+)\.", name))}
    layers, reverse = (
        {int(match[1]) for name in ours if (match := re.match(rf"{decoder}\.layers\.(\d+)\.", name))}
        for decoder in ("decoder", "reverse_decoder")
    )
    sizes = {
        "encoder": "wenet",
        "d_model": len(ours["encoder.subsampling.convolutions.0.weight"]),
        "heads": len(ours["encoder.blocks.0.attention.content_bias_HW"]),
        "encoder_layers": len(blocks),
        "kernel": kernel,
    }
    sizes |= {"decoder_layers": len(layers)} if layers else {}
    sizes |= {"reverse_layers": len(reverse)} if reverse else {}
    return Found(
        tensors=ours,
        sizes=sizes,
        tokens=tokens,
        cmvn=_cmvn(theirs),
        optional=() if layers else ("decoder.",),
        left=tuple(name for name in left if not name.startswith("encoder.global_cmvn.")),
        notes=tuple(notes),
    )


def rename(name: str) -> str | None:
    """Return our name of one of WeNet's tensors; None where ours has no place for it."""
    for pattern, ours in _RENAMED:
        found = re.match(pattern, name)
        if found is None:
            continue
        start, rest = found.expand(ours), name[found.end() :]
        if start.startswith("encoder.blocks."):
            return _inside(start, rest, _IN_BLOCK)
        if start.startswith("decoder.layers."):
            return _inside(start, rest, _IN_LAYER)
        if start == "decoder.":
            return rename(f"decoder.{rest}")
        if start == "reverse_decoder.":
            left = rename(f"decoder.{rest}")
            return None if left is None else f"reverse_{left}"
        return f"{start}{rest}"
    return None


def _inside(start: str, rest: str, names: Mapping[str, str]) -> str | None:
    if rest in _BIASES:
        return f"{start}{_BIASES[rest]}"
    part, _, last = rest.rpartition(".")
    return f"{start}{names[part]}.{last}" if part in names and last in ("weight", "bias") else None


def _refuse_others(theirs: Mapping[str, Tensor], said: Mapping[str, Any], file: Path) -> None:
    block = "encoder.encoders.0"
    wanted = {
        "encoder.embed.conv.0.weight": "it is no WeNet model with two convolutions in front",
        "encoder.embed.out.0.weight": "it sub-samples by other than 4 (input_layer: conv2d)",
        f"{block}.feed_forward_macaron.w_1.weight": "its blocks are not a Conformer's (macaron_style: true)",
        f"{block}.conv_module.depthwise_conv.weight": "its blocks are not a Conformer's (use_cnn_module: true)",
        f"{block}.self_attn.pos_bias_u": "its attention has no relative positions (pos_enc_layer_type: rel_pos)",
        "encoder.after_norm.weight": "it lacks encoder.after_norm",
    }
    for name, reason in wanted.items():
        if name not in theirs:
            raise UserError(f"{file} cannot become our encoder: {reason}; {name} is missing")
    if f"{block}.conv_module.norm.running_mean" in theirs:
        raise UserError(f"{file} cannot become our encoder: its convolutions have batch_norm, ours layer_norm")
    if said.get("activation_type", "swish") not in ("swish", "silu"):
        raise UserError(
            f"{file} cannot become our encoder: its activation_type is {said['activation_type']}, ours is swish"
        )


def _kernel(ours: dict[str, Tensor], causal: bool | None, settings: ModelSettings) -> tuple[int, list[str]]:
    """Return the kernel that our convolutions must have; causal ones get the later half of theirs in `ours`."""
    name = "encoder.blocks.0.convolution.depthwise.weight"
    k = ours[name].shape[-1]
    notes = []
    if causal is None:
        causal = k % 2 == 0 or settings.kernel == 2 * k - 1
        notes.append(
            f"no train.yaml beside it: its convolutions of {k} frames are taken for "
            f"{'causal' if causal else 'centred'} ones, as model.kernel has it"
        )
    if not causal:
        return k, notes
    if settings.causal:
        raise UserError("WeNet's attention looks ahead where its convolutions do not: set model.causal=false")
    for key in [key for key in ours if key.endswith("convolution.depthwise.weight")]:
        ours[key] = F.pad(ours[key], (0, k - 1))
    return 2 * k - 1, [*notes, f"causal convolutions of {k} frames are now of {2 * k - 1}, the later ones zero"]


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid YAML: copy it again") from None
    encoder = found.get("encoder_conf") if isinstance(found, dict) else None
    return encoder if isinstance(encoder, dict) else {}


def _tokens(folder: Path) -> tuple[str, ...] | None:
    path = next(
        (folder / name for name in ("units.txt", "words.txt", "lang_char.txt") if (folder / name).is_file()), None
    )
    if path is None:
        return None
    try:
        pairs = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        numbered = {int(number): token for token, number in pairs}
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged: each line is a token and its number") from None
    if sorted(numbered) != list(range(len(numbered))):
        raise UserError(f"{path} is damaged: its numbers have gaps")
    return tuple(numbered[number] for number in range(len(numbered)))


def _cmvn(theirs: Mapping[str, Tensor]) -> str | None:
    mean, istd = (theirs.get(f"encoder.global_cmvn.{part}") for part in ("mean", "istd"))
    if mean is None or istd is None:
        return None
    return json.dumps({"frames": 0, "mean": mean.tolist(), "istd": istd.tolist()})
