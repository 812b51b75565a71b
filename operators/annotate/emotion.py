"""emotion2vec as an annotator (Ma et al. 2023): one emotion a clip, through FunASR.

clip ──AutoModel.generate, of the whole utterance──> labels, scores ──the best──> Opinion, or none (other, unknown)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.annotate.annotator import Heard, Opinion, Progress, one_by_one
from operators.asr.funasr import load_funasr
from operators.speech.quiet import quiet

EMOTIONS = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "sad": "sadness",
    "surprised": "surprise",
}
"""By the English half of the model's labels (生气/angry). What is not here, other and <unk>, abstains."""


class FunAsrEmotion:
    """A FunAsrEmotion is an emotion2vec behind FunASR's `AutoModel`.

    model: folder, or name on the hub: "ms" ModelScope or "hf" Hugging Face. min_score: a less certain emotion is no
    opinion. threads: of torch, for the whole process. model_options go to FunASR as they are.

    Raises UserError when the model cannot be found or loaded, or the device is not there.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        threads: int = 1,
        min_score: float = 0.0,
        hub: str = "ms",
        local_files_only: bool = False,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = f"emotion2vec/{Path(model).name}"
        self._min_score = min_score
        options = model_options or {}
        self._model = load_funasr(model, device, threads, hub, local_files_only, options, "annotate.annotators")

    def annotate(self, clips: Sequence[Heard], progress: Progress | None = None) -> list[Mapping[str, Opinion]]:
        """Return the emotion of each clip."""
        return one_by_one(clips, self._opinion, progress)

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._model

    def _opinion(self, pcm: np.ndarray) -> dict[str, Opinion]:
        audio = np.multiply(pcm, 2.0**-15, dtype=np.float32)
        with quiet():
            (result,) = self._model.generate(input=[audio], granularity="utterance", extract_embedding=False)
        return emotion_of(result["labels"], result["scores"], self._min_score)


def emotion_of(labels: Sequence[str], scores: Sequence[float], min_score: float) -> dict[str, Opinion]:
    """Return the opinion that a clip's scores are, none where the best label is no emotion or is not certain enough."""
    if not scores:
        return {}
    best = max(range(len(scores)), key=lambda place: scores[place])
    emotion = EMOTIONS.get(labels[best].rpartition("/")[2].strip().lower())
    if emotion is None or scores[best] < min_score:
        return {}
    return {"emotion": Opinion((emotion,), round(float(scores[best]), 4))}
