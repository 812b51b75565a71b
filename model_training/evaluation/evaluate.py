"""Runs test sets through a model at every size and decoding method, and counts what came out.

    sets: name -> batches ──for each group: Scorer──for each method: search──> Recognition per clip ─┐
                    rows (what is true) ──────────────────────────────────────────────score_clip─────┴──> Evaluation

Every batch is read once and encoded once per group. An `Evaluation` is plain data: tables.py shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from model_training.decoding.search import Scorer, SearchSettings, decode_batch
from model_training.evaluation.metrics import (
    NO_ANSWER,
    ErrorRate,
    EventCounts,
    LabelCounts,
    Scores,
    reference_tokens,
)
from model_training.text.perception import Grammar, Labels, Recognition
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, TRANSCRIBE, Order, Scheme
from operators.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from model_training.model.speech_model import SpeechModel

SCHEMA_VERSION = 1
_SECONDS_PER_FRAME = 0.01


class LabelledClip(Labels, Protocol):
    """A LabelledClip is a row of the index: what is known of a clip, and its length in 10 ms frames."""

    @property
    def clip_id(self) -> str: ...
    @property
    def frames(self) -> int: ...


class Unusable(Protocol):
    @property
    def clip_id(self) -> str: ...
    @property
    def reason(self) -> str: ...


class EvaluationBatch(Protocol):
    """An EvaluationBatch has what evaluation needs of model_training.data.reading.Batch."""

    @property
    def features_BT80(self) -> Tensor: ...
    @property
    def feature_lengths_B(self) -> Tensor: ...
    @property
    def rows(self) -> Sequence[LabelledClip]: ...
    @property
    def bad(self) -> Sequence[Unusable]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A Result is the scores of one test set at one size with one method."""

    set: str
    n_experts: int
    method: str
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An Evaluation holds all results of one model. `n_experts` is N, of routed experts; 0 means a dense model."""

    model: str
    results: tuple[Result, ...]
    parameters: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Per group: `total` stored and `active` per frame, where they were given."""
    unusable: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    """Per set: the clips that could not be read, and why. They are in no score."""

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.set for result in self.results))

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(result.n_experts for result in self.results))

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.method for result in self.results))

    def scores(self, set_name: str, n_experts: int, method: str) -> Scores | None:
        wanted = (set_name, n_experts, method)
        return next((r.scores for r in self.results if (r.set, r.n_experts, r.method) == wanted), None)

    def pooled(self, n_experts: int, method: str) -> Scores:
        """Return the scores of all sets as one: rates weighted by tokens and clips."""
        total = Scores()
        for result in self.results:
            if (result.n_experts, result.method) == (n_experts, method):
                total = total.plus(result.scores)
        return total

    def weighted_by_seconds(self, n_experts: int, method: str) -> float | None:
        """Return the token error rate in percent, the mean of the sets that have one, weighted by their duration."""
        rated = [
            (result.scores.seconds, result.scores.tokens.percent)
            for result in self.results
            if (result.n_experts, result.method) == (n_experts, method)
        ]
        pairs = [(seconds, percent) for seconds, percent in rated if percent is not None]
        total = sum(seconds for seconds, _ in pairs)
        return sum(seconds * percent for seconds, percent in pairs) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "parameters": {str(n_experts): dict(counts) for n_experts, counts in sorted(self.parameters.items())},
            "results": [
                {"set": r.set, "group": r.n_experts, "method": r.method} | r.scores.to_dict() for r in self.results
            ],
            "averages": [
                {
                    "group": n_experts,
                    "method": method,
                    "weighted_by_seconds": self.weighted_by_seconds(n_experts, method),
                }
                | {"pooled": self.pooled(n_experts, method).to_dict()}
                for n_experts in self.groups
                for method in self.methods
            ],
            "unusable": {name: [list(clip) for clip in clips] for name, clips in self.unusable.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` wrote. Raises UserError when this is none, or one of a newer form."""
        try:
            if plain["schema_version"] > SCHEMA_VERSION:
                raise UserError(
                    f"the evaluation has schema {plain['schema_version']}, newer than {SCHEMA_VERSION}: upgrade"
                )
            results = [
                Result(set=r["set"], n_experts=r["group"], method=r["method"], scores=Scores.from_dict(r))
                for r in plain["results"]
            ]
            return cls(
                model=plain["model"],
                results=tuple(results),
                parameters={int(n_experts): counts for n_experts, counts in plain["parameters"].items()},
                unusable={name: [(c, why) for c, why in clips] for name, clips in plain["unusable"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no evaluation ({type(error).__name__}: {error}): evaluate again") from error


OnRecognition = Callable[[str, int, str, LabelledClip, Recognition], None]
"""Called with set, n_experts, method, the clip's row and what was recognised, in the order of the batches."""
MakeScorer = Callable[[EvaluationBatch, int], Scorer]


def evaluate(
    model: SpeechModel,
    tokenizer: Tokenizer,
    sets: Mapping[str, Iterable[EvaluationBatch]],
    *,
    groups: Sequence[int] | None = None,
    methods: Sequence[str] = ("attention_rescoring",),
    name: str = "model",
    task: str = TRANSCRIBE,
    order: Order | None = None,
    beam: int = 10,
    ctc_weight: float = 0.5,
    known_labels: Mapping[str, Collection[str]] | None = None,
    on_recognition: OnRecognition | None = None,
) -> Evaluation:
    """Return the scores of every set at every group (None: all of the model's) and method.

    The model is left in the mode it was in.
    A set whose clips are all unusable has no result, but is in `unusable`. Raises UserError for a group that is not in
    the model, an unknown method, and sets without a single clip.
    """
    from model_training.decoding.scorer import ModelScorer

    groups = tuple(model.sizes if groups is None else groups)
    for n_experts in groups:
        if n_experts not in model.sizes:
            known = ", ".join(map(str, model.sizes))
            raise UserError(f"group {n_experts} is not in this model: it has {known} (numbers of routed experts)")
    training = model.training
    model.eval()
    try:
        return evaluate_scorers(
            lambda batch, n_experts: ModelScorer(model, batch.features_BT80, batch.feature_lengths_B, n_experts),
            tokenizer,
            sets,
            groups=groups,
            methods=methods,
            name=name,
            parameters={n_experts: model.parameter_counts(n_experts) for n_experts in groups},
            task=task,
            order=order,
            beam=beam,
            ctc_weight=ctc_weight,
            known_labels=known_labels,
            on_recognition=on_recognition,
        )
    finally:
        model.train(training)


def evaluate_scorers(
    make_scorer: MakeScorer,
    tokenizer: Tokenizer,
    sets: Mapping[str, Iterable[EvaluationBatch]],
    *,
    groups: Sequence[int],
    methods: Sequence[str],
    name: str = "model",
    parameters: Mapping[int, Mapping[str, int]] | None = None,
    task: str = TRANSCRIBE,
    order: Order | None = None,
    beam: int = 10,
    ctc_weight: float = 0.5,
    known_labels: Mapping[str, Collection[str]] | None = None,
    on_recognition: OnRecognition | None = None,
) -> Evaluation:
    """Return what `evaluate` does, for whatever can score.

    `make_scorer(batch, n_experts)` encodes one batch, for example with an exported model.
    """
    grammar = Grammar(tokenizer, task=task, order=order, known_labels=known_labels)
    searches = [SearchSettings(method=method, beam=beam, ctc_weight=ctc_weight) for method in dict.fromkeys(methods)]
    results: list[Result] = []
    unusable: dict[str, list[tuple[str, str]]] = {}
    for set_name, batches in sets.items():
        totals = {(n_experts, settings.method): Scores() for n_experts in groups for settings in searches}
        clips = 0
        for batch in batches:
            unusable.setdefault(set_name, []).extend((bad.clip_id, bad.reason) for bad in batch.bad)
            clips += len(batch.rows)
            for n_experts in groups if len(batch.rows) else ():
                scorer = make_scorer(batch, n_experts)
                for settings in searches:
                    asked = grammar.slots if settings.method.startswith("attention") else ()
                    recognised = decode_batch(scorer, tokenizer, grammar, settings)
                    for row, recognition in zip(batch.rows, recognised, strict=True):
                        key = (n_experts, settings.method)
                        totals[key] = totals[key].plus(score_clip(row, recognition, tokenizer.scheme, asked, task))
                        if on_recognition is not None:
                            on_recognition(set_name, n_experts, settings.method, row, recognition)
        if clips:
            results += [
                Result(set=set_name, n_experts=n_experts, method=method, scores=scores)
                for (n_experts, method), scores in totals.items()
            ]
    if not results:
        bad = sum(map(len, unusable.values()))
        raise UserError(
            f"no clip to evaluate in {', '.join(sets) or 'no set'}" + (f": {bad} could not be used" if bad else "")
        )
    return Evaluation(model=name, results=tuple(results), parameters=dict(parameters or {}), unusable=unusable)


def score_clip(
    row: LabelledClip,
    recognition: Recognition,
    scheme: Scheme,
    asked: Sequence[str] = ATTRIBUTES,
    task: str = TRANSCRIBE,
) -> Scores:
    """Return one clip's scores: only what was asked for, and only where the truth is known and in the scheme.

    Text counts where the clip has a transcript with a word in it, events where the clip's list of them is known.
    """
    tokens = characters = ErrorRate()
    reference = reference_tokens(row.label or "", row.language) if task == TRANSCRIBE else []
    if reference:
        hypothesis = reference_tokens(recognition.text, row.language)
        tokens = ErrorRate.of(reference, hypothesis)
        characters = ErrorRate.of(list("".join(reference)), list("".join(hypothesis)))
    attributes = {}
    for kind in asked:
        truth = scheme.known(kind, getattr(row, kind))
        if truth is not None:
            attributes[kind] = LabelCounts({(truth, getattr(recognition, kind) or NO_ANSWER): 1})
    events = EventCounts()
    if row.events is not None and task in (TRANSCRIBE, "event"):
        # An event that the model has no token for is still there, and missed.
        events = EventCounts.of((scheme.known("event", event) or event for event in row.events), recognition.events)
    return Scores(
        clips=1,
        seconds=row.frames * _SECONDS_PER_FRAME,
        tokens=tokens,
        characters=characters,
        attributes=attributes,
        events=events,
    )
