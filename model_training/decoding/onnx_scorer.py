"""An exported model in onnxruntime, and a batch encoded by it as the search wants to see it. No torch here.

    features_BF80 ──encoder.onnx──> log_probs_BSV ──> Scorer.ctc
                          └──> encoded_BSD ──keys.onnx──> keys ──decoder.onnx + past──> Scorer.next, Scorer.score
                          │         └──reverse_keys.onnx──> keys ──reverse_decoder.onnx──> Scorer.score_reverse
                          └──> early_BSD ──speaker.onnx──> Scorer.head

Shapes: B clips, F feature frames, S encoder frames, D model width, V vocabulary, R rows (hypotheses), L tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from model_training.data.features import Cmvn
from model_training.decoding.search import HeadScores
from model_training.text.tokenizer import Tokenizer
from operators.errors import UserError

CONFIG = "config.json"
CMVN = "cmvn.json"
STREAM = "encoder_stream.onnx"
"""The encoder that takes a chunk at a time, in exports of models that were trained for it."""
SPEAKER = "speaker.onnx"
"""The speaker head, in exports of models that have one."""
SCHEMA_VERSION = 1
FORMATS = ("safetensors", "onnx", "onnx-int8", "sherpa", "sherpa-int8")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_FIX = "say device cpu, or pip uninstall onnxruntime and pip install 'onnxruntime-gpu[cuda,cudnn]' in its place"
_REVERSE = "reverse_"
"""Before the names of a right-to-left decoder's graphs."""
_KEYS = {"format", "group", "model", "tokenizer", "task_order", "tasks", "max_frames", "files"}


@dataclass(frozen=True, slots=True, eq=False)
class ExportFolder:
    """An ExportFolder is what an exported folder says of itself: config.json, normalisation and tokenizer, checked
    against each other.
    """

    path: Path
    config: Mapping[str, Any]
    cmvn: Cmvn
    tokenizer: Tokenizer

    @staticmethod
    def open(folder: str | Path) -> ExportFolder:
        """Read a folder that export wrote.

        Raises:
            UserError: no such folder, no export in it, or a file that is missing, cut short or another's.
        """
        path = Path(folder)
        if not path.is_dir():
            raise UserError(f"no folder {path}: give one that 'python -m model_training export' wrote")
        sizes = sorted(one.parent.name for one in path.glob(f"*/{CONFIG}"))
        if sizes and not (path / CONFIG).exists():
            raise UserError(f"{path} holds several exports: give one of them, for example {path / sizes[0]}")
        config = _read_json(path / CONFIG)
        if config.get("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{path} is an export of another version ({config.get('schema_version')}): export it again")
        missing = _KEYS - config.keys()
        if missing or config["format"] not in FORMATS or not isinstance(config["files"], dict):
            raise UserError(f"{path / CONFIG} is damaged ({', '.join(sorted(missing)) or 'format'}): export it again")
        for name, size in config["files"].items():
            if not (path / name).is_file() or (path / name).stat().st_size != size:
                raise UserError(f"{path / name} is missing or not {size} bytes long: copy the folder again")
        tokenizer = Tokenizer.load(path)
        if tokenizer.fingerprint != config["tokenizer"]:
            raise UserError(f"{path} holds the tokenizer of another model: export it again")
        return ExportFolder(path, config, Cmvn.from_dict(_read_json(path / CMVN)), tokenizer)


