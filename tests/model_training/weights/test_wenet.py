"""A checkpoint in the form of WeNet's U2++ becomes our encoder, and computes here what WeNet's code computes with it.

The forward pass below is written from wenet/transformer (encoder.py, encoder_layer.py, attention.py, convolution.py)
with a state dict's own names, so that the mapping is tested against what names mean, not against itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor

from model_training.config import ModelSettings, MoESettings
from model_training.export.onnx_modules import EncoderGraph
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.weights.origin import open_origin
from model_training.weights.transfer import Report, transfer
from operators.errors import UserError

D, H, FF, K = 16, 2, 24, 5
UNITS = ["<blank>", "<unk>", "你", "好", "▁", "H", "I", "<sos/eos>"]
SIZES = {
    "encoder": "wenet",
    "d_model": D,
    "heads": H,
    "d_ff": FF,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "kernel": K,
}


def checkpoint(*, kernel: int = K, layers: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """A state dict with the names and shapes of a U2++ Conformer of WeNet's."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.global_cmvn.mean": (80,),
        "encoder.global_cmvn.istd": (80,),
        "encoder.embed.conv.0.weight": (D, 1, 3, 3),
        "encoder.embed.conv.0.bias": (D,),
        "encoder.embed.conv.2.weight": (D, D, 3, 3),
        "encoder.embed.conv.2.bias": (D,),
        "ctc.ctc_lo.weight": (len(UNITS), D),
        "ctc.ctc_lo.bias": (len(UNITS),),
    }

    def linear(name: str, out: int, width: int, *more: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, width, *more)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (D,)

    linear("encoder.embed.out.0", D, D * 19)
    norm("encoder.after_norm")
    for layer in range(layers):
        block = f"encoder.encoders.{layer}"
        for part in ("q", "k", "v", "out"):
            linear(f"{block}.self_attn.linear_{part}", D, D)
        linear(f"{block}.self_attn.linear_pos", D, D, bias=False)
        shapes[f"{block}.self_attn.pos_bias_u"] = shapes[f"{block}.self_attn.pos_bias_v"] = (H, D // H)
        for part in ("feed_forward", "feed_forward_macaron"):
            linear(f"{block}.{part}.w_1", FF, D)
            linear(f"{block}.{part}.w_2", D, FF)
        linear(f"{block}.conv_module.pointwise_conv1", 2 * D, D, 1)
        linear(f"{block}.conv_module.depthwise_conv", D, 1, kernel)
        linear(f"{block}.conv_module.pointwise_conv2", D, D, 1)
        for name in ("conv_module.norm", "norm_ff", "norm_mha", "norm_ff_macaron", "norm_conv", "norm_final"):
            norm(f"{block}.{name}")
    for side in ("left_decoder", "right_decoder"):
        shapes[f"decoder.{side}.embed.0.weight"] = (len(UNITS), D)
        norm(f"decoder.{side}.after_norm")
        linear(f"decoder.{side}.output_layer", len(UNITS), D)
        for part in ("self_attn", "src_attn"):
            for name in ("q", "k", "v", "out"):
                linear(f"decoder.{side}.decoders.0.{part}.linear_{name}", D, D)
        linear(f"decoder.{side}.decoders.0.feed_forward.w_1", FF, D)
        linear(f"decoder.{side}.decoders.0.feed_forward.w_2", D, FF)
        for number in (1, 2, 3):
            norm(f"decoder.{side}.decoders.0.norm{number}")
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def wenet_encoder(state: dict[str, Tensor], features_FB: Tensor, *, causal: bool, layers: int = 2) -> Tensor:
    """What WeNet's ConformerEncoder makes of one recording, all of it at once (decoding_chunk_size=-1)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"].squeeze(-1), state.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (D,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = features_FB[None, None]
    for number in (0, 2):
        x = F.relu(
            F.conv2d(x, state[f"encoder.embed.conv.{number}.weight"], state[f"encoder.embed.conv.{number}.bias"], 2)
        )
    x = linear("encoder.embed.out.0", x.transpose(1, 2).flatten(2))[0] * math.sqrt(D)
    S = len(x)
    frequency = torch.exp(torch.arange(0, D, 2) * (-math.log(10_000.0) / D))
    angle = torch.arange(S).unsqueeze(1) * frequency
    places = torch.zeros(S, D)
    places[:, 0::2], places[:, 1::2] = angle.sin(), angle.cos()
    for layer in range(layers):
        block = f"encoder.encoders.{layer}"

        def feed(name: str, x: Tensor, block: str = block) -> Tensor:
            return linear(f"{block}.{name}.w_2", F.silu(linear(f"{block}.{name}.w_1", x)))

        def heads(name: str, x: Tensor, block: str = block) -> Tensor:
            return linear(f"{block}.self_attn.{name}", x).view(S, H, -1).transpose(0, 1)

        x = x + 0.5 * feed("feed_forward_macaron", norm(f"{block}.norm_ff_macaron", x))
        y = norm(f"{block}.norm_mha", x)
        query, key, value = (heads(f"linear_{part}", y) for part in "qkv")
        place = heads("linear_pos", places)
        content, position = (state[f"{block}.self_attn.pos_bias_{part}"].unsqueeze(1) for part in "uv")
        scores = (query + content) @ key.mT + (query + position) @ place.mT  # no shift
        attended = (scores / math.sqrt(D // H)).softmax(-1) @ value
        x = x + linear(f"{block}.self_attn.linear_out", attended.transpose(0, 1).flatten(1))
        y = norm(f"{block}.norm_conv", x)
        kernel = state[f"{block}.conv_module.depthwise_conv.weight"]
        if causal:  # WeNet pads before the gate
            y = F.pad(y, (0, 0, kernel.shape[-1] - 1, 0))
        y = F.glu(linear(f"{block}.conv_module.pointwise_conv1", y), -1)
        padding = 0 if causal else (kernel.shape[-1] - 1) // 2
        bias = state[f"{block}.conv_module.depthwise_conv.bias"]
        y = F.conv1d(y.t()[None], kernel, bias, padding=padding, groups=D)[0].t()
        x = x + linear(f"{block}.conv_module.pointwise_conv2", F.silu(norm(f"{block}.conv_module.norm", y)))
        x = x + 0.5 * feed("feed_forward", norm(f"{block}.norm_ff", x))
        x = norm(f"{block}.norm_final", x)
    return norm("encoder.after_norm", x)


def folder(path: Path, state: dict[str, Tensor], *, form: str = "final.pt", **encoder: object) -> Path:
    path.mkdir(exist_ok=True)
    if form.endswith(".pt"):
        torch.save(state, path / form)
    else:
        save_file(state, path / form)
    (path / "units.txt").write_text("".join(f"{unit} {number}\n" for number, unit in enumerate(UNITS)))
    if encoder:
        (path / "train.yaml").write_text(yaml.safe_dump({"encoder": "conformer", "encoder_conf": encoder}))
    return path


def taken(path: Path, **sizes: object) -> tuple[SpeechModel, Report, Tokenizer]:
    tokens = Tokenizer.train(["HI 你好世"], Scheme(events=("dog",)), bpe_size=3)
    moe = sizes.pop("moe", MoESettings(ffn="none"))
    settings = ModelSettings(**(SIZES | {"moe": moe} | sizes))  # type: ignore[arg-type]
    model = SpeechModel(settings, len(tokens)).eval()
    return model, transfer(model, tokens.tokens, open_origin(str(path), settings), noise=0.0, seed=0), tokens


FEATURES = torch.randn(97, 80, generator=torch.Generator().manual_seed(1))


def encoded(model: SpeechModel) -> Tensor:
    with torch.inference_mode():
        return model.encode(FEATURES[None], torch.tensor([len(FEATURES)]), model.sizes[-1])[0][0]


@pytest.mark.parametrize("form", ["final.pt", "model.safetensors"])
def test_the_encoder_computes_what_wenets_does(tmp_path: Path, form: str) -> None:
    state = checkpoint()
    model, report, _ = taken(folder(tmp_path, state, form=form, causal=False, activation_type="swish"))
    torch.testing.assert_close(encoded(model), wenet_encoder(state, FEATURES, causal=False), rtol=0, atol=2e-5)
    assert not [name for name in report.fresh if name.startswith(("encoder.", "decoder.layers", "ctc"))]
    assert all(name.startswith("reverse_decoder.") or " tokens: " in name for name in report.left)


def test_its_right_to_left_decoder_is_taken_where_ours_has_one(tmp_path: Path) -> None:
    state = checkpoint()
    path = folder(tmp_path, state, causal=False)
    model, report, tokens = taken(path, reverse_layers=1)
    assert not any("reverse_decoder" in name for name in (*report.left, *report.fresh))
    theirs = "decoder.right_decoder"
    layer = model.reverse_decoder.layers[0]
    assert torch.equal(layer.own.query.weight, state[f"{theirs}.decoders.0.self_attn.linear_q.weight"])
    assert torch.equal(layer.encoder.value.weight, state[f"{theirs}.decoders.0.src_attn.linear_v.weight"])
    assert torch.equal(layer.ffn.w_out.bias, state[f"{theirs}.decoders.0.feed_forward.w_2.bias"])
    assert torch.equal(model.reverse_decoder.norm.weight, state[f"{theirs}.after_norm.weight"])
    place = tokens.tokens.index("你")
    assert torch.equal(model.reverse_decoder.out.weight[place], state[f"{theirs}.output_layer.weight"][2])
    with pytest.raises(UserError, match=r"set model\.reverse_layers=1"):
        taken(path, reverse_layers=2)


@pytest.mark.parametrize("kernel", [8, 5])
def test_causal_convolutions_become_centred_ones_that_look_at_nothing_ahead(tmp_path: Path, kernel: int) -> None:
    """Without a bias in the gate, of which WeNet's padding would let some through at the beginning."""
    state = checkpoint(kernel=kernel)
    for name, tensor in state.items():
        if name.endswith("pointwise_conv1.bias"):
            tensor.zero_()
    model, report, _ = taken(folder(tmp_path, state, causal=True), kernel=2 * kernel - 1)
    torch.testing.assert_close(encoded(model), wenet_encoder(state, FEATURES, causal=True), rtol=0, atol=2e-5)
    assert any(f"of {kernel} frames are now of {2 * kernel - 1}" in note for note in report.notes)
    (tmp_path / "train.yaml").unlink()
    again, report, _ = taken(tmp_path, kernel=2 * kernel - 1)
    assert torch.equal(encoded(again), encoded(model))
    assert any("no train.yaml" in note for note in report.notes)


def test_its_blocks_become_experts_that_answer_the_same(tmp_path: Path) -> None:
    state = checkpoint()
    moe = MoESettings(experts=[3, 7], expert_width=FF // 2)
    model, report, _ = taken(folder(tmp_path, state, causal=False), moe=moe)
    torch.testing.assert_close(encoded(model), wenet_encoder(state, FEATURES, causal=False), rtol=0, atol=2e-5)
    assert sum("from a dense block" in words for words in report.grown) == 5


def test_rows_are_taken_by_their_unit_and_the_normalisation_comes_along(tmp_path: Path) -> None:
    state = checkpoint()
    path = folder(tmp_path, state, causal=False)
    model, report, tokens = taken(path)
    for token, theirs in (("<blank>", 0), ("你", 2), ("H", 5), ("<sot>", 7), ("<eot>", 7)):
        place = tokens.tokens.index(token)
        assert torch.equal(model.ctc.weight[place], state["ctc.ctc_lo.weight"][theirs]), token
        assert torch.equal(model.decoder.embedding.weight[place], state["decoder.left_decoder.embed.0.weight"][theirs])
    text = state["ctc.ctc_lo.weight"][2:7].mean(0)
    torch.testing.assert_close(model.ctc.weight[tokens.tokens.index("世")], text)
    assert "ReLU" in " ".join(report.notes)
    origin = open_origin(str(path), model.settings)
    assert origin.cmvn is not None
    assert yaml.safe_load(origin.cmvn)["mean"] == pytest.approx(state["encoder.global_cmvn.mean"].tolist())
    (path / "units.txt").unlink()
    model, report, _ = taken(path)
    assert {"ctc.weight", "decoder.embedding.weight", "decoder.out.bias"} <= set(report.fresh)


def test_an_encoder_alone_will_do(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in checkpoint().items() if not name.startswith("decoder.")}
    model, report, _ = taken(folder(tmp_path, state, causal=False), decoder_layers=3)
    torch.testing.assert_close(encoded(model), wenet_encoder(state, FEATURES, causal=False), rtol=0, atol=2e-5)
    assert {name.partition(".")[0] for name in report.fresh} == {"decoder"}


def test_padding_and_export_leave_the_answer_alone(tmp_path: Path) -> None:
    model, _, _ = taken(folder(tmp_path, checkpoint(), causal=False))
    alone = encoded(model)
    padded = torch.cat([FEATURES, torch.randn(40, 80)])[None]
    with torch.inference_mode():
        together, _, _ = EncoderGraph(model)(padded, torch.tensor([len(FEATURES)]))
    torch.testing.assert_close(together[0, : len(alone)], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "encoder", "sizes", "words"),
    [
        ("", {"causal": False}, {"encoder": "conformer"}, "set model.encoder=wenet"),
        ("", {"causal": False}, {"encoder_layers": 3}, "set model.encoder_layers=2"),
        ("", {"causal": False}, {"heads": 4}, "set model.heads=2"),
        ("", {"causal": False}, {"kernel": 9}, "set model.kernel=5"),
        ("", {"causal": True}, {}, "set model.kernel=9"),
        ("", {"causal": True}, {"causal": True}, "set model.causal=false"),
        ("", {"causal": False}, {"d_ff": 32}, "set model.d_ff=24"),
        ("", {"causal": False, "activation_type": "relu"}, {}, "activation_type is relu"),
        ("encoder.encoders.1.norm_mha.bias", {"causal": False}, {}, "lacks the tensor encoder.blocks.1.norms.1.bias"),
        ("encoder.embed.out.0.bias", {"causal": False}, {}, "lacks the tensor encoder.subsampling.out.bias"),
        ("encoder.embed.out.0.weight", {"causal": False}, {}, "sub-samples by other than 4"),
        ("encoder.encoders.0.self_attn.pos_bias_u", {"causal": False}, {}, "no relative positions"),
        ("+running_mean", {"causal": False}, {}, "batch_norm"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, change: str, encoder: dict[str, object], sizes: dict[str, object], words: str
) -> None:
    state = checkpoint()
    if change.startswith("+"):
        state["encoder.encoders.0.conv_module.norm.running_mean"] = torch.zeros(D)
    elif change:
        del state[change]
    with pytest.raises(UserError) as caught:
        taken(folder(tmp_path, state, **encoder), **sizes)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
