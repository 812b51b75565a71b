"""A small classifier in one ONNX file as an annotator: what examples/attribute_classifier makes.

    pcm ──filterbank──> features [1, frames, 80] ──ONNX──> a probability for each label ──likely enough──> Opinion

The file says itself what it knows: its metadata hold `kind`, and `labels` as a JSON list in the order of its outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.annotate.annotator import Heard, Opinion, Progress, one_by_one
from operators.clip import KINDS
from operators.errors import UserError
from operators.filterbank import filterbank

NOTHING = "none"
"""The label of a clip without any event."""


class OnnxClassifier:
    """An OnnxClassifier is an ONNX file from filterbank features to probabilities of labels.

    Args:
        model: the file.
        min_probability: of the likeliest label; below it the classifier abstains.
        threads: of onnxruntime.

    Raises:
        UserError: no such file, or one that does not say what it knows.
    """

    def __init__(self, model: str, *, min_probability: float = 0.6, threads: int = 1, name: str | None = None) -> None:
        import onnxruntime

        file = Path(model).expanduser()
        if not file.is_file():
            raise UserError(f"annotator onnx: no file {model}")
        if not 0 <= min_probability <= 1:
            raise UserError(f"annotator onnx: min_probability={min_probability:g} must lie between 0 and 1")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            told = session.get_modelmeta().custom_metadata_map
            self._kind, labels = told["kind"], json.loads(told["labels"])
            if self._kind not in KINDS or not labels or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"kind {self._kind!r}, labels {labels!r}")
        except Exception as error:  # onnxruntime's exceptions have no common base
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"annotator onnx: {model} is no classifier that names its kind and labels ({line})"
            ) from None
        self._session, self._labels, self._least = session, tuple(labels), min_probability
        self._input = session.get_inputs()[0].name
        self.name = name or f"onnx/{file.stem}"

    def annotate(self, clips: Sequence[Heard], progress: Progress | None = None) -> list[Mapping[str, Opinion]]:
        """Return the opinion of each clip that the classifier is sure enough of; "none" says that no event is in it."""
        return one_by_one(clips, self._opinion, progress)

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._session

    def _opinion(self, pcm: np.ndarray) -> dict[str, Opinion]:
        features_F80 = filterbank(pcm)
        if not len(features_F80):
            return {}
        odds = self._session.run(None, {self._input: features_F80[np.newaxis].astype(np.float32)})[0].reshape(-1)
        best = int(odds.argmax())
        if odds[best] < self._least:
            return {}
        label = self._labels[best]
        if self._kind == "events" and label == NOTHING:
            return {"events": Opinion((), round(float(odds[best]), 4))}
        return {self._kind: Opinion((label,), round(float(odds[best]), 4))}