class OnnxModel:
    """An OnnxModel holds the graphs of a folder. A decoder is loaded when it is first needed: CTC alone needs none.

    Args:
        threads: of onnxruntime; 0 lets it take all cores.
        stream: the encoder is the one that takes a chunk at a time.
        device: auto, cpu, cuda or cuda:1. `device` of the object says which it became.

    Raises:
        UserError: a folder of another format, with `stream` of a model that was not trained for chunks, or a card that
            is asked for and not there.
    """

    def __init__(self, folder: ExportFolder, *, threads: int = 0, stream: bool = False, device: str = "cpu") -> None:
        if folder.config["format"] not in ("onnx", "onnx-int8"):
            raise UserError(f"{folder.path} holds {folder.config['format']}: export it with --format onnx or onnx-int8")
        if threads < 0:
            raise UserError(f"threads must be 0 (all cores) or more, not {threads}")
        if stream and STREAM not in folder.config["files"]:
            raise UserError(
                f"{folder.path} was not trained for chunks: train it with model.dynamic_chunks=true model.causal=true "
                "and export it, or leave --stream out"
            )
        self._folder, self._threads = folder, threads
        self.device, self._must = pick_provider(device), device != "auto"
        self.encoder = self._session(STREAM if stream else "encoder.onnx")
        self.has_reverse = f"{_REVERSE}decoder.onnx" in folder.config["files"]
        has_head = SPEAKER in folder.config["files"]
        self.head_attributes: tuple[str, ...] = (
            tuple(folder.config["model"]["speaker_head"]["attributes"]) if has_head else ()
        )
        """What a speaker head answers; empty: there is none."""

    @cached_property
    def decoder(self) -> _Decoder:
        return _Decoder(self._session("keys.onnx"), self._session("decoder.onnx"))

    @cached_property
    def reverse_decoder(self) -> _Decoder:
        return _Decoder(self._session(f"{_REVERSE}keys.onnx"), self._session(f"{_REVERSE}decoder.onnx"))

    @cached_property
    def speaker_head(self) -> Any:
        return self._session(SPEAKER)

    def _session(self, name: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        path = self._folder.path / name
        on_card = self.device != "cpu"
        card = (_CUDA, {"device_id": int(self.device.partition(":")[2] or 0)}) if on_card else None
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[card, _CPU] if card else [_CPU])
        except Exception as error:  # onnxruntime's exceptions have no common base
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be loaded ({reason}): export it again") from None
        if on_card and _CUDA not in session.get_providers():
            # It is built for CUDA, but finds no card, or not CUDA's libraries: it takes the CPU and goes on.
            if self._must:
                raise UserError(
                    f"onnxruntime cannot use {self.device} here, for want of the card, its driver or CUDA's libraries: "
                    f"{_FIX}"
                )
            self.device = "cpu"
        return session


def pick_provider(device: str) -> str:
    """Return where graphs are to run: auto is a card where onnxruntime offers one, else the CPU.

    Raises:
        UserError: another name than auto, cpu, cuda and cuda:N, or an onnxruntime without CUDA where that was asked
            for.
    """
    if device == "cpu":
        return device
    if not re.fullmatch(r"auto|cuda(:\d+)?", device):
        raise UserError(f"no device is called {device}: say auto, cpu, cuda, or cuda:1")
    import onnxruntime

    if _CUDA in onnxruntime.get_available_providers():
        if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on: those that pip installed, for torch or for itself
            onnxruntime.preload_dlls()
        return "cuda" if device == "auto" else device
    if device != "auto":
        raise UserError(f"this onnxruntime ({onnxruntime.__version__}) has no CUDA, and {device} was asked for: {_FIX}")
    return "cpu"


class _Decoder:
    """The two graphs of a decoder, and which inputs hold the encoder's keys and the past."""

    def __init__(self, keys: Any, tokens: Any) -> None:
        self.keys, self.tokens = keys, tokens
        inputs = [part.name for part in tokens.get_inputs()]
        self.encoder_names = [name for name in inputs if name.startswith("encoder_")]
        self.past_names = [name for name in inputs if name.startswith("past_")]

    def run(
        self,
        tokens_RL: np.ndarray,
        lengths_R: np.ndarray,
        keys: list[np.ndarray],
        past: list[np.ndarray],
        outputs: list[str] | None = None,
    ) -> list[np.ndarray]:
        feed = dict(zip([*self.encoder_names, *self.past_names], [*keys, *past], strict=True))
        feed |= {"tokens": tokens_RL.astype(np.int64, copy=False), "encoded_lengths": lengths_R}
        answer: list[np.ndarray] = self.tokens.run(outputs, feed)
        return answer


