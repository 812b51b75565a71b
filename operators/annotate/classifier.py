"""Audio classifiers of transformers as annotators: one kind of attribute each, from a folder or a hub name.

clip ──feature extractor──> AutoModelForAudioClassification ──softmax: the best label─────────────> Opinion, or none
                                                            ──of events, sigmoid: all that are sure┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.annotate.annotator import Heard, Opinion, Progress, one_by_one
from operators.clip import KINDS, SAMPLE_RATE
from operators.errors import UserError
from operators.speech.quiet import quiet


class HubClassifier:
    """A HubClassifier is an AutoModelForAudioClassification.

    model: folder, or name on Hugging Face. kind: what its labels are of (operators.clip.KINDS). labels: what its labels
    are called here; with a table, a label that is not in it abstains, without one they stay as they are. min_score: a
    less certain label is no opinion; of events, those that reach it are all there are. threads: of torch, for the whole
    process. Code that a repository brings is never run.

    Raises UserError when the model cannot be found or loaded, hears another rate than 16 kHz, or the device is not
    there.
    """

    def __init__(
        self,
        model: str,
        *,
        kind: str,
        labels: Mapping[str, str] | None = None,
        min_score: float = 0.5,
        device: str = "cpu",
        threads: int = 1,
        local_files_only: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"classifier {model}: kind={kind}: expected one of {', '.join(KINDS)}")
        self.name = f"classifier/{Path(model).name}"
        self._kind, self._min_score, self._device = kind, min_score, device
        with quiet():
            import torch
            from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

            if device.startswith("cuda") and not torch.cuda.is_available():
                raise UserError(f"classifier {model}: device={device}, but torch sees no CUDA device: set device=cpu")
            torch.set_num_threads(threads)
            reach: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
            try:
                self._extractor = AutoFeatureExtractor.from_pretrained(model, **reach)
                self._model = AutoModelForAudioClassification.from_pretrained(model, use_safetensors=True, **reach)
            except Exception as error:  # a wrong folder surfaces as OSError, ValueError, KeyError and more
                line = (str(error).strip() or "no reason given").splitlines()[0]
                raise UserError(f"classifier {model} cannot be loaded ({type(error).__name__}: {line})") from error
        if self._extractor.sampling_rate != SAMPLE_RATE:
            raise UserError(f"classifier {model} hears {self._extractor.sampling_rate} Hz: give one for {SAMPLE_RATE}")
        self._model.eval().to(device)
        own = [str(self._model.config.id2label[number]) for number in range(self._model.config.num_labels)]
        if labels is not None and (unknown := sorted(labels.keys() - set(own))):
            raise UserError(f"classifier {model} has no label {unknown[0]}: it has {', '.join(own)}")
        self._labels = own if labels is None else [labels.get(label, "") for label in own]

    def annotate(self, clips: Sequence[Heard], progress: Progress | None = None) -> list[Mapping[str, Opinion]]:
        """Return an opinion of the classifier's kind for each clip."""
        return one_by_one(clips, self._opinion, progress)

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._model

    def _opinion(self, pcm: np.ndarray) -> dict[str, Opinion]:
        import torch

        audio = np.multiply(pcm, 2.0**-15, dtype=np.float32)
        inputs = self._extractor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            logits_L = self._model(**{name: each.to(self._device) for name, each in inputs.items()}).logits[0]
        scores_L = (logits_L.sigmoid() if self._kind == "events" else logits_L.softmax(-1)).double().cpu().numpy()
        return opinion_of(self._kind, self._labels, scores_L, self._min_score)


def opinion_of(kind: str, labels: Sequence[str], scores_L: np.ndarray, min_score: float) -> dict[str, Opinion]:
    """Return the opinion that scores of labels are, none where nothing is certain enough. A label "" abstains."""
    if kind == "events":
        sure = [place for place, label in enumerate(labels) if label and scores_L[place] >= min_score]
        least = min((float(scores_L[place]) for place in sure), default=None)
        return {kind: Opinion(tuple(labels[place] for place in sure), None if least is None else round(least, 4))}
    best = int(np.argmax(scores_L))
    if not labels[best] or scores_L[best] < min_score:
        return {}
    return {kind: Opinion((labels[best],), round(float(scores_L[best]), 4))}
