"""Speaker embeddings: a stretch of speech in, a vector out that is near for one voice and far for two.

    pcm ─┬─filterbank, mean off──> ONNX (WeSpeaker, 3D-Speaker, one's own) ─┐
         ├─FunASR, CAM++ ───────────────────────────────────────────────────┼──> float32 [D]
         └─pyannote, a local folder ────────────────────────────────────────┘

`module:Class` is an engine of one's own: `embed` as below, and `close`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.filterbank import filterbank
from operators.speech.quiet import quiet


class Embedder(Protocol):
    """An Embedder is what the diarisation needs of an engine; it loads its model in the constructor."""

    name: str

    def embed(self, pcm: np.ndarray) -> np.ndarray:
        """Return float [D] of int16 [samples] at 16 kHz, half a second and more."""
        ...

    def close(self) -> None: ...


class OnnxEmbedder:
    """An OnnxEmbedder is an ONNX file from 80 filterbank bins [1, frames, 80], their mean over time taken off, to an
    embedding [1, D]: the form of WeSpeaker's and 3D-Speaker's exports, and of a model of one's own.

    Raises:
        UserError: no such file, or a graph of another form.
    """

    def __init__(self, model: str, *, threads: int = 1, device: str = "cpu") -> None:
        import onnxruntime

        file = Path(model).expanduser()
        if not file.is_file():
            raise UserError(f"speaker model {model}: no such ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"speaker model {model} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 3 or inputs[0].shape[2] not in (80, None, *_names(inputs[0])):
            raise UserError(f"speaker model {model}: it takes no features of shape [1, frames, 80]")
        self._input, self.name = inputs[0].name, f"onnx/{file.stem}"

    def embed(self, pcm: np.ndarray) -> np.ndarray:
        features_F80 = filterbank(pcm)
        features_F80 = features_F80 - features_F80.mean(axis=0)
        found = self._session.run(None, {self._input: features_F80[np.newaxis].astype(np.float32)})[0]
        return np.asarray(found, np.float32).reshape(-1)

    def close(self) -> None:
        del self._session


def _names(given: Any) -> tuple[str, ...]:
    """Return the names of an input's open dimensions."""
    return tuple(size for size in given.shape if isinstance(size, str))


class FunAsrEmbedder:
    """A FunAsrEmbedder is CAM++ or ERes2Net through FunASR: a folder, or a name on its hub such as cam++.

    Raises:
        UserError: no such model, or one that gives no embedding.
    """

    def __init__(self, model: str = "cam++", *, threads: int = 1, device: str = "cpu", hub: str = "ms") -> None:
        from operators.asr.funasr import load_funasr

        self._model = load_funasr(model, device, threads, hub, False, {}, "annotate.speaker")
        self.name = f"funasr/{Path(model).name}"

    def embed(self, pcm: np.ndarray) -> np.ndarray:
        with quiet():
            (found,) = self._model.generate(input=[np.multiply(pcm, 2.0**-15, dtype=np.float32)])
        if "spk_embedding" not in found:
            raise UserError(f"speaker model {self.name} gives no embedding: give CAM++ or ERes2Net")
        return np.asarray(found["spk_embedding"].cpu(), np.float32).reshape(-1)

    def close(self) -> None:
        del self._model


class PyannoteEmbedder:
    """A PyannoteEmbedder is an embedding of pyannote.audio from a local folder with pytorch_model.bin, or that file.

    Raises:
        UserError: no such folder, or what is in it is no embedding.
    """

    def __init__(self, model: str, *, threads: int = 1, device: str = "cpu") -> None:
        checkpoint = Path(model).expanduser()
        checkpoint = checkpoint / "pytorch_model.bin" if checkpoint.is_dir() else checkpoint
        if not checkpoint.is_file():
            raise UserError(f"speaker model {model}: no pytorch_model.bin there: give a folder that holds it")
        with quiet():
            import torch
            from pyannote.audio import Inference, Model

            torch.set_num_threads(threads)
            try:
                loaded: Any = Model.from_pretrained(checkpoint)
                self._inference = Inference(loaded, window="whole", device=torch.device(device))
            except Exception as error:  # a wrong file surfaces as anything
                line = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"speaker model {model}: pyannote cannot load it: {line}") from None
        self._torch, self.name = torch, f"pyannote/{Path(model).name}"

    def embed(self, pcm: np.ndarray) -> np.ndarray:
        waveform = self._torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
        with quiet():
            found = self._inference({"waveform": waveform, "sample_rate": SAMPLE_RATE})
        return np.asarray(found, np.float32).reshape(-1)

    def close(self) -> None:
        del self._inference


ENGINES: dict[str, type] = {"onnx": OnnxEmbedder, "cam++": FunAsrEmbedder, "pyannote": PyannoteEmbedder}
"""Embeddings that come with the package, by the name that a setting gives."""
