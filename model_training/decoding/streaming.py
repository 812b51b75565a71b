"""Recognition while somebody speaks: an exported model, a chunk at a time, no torch.

    int16 pcm as it comes ──a chunk and what it overlaps──> filterbank, CMVN ──encoder_stream.onnx + caches──> log_probs
    log_probs ──CTC, frame by frame──> Heard so far      a pause, the longest window or the end ──search──> Heard, final

A chunk hears 4 feature frames for each of its frames of 40 ms, and 3 more, with which the next one begins. What is
heard chunk by chunk is what one pass over the whole hears under the chunk's mask (model/chunks.py).

Legend: F feature frames, S encoder frames, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from model_training.data.features import MIN_FRAMES, OVERLAP, SUBSAMPLING, subsampled
from model_training.decoding.onnx_scorer import ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.search import PrefixBeam, SearchSettings, decode_batch, merge_frames
from model_training.text.perception import Grammar, Recognition, parse
from model_training.text.tokens import BLANK
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE, SHIFT, WINDOW, filterbank

FRAMES_PER_SECOND = SAMPLE_RATE // (SHIFT * SUBSAMPLING)
_SHORT_PAUSE = 8
"""Frames of 40 ms that end an utterance which has lasted half of the longest window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """StreamSettings say how far a frame hears, and where an utterance ends."""

    chunk: int = 16
    """frames of 40 ms that are heard together"""
    left: int | None = None
    """chunks that a chunk looks back to; None: all of the utterance"""
    pause_seconds: float = 1.0
    """without a word, after which an utterance ends; 0: only where the recording or the longest window does"""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise UserError(f"a chunk has at least 1 frame of 40 ms, not {self.chunk}")
        if self.left is not None and self.left < 0:
            raise UserError(f"a chunk looks back to 0 chunks or more, not to {self.left}")
        if not self.pause_seconds >= 0:
            raise UserError(f"a pause is 0 seconds or more, not {self.pause_seconds:g}")

    @property
    def step(self) -> int:
        """Return the samples from one chunk to the next."""
        return self.chunk * SUBSAMPLING * SHIFT

    @property
    def window(self) -> int:
        """Return the samples that a chunk hears."""
        return WINDOW + (self.chunk * SUBSAMPLING + OVERLAP - 1) * SHIFT


@dataclass(frozen=True, slots=True)
class Heard:
    """A Heard is what an utterance says, as far as it has been heard."""

    recognition: Recognition
    start_seconds: float
    end_seconds: float
    final: bool
    """the utterance is over, and searched by the method asked for"""


