"""Runs test sets through a model at every size and decoding method, and counts what came out.

    sets: name -> batches ──for each group: Scorer──for each method: search──> Recognition per clip ─┐
                    rows (what is true) ───────────────────────────────────────────────answer_of─────┴──> Answer
    Answers ──evaluation_of──> Evaluation

Every batch is read once and encoded once per group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from model_training.decoding.search import SURER, Scorer, SearchSettings, check_speaker, decode_batch
from model_training.evaluation.answers import Answer, AudioPlace, Located
from model_training.evaluation.evaluation import Evaluation, evaluation_of
from model_training.text.perception import Grammar, Labels, Recognition
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, TRANSCRIBE, Order, Scheme
from operators.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model_training.model.speech_model import SpeechModel

_SECONDS_PER_FRAME = 0.01


class LabelledClip(Labels, Located, Protocol):
    """A LabelledClip is a row of the index: what is known of a clip, where it lies, and its length in 10 ms frames."""

    @property
    def clip_id(self) -> str: ...
    @property
    def frames(self) -> int: ...
    @property
    def recording_id(self) -> str: ...
    @property
    def speaker(self) -> str | None: ...


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
    reverse_weight: float = 0.3,
    speaker: str = SURER,
    known_labels: Mapping[str, Collection[str]] | None = None,
    autocast: torch.dtype | None = None,
    on_recognition: OnRecognition | None = None,
) -> Evaluation:
    """Return the scores of every set at every group (None: all of the model's) and method.

    The model is left in the mode it was in. It computes in `autocast`, or in float32; scores are float32.
    A set whose clips are all unusable has no result, but is in `unusable`. Raises UserError for a group that is not in
    the model, an unknown method, and sets without a single clip.
    """
    from model_training.decoding.scorer import ModelScorer

    groups = tuple(model.sizes if groups is None else groups)
    for n_experts in groups:
        if n_experts not in model.sizes:
            known = ", ".join(map(str, model.sizes))
            raise UserError(f"group {n_experts} is not in this model: it has {known} (numbers of routed experts)")
    check_speaker(speaker, model.speaker_head is not None)
    training = model.training
    model.eval()
    try:
        return evaluate_scorers(
            lambda batch, n_experts: ModelScorer(
                model, batch.features_BT80, batch.feature_lengths_B, n_experts, autocast
            ),
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
            reverse_weight=reverse_weight,
            speaker=speaker,
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
    reverse_weight: float = 0.3,
    speaker: str = SURER,
    known_labels: Mapping[str, Collection[str]] | None = None,
    on_recognition: OnRecognition | None = None,
) -> Evaluation:
    """Return what `evaluate` does, for whatever can score.

    `make_scorer(batch, n_experts)` encodes one batch, for example with an exported model.
    """
    grammar = Grammar(tokenizer, task=task, order=order, known_labels=known_labels)
    searches = [
        SearchSettings(method=method, beam=beam, ctc_weight=ctc_weight, reverse_weight=reverse_weight, speaker=speaker)
        for method in dict.fromkeys(methods)
    ]
    answers: list[Answer] = []
    unusable: dict[str, list[tuple[str, str]]] = {}
    for set_name, batches in sets.items():
        for batch in batches:
            unusable.setdefault(set_name, []).extend((bad.clip_id, bad.reason) for bad in batch.bad)
            for n_experts in groups if len(batch.rows) else ():
                scorer = make_scorer(batch, n_experts)
                for settings in searches:
                    asked = grammar.slots if settings.method.startswith("attention") else ()
                    recognised = decode_batch(scorer, tokenizer, grammar, settings)
                    for row, recognition in zip(batch.rows, recognised, strict=True):
                        answer = answer_of(row, recognition, tokenizer.scheme, asked, task)
                        answers.append(replace(answer, set=set_name, n_experts=n_experts, method=settings.method))
                        if on_recognition is not None:
                            on_recognition(set_name, n_experts, settings.method, row, recognition)
    return evaluation_of(answers, name=name, parameters=parameters, unusable=unusable)


def answer_of(
    row: LabelledClip,
    recognition: Recognition,
    scheme: Scheme,
    asked: Sequence[str] = ATTRIBUTES,
    task: str = TRANSCRIBE,
) -> Answer:
    """Return what was recognised beside what is true: only what was asked for, and only where it is known and in the
    scheme.
    """
    truths = {kind: truth for kind in asked if (truth := scheme.known(kind, getattr(row, kind))) is not None}
    labels = {kind: label for kind in asked if (label := getattr(recognition, kind)) is not None}
    # An event that the model has no token for is still there, and missed.
    events = None if row.events is None else tuple(scheme.known("event", event) or event for event in row.events)
    return Answer(
        set="",
        clip_id=row.clip_id,
        recording=row.speaker or row.recording_id,
        seconds=row.frames * _SECONDS_PER_FRAME,
        language=row.language,
        reference=row.label if task == TRANSCRIBE else None,
        hypothesis=recognition.text,
        truths=truths,
        labels=labels,
        true_events=events if task in (TRANSCRIBE, "event") else None,
        events=recognition.events,
        audio=AudioPlace.of(row),
    )