class OnnxScorer:
    """An OnnxScorer is the search's Scorer of one batch; it encodes when built."""

    def __init__(self, model: OnnxModel, features_BF80: np.ndarray, lengths_B: np.ndarray) -> None:
        """Encode features, float32 with CMVN applied, whose lengths are in feature frames."""
        self._take(
            model,
            *model.encoder.run(
                None, {"features": features_BF80.astype(np.float32, copy=False), "lengths": lengths_B.astype(np.int64)}
            ),
        )

    @classmethod
    def of_encoded(
        cls, model: OnnxModel, encoded_BSD: np.ndarray, log_probs_BSV: np.ndarray, early_BSD: np.ndarray | None = None
    ) -> OnnxScorer:
        """Return the scorer of clips of one length that were encoded before.

        Args:
            early_BSD: what the speaker head hears of them; None where there is none.
        """
        scorer = cls.__new__(cls)
        lengths_B = np.full(len(encoded_BSD), encoded_BSD.shape[1], np.int64)
        scorer._take(model, encoded_BSD, lengths_B, log_probs_BSV, early_BSD)
        return scorer

    def _take(
        self,
        model: OnnxModel,
        encoded_BSD: np.ndarray,
        lengths: np.ndarray,
        log_probs_BSV: np.ndarray,
        early_BSD: np.ndarray | None = None,
    ) -> None:
        self._model, self._early_BSD = model, early_BSD
        self._encoded_BSD, self._lengths_B, self._log_probs_BSV = encoded_BSD, lengths, log_probs_BSV
        self.frames = [int(length) for length in lengths]
        self._past: list[np.ndarray] = []
        self._clips_R = np.zeros(0, np.int64)
        self._keys_R: list[np.ndarray] = []

    def ctc(self, clip: int) -> np.ndarray:
        log_probs_SV: np.ndarray = self._log_probs_BSV[clip, : self.frames[clip]]
        return log_probs_SV

    def next(self, ids_HL: np.ndarray, clips_H: np.ndarray, parents_H: np.ndarray | None) -> np.ndarray:
        if parents_H is None:
            past, tokens_RL = _no_past(self._keys, len(ids_HL)), ids_HL
        else:
            moved = len(parents_H) != len(self._past[0]) or (parents_H != np.arange(len(parents_H))).any()
            past = [part[parents_H] for part in self._past] if moved else self._past
            tokens_RL = ids_HL[:, -1:]
        logits_RLV, self._past = self._run(tokens_RL, clips_H, past)
        return _log_softmax(logits_RLV[:, -1])

    def score(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        return _log_softmax(self._run(ids_HL, clips_H, _no_past(self._keys, len(ids_HL)))[0])

    @property
    def has_reverse(self) -> bool:
        return self._model.has_reverse

    def score_reverse(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        keys = [part[clips_H] for part in self._reverse_keys]
        past = _no_past(self._reverse_keys, len(ids_HL))
        decoder = self._model.reverse_decoder
        return _log_softmax(decoder.run(ids_HL, self._lengths_B[clips_H], keys, past, ["logits"])[0])

    def head(self, clip: int) -> HeadScores | None:
        if self._head_BV is None:
            return None
        return HeadScores(self._model.head_attributes, self._head_BV[clip])

    @cached_property
    def _head_BV(self) -> np.ndarray | None:
        if self._early_BSD is None:
            return None
        heard = {"early": self._early_BSD, "encoded_lengths": self._lengths_B}
        logits_BV: np.ndarray = self._model.speaker_head.run(None, heard)[0]
        return logits_BV

    def _run(
        self, tokens_RL: np.ndarray, clips_R: np.ndarray, past: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        keys = self._rows(clips_R)
        logits_RLV, *present = self._model.decoder.run(tokens_RL, self._lengths_B[clips_R], keys, past)
        return logits_RLV, present

    @cached_property
    def _keys(self) -> list[np.ndarray]:
        keys: list[np.ndarray] = self._model.decoder.keys.run(None, {"encoded": self._encoded_BSD})
        return keys

    @cached_property
    def _reverse_keys(self) -> list[np.ndarray]:
        keys: list[np.ndarray] = self._model.reverse_decoder.keys.run(None, {"encoded": self._encoded_BSD})
        return keys

    def _rows(self, clips_R: np.ndarray) -> list[np.ndarray]:
        """Return the encoder's keys of every row, kept while the rows stay those of the same clips."""
        if len(self._clips_R) != len(clips_R) or (self._clips_R != clips_R).any():
            self._clips_R, self._keys_R = clips_R.copy(), [part[clips_R] for part in self._keys]
        return self._keys_R


def _no_past(keys: list[np.ndarray], rows: int) -> list[np.ndarray]:
    _, heads, _, width = keys[0].shape
    return [np.zeros((rows, heads, 0, width), np.float32) for _ in keys]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probs


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): is it a folder that export wrote?") from None
    except ValueError:
        raise UserError(f"{path} is damaged: copy the folder again, or export again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: copy the folder again, or export again")
    return content
