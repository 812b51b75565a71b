"""An exported model of ours as an annotator: language, age, gender, emotion and events of a clip.

    pcm ──windows──> features ──encoder──> decoder, an attribute at a time ──> probabilities of its labels ─┐
                                  └──────> CTC, greedy ──> events                                           │
    a window's answers, weighted by its frames ──mean──> the likeliest, where it is likely enough <─────────┘

The class has the protocol of operators/annotate/annotator.py; annotate.annotators names it `exported`.

Legend: F feature frames, 80 mel bins, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model_training.decoding.onnx_scorer import CONFIG, ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.recognize import hear
from model_training.decoding.search import ctc_greedy, heed
from model_training.text.perception import Grammar
from model_training.text.tokens import ATTRIBUTES, TRANSCRIBE
from operators.annotate.annotator import Heard, Opinion, Progress, one_by_one
from operators.errors import UserError

EVENTS = "events"


class ExportedAnnotator:
    """An ExportedAnnotator is a folder that `export --format onnx` or `onnx-int8` wrote, as an annotator.

    Clips are heard one by one, so a clip's answer depends on no other.

    Args:
        model: the folder of one size, for example exported/n7.
        kinds: what it is asked for; None: all that it was trained on.
        min_probability: of a label among those of its kind; below it the model abstains. Events have none.
        threads: of onnxruntime.
        device: auto (a card where onnxruntime has one), cpu, cuda or cuda:1.

    Raises:
        UserError: no such folder, not a whole ONNX export, or a kind that it was not trained on.
    """

    def __init__(
        self,
        model: str,
        *,
        kinds: Sequence[str] | None = None,
        min_probability: float = 0.6,
        threads: int = 1,
        device: str = "cpu",
        name: str | None = None,
    ) -> None:
        path = Path(model).expanduser()
        self._folder = ExportFolder.open(path)
        self._model = OnnxModel(self._folder, threads=threads, device=device)
        config = self._folder.config
        for key, kind in (("max_frames", int), ("tasks", list)):
            if not isinstance(config[key], kind):
                raise UserError(f"{path / CONFIG} is damaged ({key}): export it again")
        if TRANSCRIBE not in config["tasks"]:
            raise UserError(f"{path} was not trained to transcribe, but for {', '.join(config['tasks'])}")
        if not 0 <= min_probability <= 1:
            raise UserError(f"annotator exported: min_probability={min_probability:g} must lie between 0 and 1")
        self.name = name or f"exported/{'-'.join(path.resolve().parts[-2:])}"
        self._tokenizer, self._least = self._folder.tokenizer, min_probability
        known = config.get("learnt")
        self._grammar = Grammar(self._tokenizer, order=config["task_order"], known_labels=known)
        self._text_first = (config["task_order"] or self._tokenizer.scheme.order) == "text_first"
        scheme = self._tokenizer.scheme
        labels = {
            kind: (scheme.labels(kind) if known is None else known.get(kind, ())) for kind in (*ATTRIBUTES, "event")
        }
        self._labels = {EVENTS if kind == "event" else kind: tuple(own) for kind, own in labels.items() if own}
        if missing := sorted(set(kinds or ()) - self._labels.keys()):
            raise UserError(f"{path} was not trained on {missing[0]}: it knows {', '.join(self._labels)}")
        self._kinds = tuple(self._labels if kinds is None else kinds)

    def annotate(self, clips: Sequence[Heard], progress: Progress | None = None) -> list[Mapping[str, Opinion]]:
        """Return the opinion of each kind that the model is sure enough of; none of a clip too short to hear."""
        return one_by_one(clips, self._opinions, progress)

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._model

    def _opinions(self, pcm: np.ndarray) -> dict[str, Opinion]:
        sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        events: set[str] = set()
        frames = 0
        for features_F80 in hear(pcm, self._folder.config["max_frames"], self._folder.cmvn):
            scorer = OnnxScorer(self._model, features_F80[np.newaxis], np.array([len(features_F80)]))
            content = ctc_greedy(scorer.ctc(0), self._grammar.ctc)
            named = [self._tokenizer.label_of(token) for token in content]
            events |= {label[1] for label in named if label is not None and label[0] == "event"}
            for kind, odds in self._attributes(scorer, content).items():
                for label, probability in odds.items():
                    sums[kind][label] += probability * len(features_F80)
            frames += len(features_F80)
        if not frames:
            return {}
        found: dict[str, Opinion] = {}
        for kind, of_kind in sums.items():
            best = max(of_kind, key=lambda label: of_kind[label])  # of equals the first, in the scheme's order
            if kind in self._kinds and of_kind[best] / frames >= self._least:
                found[kind] = Opinion((best,), round(of_kind[best] / frames, 4))
        if EVENTS in self._kinds:
            found[EVENTS] = Opinion(tuple(sorted(events)))
        return found

    def _attributes(self, scorer: OnnxScorer, content: Sequence[int]) -> dict[str, dict[str, float]]:
        """Return the probability of each label of a kind, every kind told the likeliest of those before."""
        prefix = [*self._grammar.prompt, *(content if self._text_first else ())]
        found: dict[str, dict[str, float]] = {}
        for kind in self._grammar.slots:
            if kind not in self._labels:  # fed as unknown, as in training
                prefix.append(self._tokenizer.special_id(kind, None))
                continue
            own_V = scorer.next(np.array([prefix], np.int64), np.zeros(1, np.int64), None)[0]
            log_probs_V = heed(scorer, self._grammar, 0, prefix, own_V)
            ids = [self._tokenizer.special_id(kind, label) for label in self._labels[kind]]
            odds = np.exp(log_probs_V[ids] - log_probs_V[ids].max())
            found[kind] = dict(zip(self._labels[kind], (odds / odds.sum()).tolist(), strict=True))
            prefix.append(ids[int(odds.argmax())])
        return found
