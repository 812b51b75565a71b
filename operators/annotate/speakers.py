"""Who speaks in which clip of a recording: embeddings of short windows, clustered by how near they are.

    clips of a recording ──windows of 3 s──> Embedder ──cosine, average linkage──> clusters ──most of a clip──> number
                         └─pyannote's segmentation──> share of the clip in which two speak at once

Numbers count from 0 in the order of appearance, within one recording only. A clip of which no speaker has most is
nobody's: two voices under one name would teach that they are one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from operators.annotate.annotator import ClipSpeaker, Heard
from operators.annotate.embeddings import ENGINES, Embedder
from operators.clip import SAMPLE_RATE
from operators.errors import UserError

_LEAST_SECONDS = 0.5
"""What is shorter is too little to know a voice by."""


class SpeakerClusters:
    """SpeakerClusters tell the speakers of one recording apart.

    Args:
        model: of the embedding: an ONNX file, a FunASR folder or name, a pyannote folder.
        embedding: onnx | cam++ | pyannote, or module:Class of an Embedder of one's own.
        threshold: cosine distance between the means of two groups from which on they are two speakers, 0-2. It belongs
            to the embedding: about 0.3 for CAM++, 0.5 to 0.7 for pyannote's and WeSpeaker's.
        window_seconds: of speech that is embedded at a time.
        least_share: of a clip's windows that one speaker must have.
        overlap: measure the share in which two speak at once, by the segmentation that ships with whisperX; as dear as
            the voice activity detection.
        options: more for the embedding.
        threads: of its native library.

    Raises:
        UserError: an embedding that nobody knows, or that cannot be loaded.
    """

    def __init__(
        self,
        model: str = "",
        *,
        embedding: str = "onnx",
        threshold: float = 0.5,
        window_seconds: float = 3.0,
        least_share: float = 0.7,
        overlap: bool = True,
        options: dict[str, Any] | None = None,
        threads: int = 1,
    ) -> None:
        if not 0 < threshold < 2:
            raise UserError(f"speaker threshold={threshold:g}: a cosine distance lies between 0 and 2")
        if window_seconds < _LEAST_SECONDS or not 0 < least_share <= 1:
            raise UserError(f"speaker: window_seconds must be {_LEAST_SECONDS} or more, least_share over 0 and up to 1")
        self._embedder = _embedder(embedding, {"model": model} if model else {}, options or {}, threads)
        self._threshold, self._window, self._least = threshold, round(window_seconds * SAMPLE_RATE), least_share
        self._overlap = overlapped() if overlap else None
        self.name = f"clusters/{self._embedder.name}"

    def speakers(self, clips: Sequence[Heard]) -> list[ClipSpeaker]:
        """Return who speaks in each clip. clips: those of one recording, in time order."""
        parts = [_windows(clip.pcm, self._window) for clip in clips]
        vectors = [self._embedder.embed(part) for each in parts for part in each]
        labels = cluster(np.stack(vectors), self._threshold) if vectors else np.zeros(0, int)
        numbers = (
            [_most(own, self._least) for own in np.split(labels, np.cumsum([len(each) for each in parts])[:-1])]
            if clips
            else []
        )
        order = {label: number for number, label in enumerate(dict.fromkeys(n for n in numbers if n is not None))}
        return [
            ClipSpeaker(
                number=None if number is None else order[number],
                overlap=None if self._overlap is None else self._overlap(clip.pcm),
            )
            for clip, number in zip(clips, numbers, strict=True)
        ]

    def close(self) -> None:
        self._embedder.close()
        self._overlap = None


def cluster(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Return the group of each of [N, D] vectors: average linkage over cosine distance, until groups lie `threshold`
    apart. Source: the usual back end of diarisation, as in pyannote.audio's and 3D-Speaker's.
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), int)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors, np.float64), where=lengths > 0)
    distances = np.clip(pdist(unit, "sqeuclidean") / 2, 0, 2)  # of unit vectors: one less their cosine
    groups: np.ndarray = fcluster(linkage(distances, "average"), threshold, "distance")
    return groups


def _windows(pcm: np.ndarray, length: int) -> list[np.ndarray]:
    """Return stretches of about `length` samples that tile a clip; none of a clip too short to know a voice by."""
    if len(pcm) < _LEAST_SECONDS * SAMPLE_RATE:
        return []
    return np.array_split(pcm, max(1, round(len(pcm) / length)))


def _most(labels: np.ndarray, least: float) -> int | None:
    """Return the label that most have, None where it has less than the least share."""
    if not len(labels):
        return None
    found, counts = np.unique(labels, return_counts=True)
    best = int(counts.argmax())
    return int(found[best]) if counts[best] >= least * len(labels) else None


def overlapped() -> Callable[[np.ndarray], float]:
    """Return what measures the share of a clip in which two voices and more speak, 0-1.

    By pyannote's segmentation (Bredin and Laurent, Interspeech 2021), whose weights the whisperx wheel carries: it
    scores up to three voices a frame, and two of them over one half is overlap.
    """
    from operators.speech.vad import PyannoteVad

    detector = PyannoteVad()

    def share(pcm: np.ndarray) -> float:
        scores = detector.overlap(pcm)
        inside = scores.first + scores.hop * np.arange(len(scores.values)) < len(pcm)
        return round(float((scores.values[inside] > 0.5).mean()), 4) if inside.any() else 0.0

    return share


def _embedder(engine: str, model: dict[str, Any], options: dict[str, Any], threads: int) -> Embedder:
    if engine in ENGINES:
        found: Callable[..., Any] = ENGINES[engine]
    elif ":" in engine:
        module, _, name = engine.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"speaker embedding {engine}: cannot be loaded: {error}") from None
    else:
        raise UserError(f"speaker embedding {engine}: give one of {', '.join(ENGINES)}, or module:Class")
    known = inspect.signature(found).parameters
    arguments = model | options | ({"threads": threads} if "threads" in known else {})
    for argument in arguments.keys() - known.keys():
        raise UserError(f"speaker embedding {engine} has no {argument}: it takes {', '.join(known)}")
    try:
        embedder: Embedder = found(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"speaker embedding {engine}: {error}") from None
    return embedder
