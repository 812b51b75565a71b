"""FunASR's FSMN-VAD network: how likely each 10-ms frame is silence. `operators.speech.vad.FsmnVad` makes spans of it.

    int16 PCM ──fbank──> [T, 80] ──5 neighbours, CMVN──> [T, 400] ──network, block by block──> P(silence) [T]

The network is causal and carries a cache from block to block, so cutting the input into blocks changes nothing. The
features follow FunASR's `WavFrontend`, in blocks too, so that 30 minutes never lie in memory as features five wide.

Source: github.com/modelscope/FunASR `funasr/models/fsmn_vad_streaming`; Zhang et al., arXiv:1803.05030.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from operators.clip import SAMPLE_RATE
from operators.errors import UserError

HOP = 160
FRAME = 400
_BLOCK = 6000
"""frames per call of the network: one minute."""


class Network(Protocol):
    """A Network is a causal network over features, with a state that the caller carries."""

    def start(self) -> Any:
        """Return the state before the first frame."""
        ...

    def __call__(self, features_TD: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """float32 [T, 400] before CMVN -> P(silence) float32 [T], and the state after them."""
        ...


def load_network(model: str | Path, *, threads: int = 1, device: str = "cpu") -> Network:
    """Load a network; `model` is a directory with `model.onnx` or with FunASR's `model.pt`, or a hub name that FunASR
    downloads.
    """
    folder = Path(model).expanduser()
    if (folder.is_absolute() or str(model).startswith(".")) and not folder.is_dir():
        raise UserError(f"vad: no FSMN-VAD model at {model}; give a directory with model.onnx or model.pt")
    if (folder / "model.onnx").is_file():
        return OnnxNetwork(folder, threads)
    return TorchNetwork(str(folder), device)


def silence(network: Network, pcm: np.ndarray) -> np.ndarray:
    """Return P(silence) of every whole frame of `pcm` (int16 [samples], 16 kHz): float32 [frames], none under 400
    samples.
    """
    fbank_TF = _fbank(pcm)
    frames = len(fbank_TF)
    found = np.zeros(frames, np.float32)
    state = network.start()
    for begin in range(0, frames, _BLOCK):
        end = min(begin + _BLOCK, frames)
        # low frame rate features: 5 neighbours side by side, the first and the last frame repeated at the ends
        around = np.clip(np.arange(begin, end)[:, None] + np.arange(-2, 3), 0, frames - 1)
        found[begin:end], state = network(fbank_TF[around].reshape(end - begin, 400), state)
        # the network never heard digital silence or bare dither (the last bit), and calls the first frames of them
        # speech
        sound = sliding_window_view(pcm[begin * HOP : (end - 1) * HOP + FRAME], FRAME)[::HOP]
        found[begin:end][(sound.max(axis=1) <= 1) & (sound.min(axis=1) >= -1)] = 1.0
    return found


def _fbank(pcm: np.ndarray) -> np.ndarray:
    """Log mel filterbank, float32 [frames, 80], by Kaldi's rules as FunASR sets them."""
    import torch
    from torchaudio.compliance import kaldi

    frames = 0 if len(pcm) < FRAME else 1 + (len(pcm) - FRAME) // HOP
    fbank_TF = np.zeros((frames, 80), np.float32)
    for begin in range(0, frames, _BLOCK):
        end = min(begin + _BLOCK, frames)
        block = pcm[begin * HOP : (end - 1) * HOP + FRAME].astype(np.float32)
        fbank_TF[begin:end] = kaldi.fbank(
            torch.from_numpy(block)[None],
            num_mel_bins=80,
            frame_length=25,
            frame_shift=10,
            dither=0.0,
            energy_floor=0.0,
            window_type="hamming",
            sample_frequency=SAMPLE_RATE,
        ).numpy()
    return fbank_TF


class OnnxNetwork:
    """An OnnxNetwork runs FSMN through onnxruntime, on the CPU."""

    CACHES = tuple((f"in_cache{i}", (1, 128, 19, 1)) for i in range(4))

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        if not (folder / "am.mvn").is_file():
            raise UserError(f"vad: {folder} holds model.onnx but no am.mvn; copy FunASR's whole model directory")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        weights = str(folder / "model.onnx")
        try:
            self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception types are not public
            raise UserError(f"vad: {weights} is not a model that onnxruntime can run") from error
        self._shift, self._scale = _read_cmvn(folder / "am.mvn")

    def start(self) -> list[np.ndarray]:
        return [np.zeros(shape, np.float32) for _, shape in self.CACHES]

    def __call__(self, features_TD: np.ndarray, state: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        feed = {"speech": ((features_TD + self._shift) * self._scale)[None]}
        feed |= {name: cache for (name, _), cache in zip(self.CACHES, state, strict=True)}
        probabilities, *state = self._session.run(None, feed)
        return probabilities[0, :, 0], state


def _read_cmvn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale, float32 [400] each, of a Kaldi nnet text file: `<AddShift>`, then `<Rescale>`, a vector each."""
    vectors = re.findall(r"<LearnRateCoef>\s+\S+\s+\[([^\]]*)\]", path.read_text("utf-8"))
    if len(vectors) != 2:
        raise UserError(f"vad: {path} is not a FunASR am.mvn file; copy FunASR's whole model directory")
    shift, scale = (np.array(vector.split(), np.float32) for vector in vectors)
    return shift, scale


class TorchNetwork:
    """A TorchNetwork does the same through FunASR's AutoModel: `model.pt` directories and hub names."""

    def __init__(self, model: str, device: str) -> None:
        try:
            # importing and loading FunASR prints
            with contextlib.redirect_stdout(None), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from funasr import AutoModel

                auto = AutoModel(model=model, device=device, disable_update=True, disable_pbar=True, log_level="ERROR")
            self._encoder = auto.model.encoder.eval()
            self._shift, self._scale = auto.kwargs["frontend"].cmvn.numpy()
        except Exception as error:  # a missing download, a wrong directory and a wrong model all surface differently
            raise UserError(
                f"vad: FunASR cannot load the FSMN-VAD model {model!r} ({type(error).__name__}); "
                "set vad.model to a directory with model.onnx or model.pt"
            ) from error
        self._device = device

    def start(self) -> dict[str, Any]:
        return {}

    def __call__(self, features_TD: np.ndarray, state: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        import torch

        with torch.inference_mode():
            feats = torch.from_numpy((features_TD + self._shift) * self._scale)[None].to(self._device)
            return self._encoder(feats, cache=state)[0, :, 0].cpu().numpy(), state
