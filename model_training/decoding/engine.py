"""An exported model as an engine of curation: recogniser or copilot, with onnxruntime and numpy, no torch.

    clips ──filterbank, CMVN──> OnnxScorer ─┬─search──> text, and CTC's log-probability of it
                                            └─decoder, one token──> language and its probability, where none is given

The class has the protocol of operators/asr/recogniser.py; `asr.engine: exported` and a copilot's `engine: exported`
name it.

Legend: F feature frames, 80 mel bins, S encoder frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_training.decoding.onnx_scorer import CONFIG, ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.recognize import hear, join
from model_training.decoding.search import METHODS, SearchSettings, ctc_log_prob, decode_batch, heed
from model_training.text.perception import Grammar, Recognition
from model_training.text.tokens import TRANSCRIBE
from operators.clip import SAMPLE_RATE, Hypothesis
from operators.errors import UserError

LANGUAGE = "language"


@dataclass(frozen=True, slots=True)
class Window:
    """A Window is what one stretch of a clip gave, no longer than the model heard in training."""

    found: Recognition
    frames: int
    """feature frames"""
    log_prob: float
    """of the text and its events, by CTC over all alignments"""
    languages: dict[str, float]
    """the decoder's probability of each language that it knows; empty: not asked, or it knows none"""


class ExportedRecogniser:
    """An ExportedRecogniser is a folder that `export --format onnx` or `onnx-int8` wrote, as an engine.

    Clips are heard one by one: a clip's answer then depends on no other, in eight bits either.

    Args:
        model: the folder of one size, for example exported/n7.
        method: ctc_greedy | ctc_prefix_beam | attention | attention_rescoring.
        beam: hypotheses kept; 1 is greedy.
        threads: of onnxruntime.
        device: auto (a card where onnxruntime has one), cpu, cuda or cuda:1.
        name: goes into `Hypothesis.engine`; the folder's own otherwise.

    Raises:
        UserError: no such folder, not a whole ONNX export, a model without transcripts, a method that does not exist,
            or no card where one is asked for.
    """

    def __init__(
        self,
        model: str,
        *,
        method: str = "ctc_greedy",
        beam: int = 8,
        threads: int = 1,
        device: str = "cpu",
        name: str | None = None,
    ) -> None:
        if method not in METHODS:
            raise UserError(f"engine exported has no method {method}: give one of {', '.join(METHODS)}")
        path = Path(model).expanduser()
        self._folder = ExportFolder.open(path)
        self._model = OnnxModel(self._folder, threads=threads, device=device)
        self._search = SearchSettings(method=method, beam=beam)
        config = self._folder.config
        for key, kind in (("max_frames", int), ("tasks", list)):
            if not isinstance(config[key], kind):
                raise UserError(f"{path / CONFIG} is damaged ({key}): export it again")
        if TRANSCRIBE not in config["tasks"]:
            raise UserError(f"{path} was not trained to transcribe, but for {', '.join(config['tasks'])}")
        self.name = name or f"exported/{'-'.join(path.resolve().parts[-2:])}"
        known = config.get("learnt")
        self._tokenizer = self._folder.tokenizer
        self._grammar = Grammar(self._tokenizer, order=config["task_order"], known_labels=known)
        self._languages: tuple[str, ...] = tuple((known or {}).get(LANGUAGE, ()))
        self._text_first = (config["task_order"] or self._tokenizer.scheme.order) == "text_first"

    def transcribe(
        self,
        clips: Sequence[np.ndarray],
        languages: Sequence[str | None],
        progress: Callable[[int, float], None] | None = None,
    ) -> list[Hypothesis]:
        """Return one hypothesis per clip, in order. clips: int16 [samples] at 16 kHz.

        `language` is the given one, else the decoder's, with its probability among the languages that the model knows.
        `avg_logprob` is CTC's log-probability of the text over all alignments, by its tokens and one more for its end.
        progress: called after each clip with the clips and seconds done.
        """
        if len(clips) != len(languages):
            raise ValueError(f"{len(clips)} clips, {len(languages)} languages")
        answers, samples = [], 0
        for done, (clip, language) in enumerate(zip(clips, languages, strict=True), 1):
            windows = self.windows(clip, ask_language=language is None)
            answers.append(self._hypothesis(windows, language))
            samples += len(clip)
            if progress is not None:
                progress(done, samples / SAMPLE_RATE)
        return answers

    def windows(self, pcm: np.ndarray, *, ask_language: bool = False) -> list[Window]:
        """Return what each window of a clip (int16 [samples]) gave; none where it is shorter than one encoder frame."""
        heard = []
        for features_F80 in hear(pcm, self._folder.config["max_frames"], self._folder.cmvn):
            scorer = OnnxScorer(self._model, features_F80[np.newaxis], np.array([len(features_F80)]))
            (found,) = decode_batch(scorer, self._tokenizer, self._grammar, self._search)
            content = [token for token in found.ids if self._grammar.content[token]]
            probabilities = self._language_probabilities(scorer, content) if ask_language else {}
            heard.append(Window(found, len(features_F80), ctc_log_prob(scorer.ctc(0), content), probabilities))
        return heard

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._model

    def _language_probabilities(self, scorer: OnnxScorer, content: Sequence[int]) -> dict[str, float]:
        if not self._languages:
            return {}
        prefix = (*self._grammar.prompt, *(content if self._text_first else ()))
        own_V = scorer.next(np.array([prefix], np.int64), np.zeros(1, np.int64), None)[0]
        log_probs_V = heed(scorer, self._grammar, 0, prefix, own_V)
        odds = np.exp([float(log_probs_V[self._tokenizer.special_id(LANGUAGE, one)]) for one in self._languages])
        return dict(zip(self._languages, (odds / odds.sum()).tolist(), strict=True))

    def _hypothesis(self, windows: Sequence[Window], given: str | None) -> Hypothesis:
        if not windows:
            return Hypothesis(engine=self.name, text="", language=given)
        joined = join([(window.found, window.frames) for window in windows], self._tokenizer)
        tokens = sum(1 for token in joined.ids if self._grammar.content[token])
        language, probability = given, None
        if given is None and windows[0].languages:
            frames = sum(window.frames for window in windows)
            mean = {
                one: sum(window.languages[one] * window.frames for window in windows) / frames
                for one in self._languages
            }
            language = max(mean, key=lambda one: mean[one])
            probability = mean[language]
        return Hypothesis(
            engine=self.name,
            # The written form is upper case whatever was said, and capitals are letters to spell elsewhere.
            text=joined.text.lower(),
            language=language,
            language_prob=probability,
            avg_logprob=sum(window.log_prob for window in windows) / (tokens + len(windows)),
        )