class StreamingRecognizer:
    """A StreamingRecognizer is an exported model that answers while somebody speaks.

    Args:
        folder: what `python -m model_training export --format onnx` (or onnx-int8) wrote, of a model trained with
            model.dynamic_chunks.
        threads: of onnxruntime; 0 lets it take all cores.
        device: auto (a card where onnxruntime has one), cpu, cuda or cuda:1.

    Raises:
        UserError: no such folder, not a whole ONNX export, of a model that was not trained for chunks, or no card where
            one is asked for.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0, device: str = "cpu") -> None:
        self._folder = ExportFolder.open(folder)
        self._model = OnnxModel(self._folder, threads=threads, stream=True, device=device)
        self.tokenizer, self.config = self._folder.tokenizer, self._folder.config
        self.known_labels: dict[str, list[str]] | None = self.config.get("learnt")
        self.chunk_seconds: list[float] = []
        """what each chunk since the beginning took to compute: features, encoder, CTC"""

    @property
    def device(self) -> str:
        """Return where the model runs: cpu or cuda."""
        return self._model.device

    @property
    def has_head(self) -> bool:
        """Say whether the model has a speaker head."""
        return bool(self._model.head_attributes)

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        settings: StreamSettings | None = None,
        search: SearchSettings | None = None,
        *,
        given: Mapping[str, str] | None = None,
    ) -> Iterator[Heard]:
        """Yield what is heard: whenever the text of an utterance has changed, and at its end.

        Args:
            blocks: int16 [T] at 16 kHz, of any length, as they come.
            settings, search: how it is heard; by default in chunks of 16 frames, by attention rescoring.
            given: attributes that the caller knows, for example {"language": "yue"}.

        Raises:
            UserError: an attribute or label that the model does not have.
        """
        settings, search = settings or StreamSettings(), search or SearchSettings()
        order, known = self.config["task_order"], self.known_labels
        grammar = Grammar(self.tokenizer, order=order, given=given, known_labels=known)
        longest = self.config["max_frames"] // SUBSAMPLING
        utterance = _Utterance(self._model, grammar, search, settings)
        rest, done, text = np.zeros(0, np.int16), 0, ""  # `done`: samples before the utterance
        for block in blocks:
            rest = np.concatenate([rest, block])
            while len(rest) >= settings.window:
                self._hear(utterance, rest[: settings.window])
                rest = rest[settings.step :]
                if utterance.ends(longest):
                    if utterance.spoken:
                        yield self._heard(utterance, done, final=True)
                    done += utterance.samples
                    utterance, text = _Utterance(self._model, grammar, search, settings), ""
                    continue
                heard = self._heard(utterance, done, final=False)
                if heard.recognition.text != text:
                    text = heard.recognition.text
                    yield heard
        self._hear(utterance, rest)
        if utterance.spoken:
            yield self._heard(utterance, done, final=True)

    def _hear(self, utterance: _Utterance, pcm: np.ndarray) -> None:
        begin = perf_counter()
        features_F80 = self._folder.cmvn.apply(filterbank(pcm))
        if len(features_F80) >= MIN_FRAMES:  # fewer are no sound: nothing is said in them
            utterance.hear(features_F80[: SUBSAMPLING * subsampled(len(features_F80)) + OVERLAP])
            self.chunk_seconds.append(perf_counter() - begin)

    def _heard(self, utterance: _Utterance, done: int, *, final: bool) -> Heard:
        found = utterance.search(self.tokenizer) if final else utterance.so_far(self.tokenizer)
        return Heard(found, done / SAMPLE_RATE, (done + utterance.samples) / SAMPLE_RATE, final)


class _Utterance:
    """What has been heard since the last pause."""

    def __init__(self, model: OnnxModel, grammar: Grammar, search: SearchSettings, settings: StreamSettings) -> None:
        self._model, self._grammar, self._search, self._settings = model, grammar, search, settings
        self._past = {part.name: _empty(part) for part in model.encoder.get_inputs() if part.name != "features"}
        self._by_place = "frames_before" in self._past
        self._encoded: list[np.ndarray] = []
        self._log_probs: list[np.ndarray] = []
        self._early: list[np.ndarray] = []
        self._best: list[np.ndarray] = []
        prefixes = search.method in ("ctc_prefix_beam", "attention_rescoring")
        self._prefixes = PrefixBeam(search.beam, grammar.ctc) if prefixes else None
        self._frames, self._silent = 0, 0
        self.spoken = False

    @property
    def samples(self) -> int:
        return self._frames * SUBSAMPLING * SHIFT

    def hear(self, features_F80: np.ndarray) -> None:
        """Take a chunk in: (4 S + 3, 80), normalised."""
        encoded, log_probs, *present = self._model.encoder.run(
            None, {"features": features_F80[np.newaxis], **self._past}
        )
        if self._model.head_attributes:
            early, *present = present
            self._early.append(early)
        names = [name for name in self._past if name != "frames_before"]
        self._past = dict(zip(names, map(self._kept, names, present), strict=True))
        self._frames += log_probs.shape[1]
        if self._by_place:
            self._past["frames_before"] = np.array([self._frames], np.int64)
        best_S = np.where(self._grammar.ctc, log_probs[0], -np.inf).argmax(-1)
        said = np.flatnonzero(best_S != BLANK)
        self._silent = len(best_S) - 1 - int(said[-1]) if len(said) else self._silent + len(best_S)
        self.spoken = self.spoken or len(said) > 0
        self._encoded.append(encoded)
        self._log_probs.append(log_probs)
        if self._prefixes is not None:
            self._prefixes.extend(log_probs[0])
        else:
            self._best.append(best_S)

    def ends(self, longest: int) -> bool:
        """Return whether the utterance is over, which is at most `longest` frames long."""
        pause = round(self._settings.pause_seconds * FRAMES_PER_SECOND)
        if self._frames + self._settings.chunk > longest:
            return True
        if not pause:
            return False
        over = self.spoken and self._silent >= pause
        return over or (2 * self._frames >= longest and self._silent >= min(pause, _SHORT_PAUSE))

    def so_far(self, tokenizer: Any) -> Recognition:
        """Return what CTC has heard."""
        if self._prefixes is not None:
            best = self._prefixes.hypotheses()[0]
            return parse(best.ids, tokenizer, best.score)
        return parse(merge_frames(np.concatenate(self._best)), tokenizer)

    def search(self, tokenizer: Any) -> Recognition:
        """Return what the method asked for makes of the whole utterance."""
        encoded, log_probs = np.concatenate(self._encoded, 1), np.concatenate(self._log_probs, 1)
        early = np.concatenate(self._early, 1) if self._early else None
        scorer = OnnxScorer.of_encoded(self._model, encoded, log_probs, early)
        return decode_batch(scorer, tokenizer, self._grammar, self._search)[0]

    def _kept(self, name: str, present: np.ndarray) -> np.ndarray:
        if "convolution" in name or self._settings.left is None:
            return present
        first = max(present.shape[2] - self._settings.left * self._settings.chunk, 0)
        return present[:, :, first:]


def _empty(part: Any) -> np.ndarray:
    """What an input of the graph is before the first chunk."""
    if part.name == "frames_before":
        return np.zeros(1, np.int64)
    free = {"batch": 1, "earlier": 0}
    return np.zeros([size if isinstance(size, int) else free[size] for size in part.shape], np.float32)
