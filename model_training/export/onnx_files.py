"""ONNX files of a pruned model: written, checked, and made small.

    SpeechModel of one group ──trace──> encoder.onnx  keys.onnx  decoder.onnx ──quantise──> the same in 8 bits
                                        reverse_keys.onnx  reverse_decoder.onnx    where a decoder reads from the end
                                        encoder_stream.onnx, where the model was trained for chunks
                                        speaker.onnx, where it has a speaker head

A file that would exceed what protobuf can hold keeps its weights beside it in <name>.onnx.data.

int8 is onnxruntime's dynamic quantisation: weights as 8-bit integers with a scale per output channel, activations
quantised while running. Weights use 7 of the 8 bits, because processors without VNNI add two products in 16 bits and
would saturate: so no processor is worse than another. Routers, convolutions, the token embedding and the speaker head
stay in float32.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from model_training.config import ModelSettings
from model_training.decoding.onnx_scorer import SPEAKER, STREAM
from model_training.export.onnx_modules import (
    DecoderGraph,
    EncoderGraph,
    KeysGraph,
    SpeakerGraph,
    StreamGraph,
    early_names,
    traceable,
)
from model_training.model.decoder import Decoder
from model_training.model.speech_model import SpeechModel

OPSET = 17
GRAPHS = ("encoder.onnx", "keys.onnx", "decoder.onnx")
REVERSE = "reverse_"
"""Before the names of a right-to-left decoder's graphs."""
ONE_FILE_BYTES = 1_800_000_000
"""Weights up to this size stay inside the .onnx file; protobuf ends at 2 GiB."""


def write_graphs(model: SpeechModel, folder: Path, *, one_file_bytes: int = ONE_FILE_BYTES) -> None:
    """Write `graphs` of a pruned model into a folder that exists."""
    model = traceable(model.cpu())
    B, F = 2, 47  # an example; both are free in the graph
    features_BF80, lengths_B = torch.zeros(B, F, 80), torch.tensor([F, F - 9])
    encoder = EncoderGraph(model)
    write_graph(
        encoder,
        (features_BF80, lengths_B),
        folder / "encoder.onnx",
        encoder.inputs,
        encoder.outputs,
        {
            "features": {0: "batch", 1: "frames"},
            "lengths": {0: "batch"},
            "encoded": {0: "batch", 1: "encoded_frames"},
            "encoded_lengths": {0: "batch"},
            "log_probs": {0: "batch", 1: "encoded_frames"},
            **{name: {0: "batch", 1: "encoded_frames"} for name in early_names(model)},
        },
        one_file_bytes,
    )
    if model.speaker_head is not None:
        _write_head(SpeakerGraph(model.speaker_head), model.settings.d_model, folder / SPEAKER, one_file_bytes)
    if model.settings.dynamic_chunks:
        _write_stream(StreamGraph(model), folder / STREAM, one_file_bytes)
    _write_decoder(model, model.decoder, folder, "", one_file_bytes)
    if model.reverse_decoder is not None:
        _write_decoder(model, model.reverse_decoder, folder, REVERSE, one_file_bytes)


def graphs(settings: ModelSettings) -> tuple[str, ...]:
    """Return the names of the files that a model of these settings becomes."""
    reverse = tuple(f"{REVERSE}{name}" for name in GRAPHS[1:]) if settings.reverse_layers else ()
    speaker = (SPEAKER,) if settings.speaker_head.attributes else ()
    return GRAPHS + reverse + ((STREAM,) if settings.dynamic_chunks else ()) + speaker


def _write_head(graph: SpeakerGraph, d_model: int, path: Path, one_file_bytes: int) -> None:
    B, S = 2, 11
    axes = {"early": {0: "batch", 1: "encoded_frames"}, "encoded_lengths": {0: "batch"}, "logits": {0: "batch"}}
    example = torch.zeros(B, S, d_model), torch.tensor([S, S - 2])
    write_graph(graph, example, path, graph.inputs, graph.outputs, axes, one_file_bytes)


def _write_decoder(model: SpeechModel, decoder: Decoder, folder: Path, before: str, one_file_bytes: int) -> None:
    settings = model.settings
    B, S, L, earlier = 2, 11, 3, 2
    width = settings.d_model // settings.heads
    keys, past, present = (_pairs(name, len(decoder.layers)) for name in ("encoder", "past", "present"))
    key_axes: dict[str, dict[int, str]] = {name: {0: "batch", 2: "encoded_frames"} for name in keys}
    write_graph(
        KeysGraph(decoder),
        (torch.zeros(B, S, settings.d_model),),
        folder / f"{before}keys.onnx",
        ("encoded",),
        keys,
        {"encoded": {0: "batch", 1: "encoded_frames"}, **key_axes},
        one_file_bytes,
    )
    write_graph(
        DecoderGraph(decoder, model.embedding_network is not None),
        (
            torch.zeros(B, L, dtype=torch.int64),
            torch.tensor([S, S - 2]),
            *(torch.zeros(B, settings.heads, S, width) for _ in keys),
            *(torch.zeros(B, settings.heads, earlier, width) for _ in past),
        ),
        folder / f"{before}decoder.onnx",
        ("tokens", "encoded_lengths", *keys, *past),
        ("logits", *present),
        {
            "tokens": {0: "batch", 1: "tokens"},
            "encoded_lengths": {0: "batch"},
            "logits": {0: "batch", 1: "tokens"},
            **key_axes,
            **{name: {0: "batch", 2: "earlier"} for name in past},
            **{name: {0: "batch", 2: "all"} for name in present},
        },
        one_file_bytes,
    )


def _write_stream(graph: StreamGraph, path: Path, one_file_bytes: int) -> None:
    axes: dict[str, dict[int, str]] = {"features": {0: "batch", 1: "frames"}}
    axes |= {name: {0: "batch", 1: "encoded_frames"} for name in graph.frames_out}
    for name in (*graph.caches, *graph.outputs[len(graph.frames_out) :]):
        axes[name] = {0: "batch"}
        if "convolution" not in name:
            axes[name] |= {2: "earlier" if name in graph.caches else "all"}
    write_graph(graph, graph.example(), path, graph.inputs, graph.outputs, axes, one_file_bytes)


def quantise(source: Path, target: Path, *, one_file_bytes: int = ONE_FILE_BYTES) -> None:
    """Write the int8 form of `source` (one of `graphs`) as `target`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source), load_external_data=False).graph
    routers = [node.name for node in graph.node if node.op_type == "MatMul" and "/router/" in node.name]
    with _silence():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=routers,
            use_external_data_format=_weights_bytes(source) > 4 * one_file_bytes,
            extra_options={"MatMulConstBOnly": True},
        )


def write_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
    one_file_bytes: int,
) -> None:
    """Trace a module into the file `path`, and check it. `axes` names the dimensions that vary, by input and output."""
    import onnx

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".trace-") as scratch, _silence():
        traced = Path(scratch) / path.name
        torch.onnx.export(
            module.eval(),
            example,
            str(traced),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(traced))
    # protobuf cannot even tell the size of a message beyond 2 GiB
    if sum(len(weight.raw_data) for weight in model.graph.initializer) <= one_file_bytes:
        onnx.save_model(model, str(path))
    else:
        onnx.save_model(
            model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data"
        )
    onnx.checker.check_model(str(path))


def _pairs(name: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{name}_{part}_{layer}" for layer in range(layers) for part in ("key", "value"))


def _weights_bytes(path: Path) -> int:
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns of every value it fixes and the quantiser logs advice: both are for us, not for the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
