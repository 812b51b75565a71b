"""An export that sherpa-onnx runs, on phones and in eleven languages: encoder and CTC as one graph with its metadata.

    SpeechModel of one size ──CtcGraph──trace──> model.onnx + metadata     Tokenizer ──> tokens.txt

sherpa-onnx computes features by itself, for every kind of model in another way. Of its offline CTC models only those of
the kind `fire-red-asr-2-ctc` hear what ours hear: Kaldi's filterbank over int16 samples, 80 bins from 20 Hz to half the
sample rate, whole windows only, no dither, then the mean and scale that the metadata names. (`wenet_ctc` adds dither,
ends at 7.6 kHz and sets its windows 7.5 ms earlier.) Hence that kind.

Legend: B clips, F feature frames, S encoder frames, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model_training.data.features import Cmvn
from model_training.export import onnx_files
from model_training.export.onnx_modules import traceable
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer

MODEL, TOKENS = "model.onnx", "tokens.txt"
KIND = "fire-red-asr-2-ctc"
SUBSAMPLING = 4
_SILENCE = "SIL"
"""A token of this name is left out of every text by sherpa-onnx."""
_WORD_JOINER = "\u2060"


class CtcGraph(nn.Module):
    """A CtcGraph computes features (B, F, 80) normalised, lengths (B) -> log_probs (B, S, V) in which nothing but text,
    events and the blank is likely, and their lengths (B).
    """

    inputs = ("features", "lengths")
    outputs = ("log_probs", "log_probs_lengths")

    def __init__(self, model: SpeechModel, allowed_V: np.ndarray) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("closed_V", torch.from_numpy(np.where(allowed_V, 0.0, -1e4).astype(np.float32)))

    def forward(self, features_BF80: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        encoded_BSD, lengths_B = self.model.encode(features_BF80, lengths_B, self.model.sizes[0])
        return self.model.ctc_logits(encoded_BSD).log_softmax(-1) + self.closed_V, lengths_B


def write(
    model: SpeechModel,
    folder: Path,
    tokenizer: Tokenizer,
    allowed_V: np.ndarray,
    cmvn: Cmvn,
    *,
    int8: bool = False,
    one_file_bytes: int = onnx_files.ONE_FILE_BYTES,
) -> None:
    """Write model.onnx and tokens.txt of a pruned model into a folder that exists.

    allowed_V: what CTC may write (V,) bool. int8: weights of products as 8-bit integers.
    """
    exact = folder / f"exact-{MODEL}" if int8 else folder / MODEL
    onnx_files.write_graph(
        CtcGraph(traceable(model.cpu()), allowed_V),
        (torch.zeros(2, 47, 80), torch.tensor([47, 38])),
        exact,
        CtcGraph.inputs,
        CtcGraph.outputs,
        {
            "features": {0: "batch", 1: "frames"},
            "lengths": {0: "batch"},
            "log_probs": {0: "batch", 1: "encoded_frames"},
            "log_probs_lengths": {0: "batch"},
        },
        one_file_bytes,
    )
    if int8:
        onnx_files.quantise(exact, folder / MODEL, one_file_bytes=one_file_bytes)
        for part in folder.glob(f"{exact.name}*"):
            part.unlink()
    _add_metadata(folder / MODEL, metadata(tokenizer, cmvn))
    (folder / TOKENS).write_text(tokens(tokenizer), encoding="utf-8")


def metadata(tokenizer: Tokenizer, cmvn: Cmvn) -> dict[str, str]:
    """Return what sherpa-onnx reads in the graph's metadata."""
    return {
        "model_type": KIND,
        "subsampling_factor": str(SUBSAMPLING),
        "vocab_size": str(len(tokenizer)),
        "cmvn_mean": _floats(cmvn.mean),
        "cmvn_inv_stddev": _floats(cmvn.istd),
    }


def tokens(tokenizer: Tokenizer) -> str:
    """Return tokens.txt: a line for every unit, its spelling and its id."""
    spelt = (token + _WORD_JOINER if token == _SILENCE else token for token in tokenizer.tokens)
    return "".join(f"{token} {number}\n" for number, token in enumerate(spelt))


def _floats(values: np.ndarray) -> str:
    return ",".join(f"{value:.9g}" for value in values.tolist())


def _add_metadata(path: Path, values: dict[str, str]) -> None:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(model, values)
    path.write_bytes(model.SerializeToString())
