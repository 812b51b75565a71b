"""What the decoder is asked and answers: labels to targets, answers to recognitions, and which token may follow which.

    clip's labels ──build_targets──> inputs   <sot> <task> <lang> <age> <gender> <emotion> text <event:…>
                                     targets    -1   <lang> <age> <gender> <emotion> text <event:…> <eot>
                  ──ctc──>           text <event:…>
                  ──content──>       where text and events stand, which a right-to-left decoder reads from their end
    decoder's ids ──parse──> Recognition            Grammar.allowed_next(ids) ──> mask over the vocabulary

Nothing is guessed: an attribute nobody knows is fed as its `unk` token and is no target, so no default is ever taught,
and the grammar never lets `unk` out. Order and tasks are the scheme's (tokens.py). Sources: TouchASP section 3.3; OSUM,
"ASR+X", for `text_first`; Whisper for the prompt that is fed but no target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, EOT, SOT, TRANSCRIBE, UNK, Order
from operators.errors import UserError

NO_TARGET = -1
"""In `Targets.targets`: a position without a loss."""
TEXT_ENDS = -2
"""In `Targets.targets`: text ends here, in whichever language; any token of `text_ends` is right. Where attributes
follow the text and the clip's language is unknown.
"""


class Labels(Protocol):
    """What is known about a clip; None is unknown. operators.index.Row is one."""

    @property
    def label(self) -> str | None: ...
    @property
    def language(self) -> str | None: ...
    @property
    def age(self) -> str | None: ...
    @property
    def gender(self) -> str | None: ...
    @property
    def emotion(self) -> str | None: ...
    @property
    def events(self) -> Sequence[str] | None: ...


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets are one clip's token ids. `inputs` and `targets` have the same length; `targets` is NO_TARGET where
    nothing is taught, and TEXT_ENDS where only the end of the text is.

    `ctc` is text and events whatever the task; it may hold UNK, a character without a unit. `content` is the place of
    text and events in `targets`, from the first to behind the last; `inputs` has them one place later. `events_known`
    says that all events of the clip are in the targets; without it the absence of an event means nothing.
    """

    ctc: list[int]
    inputs: list[int]
    targets: list[int]
    content: tuple[int, int]
    events_known: bool

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing for CTC to learn: no text and no event."""
        return not self.ctc


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """A Recognition is what the model recognised. None is "not asked"; `text` is in written form, without the
    events.
    """

    text: str = ""
    language: str | None = None
    age: str | None = None
    gender: str | None = None
    emotion: str | None = None
    events: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    """The tokens as decoded, prompt and <eot> left out for the attention decoder; units and events for CTC."""
    score: float | None = None
    """Natural logarithm; comparable between hypotheses of one clip and method only."""


def build_targets(row: Labels, tokenizer: Tokenizer, *, task: str = TRANSCRIBE, order: Order | None = None) -> Targets:
    """Return the ids to train on. `order` None is the scheme's. A label outside the scheme counts as unknown.

    Events without a place in the text follow it. Where the transcript is unknown (no text, and events not known either)
    neither the end of the text nor that of the answer is a target, so the model does not learn that such clips are
    silent.
    Raises UserError for a task outside the scheme.
    """
    scheme = tokenizer.scheme
    if task not in scheme.tasks:
        raise UserError(f"task {task!r} is not in the scheme: it has {', '.join(scheme.tasks)}")
    content = tokenizer.encode(row.label or "", row.language)
    event_ids = tokenizer.ids_of("event")
    named = [scheme.known("event", event) for event in row.events or ()]
    inline = {token for token in content if token in event_ids}
    appended = dict.fromkeys(tokenizer.special_id("event", label) for label in named if label is not None)
    content += [token for token in appended if token not in inline]
    events_known = bool(inline) or (row.events is not None and None not in named)
    answered = bool(content) or events_known

    # (token, target) from <task> on, whose prediction is never asked for.
    sequence: list[tuple[int, int]] = [(tokenizer.special_id("task", task), NO_TARGET)]
    said: list[tuple[int, int]] = []
    start = len(sequence)
    if task == TRANSCRIBE:
        attributes = [_attribute(row, kind, tokenizer) for kind in ATTRIBUTES]
        said = [(token, token if token != UNK else NO_TARGET) for token in content]
        if (order or scheme.order) == "text_first":
            # The first attribute also says that the text is over.
            first, target = attributes[0]
            attributes[0] = (first, NO_TARGET if not answered else TEXT_ENDS if target == NO_TARGET else target)
            sequence += said + attributes
        else:
            start += len(attributes)
            sequence += attributes + said
    elif task == "event":
        answered = events_known
        said = [(token, token) for token in dict.fromkeys(token for token in content if token in event_ids)]
        sequence += said
    else:
        attribute = _attribute(row, task, tokenizer)
        answered = attribute[1] != NO_TARGET
        sequence.append(attribute)
    sequence.append((EOT, EOT if answered else NO_TARGET))
    return Targets(
        ctc=content,
        inputs=[SOT, *(token for token, _ in sequence[:-1])],
        targets=[target for _, target in sequence],
        content=(start, start + len(said)),
        events_known=events_known,
    )


def text_ends(tokenizer: Tokenizer, known_labels: Mapping[str, Collection[str]]) -> list[int]:
    """Return the tokens that end a text which attributes follow: those that a Grammar of these labels lets out."""
    kind = ATTRIBUTES[0]
    return [tokenizer.special_id(kind, label) for label in known_labels.get(kind) or (None,)]


def trainable_tasks(row: Labels, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the scheme's tasks that this clip has an answer for."""
    return tuple(
        task
        for task in tokenizer.scheme.tasks
        if any(target != NO_TARGET for target in build_targets(row, tokenizer, task=task).targets)
    )


def parse(ids: Iterable[int], tokenizer: Tokenizer, score: float | None = None) -> Recognition:
    """Return the recognition that ids spell, in any order of attributes, with or without prompt and <eot>."""
    ids = [token for token in ids if token not in (SOT, EOT) and not _is(token, "task", tokenizer)]
    labels = [label for token in ids if (label := tokenizer.label_of(token)) is not None]
    attributes = {kind: label for kind, label in reversed(labels) if kind in ATTRIBUTES}
    return Recognition(
        text=tokenizer.decode(token for token in ids if token in tokenizer.text_ids),
        events=tuple(dict.fromkeys(label for kind, label in labels if kind == "event")),
        ids=tuple(ids),
        score=score,
        **attributes,
    )


class Grammar:
    """A Grammar says which tokens may follow a prefix that starts with `prompt`. `unk` and blank never may.

    `given` fixes attributes that the caller knows, for example {"language": "yue"}: their slot then holds that one
    label. `known_labels` are those of each kind that the model was trained on. It answers with no others: an attribute
    without any is fed as unknown, as it was in training, and comes back as None. None: all labels of the scheme.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        task: str = TRANSCRIBE,
        order: Order | None = None,
        given: Mapping[str, str] | None = None,
        known_labels: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Raises UserError for a task, attribute or label outside the scheme, and for a task without a known label."""
        scheme = tokenizer.scheme
        if task not in scheme.tasks:
            raise UserError(f"task {task!r} is not in the scheme: it has {', '.join(scheme.tasks)}")
        if task != TRANSCRIBE and known_labels is not None and not known_labels.get(task):
            raise UserError(f"task {task!r}: the training data had no label of it, so the model has no answer")

        def answers(kind: str) -> list[int]:
            labels = scheme.labels(kind) if known_labels is None else known_labels.get(kind, ())
            return [tokenizer.special_id(kind, label) for label in labels]

        self.prompt = (SOT, tokenizer.special_id("task", task))
        self._text_first = (order or scheme.order) == "text_first"
        self.task = task
        self.slots: tuple[str, ...] = ATTRIBUTES if task == TRANSCRIBE else () if task == "event" else (task,)
        """The attributes of an answer, in order."""
        self.head = len(self.prompt) + (0 if self._text_first and task == TRANSCRIBE else len(self.slots))
        """Tokens before the first of content."""
        self._events = answers("event")
        self._end = _mask(len(tokenizer), [EOT])
        self.content = _mask(len(tokenizer), self._events if task in (TRANSCRIBE, "event") else ())
        """(V,) bool: text and events, as far as the task asks for them."""
        if task == TRANSCRIBE:
            self.content |= _mask(len(tokenizer), tokenizer.text_ids)
        self.ctc = _mask(len(tokenizer), [0, *tokenizer.text_ids, *self._events])
        """(V,) bool: what CTC may emit, the blank with it."""
        nobody_knows = {kind: [tokenizer.special_id(kind, None)] for kind in self.slots}
        self._slot_masks = {kind: _mask(len(tokenizer), answers(kind) or nobody_knows[kind]) for kind in self.slots}
        for kind, label in (given or {}).items():
            ours = scheme.known(kind, label) if kind in ATTRIBUTES else None
            if ours is None:
                raise UserError(
                    f"{kind}={label} is not in the scheme: give one of {', '.join(ATTRIBUTES)} and its label"
                )
            if kind in self.slots:
                self._slot_masks[kind] = _mask(len(tokenizer), [tokenizer.special_id(kind, ours)])
        self._slot_of = {
            token: place
            for place, kind in enumerate(self.slots)
            for token in (*tokenizer.ids_of(kind), tokenizer.special_id(kind, None))
        }

    def allowed_next(self, prefix: Sequence[int]) -> np.ndarray:
        """Return the tokens that may come next, (V,) bool.

        There is always one: after the last token of an answer only <eot> may follow.
        """
        answer = prefix[len(self.prompt) :]
        if answer and answer[-1] == EOT:
            return self._end
        if self.task == "event":
            mask = self.content | self._end
            mask[[token for token in answer if token in self._events]] = False
            return mask
        slot = self.slot_after(prefix)
        if slot is not None:
            opening = self._slot_masks[slot]
            begins = self._text_first and self.task == TRANSCRIBE and slot == self.slots[0]
            return self.content | opening if begins else opening
        return self.content | self._end if self.task == TRANSCRIBE and not self._text_first else self._end

    def slot_after(self, prefix: Sequence[int]) -> str | None:
        """Return the attribute that comes next; behind text that attributes follow, the one that may; else None."""
        answer = prefix[len(self.prompt) :]
        if self._text_first and self.task == TRANSCRIBE:
            filled = self._slot_of.get(answer[-1], -1) + 1 if answer else 0
        else:
            filled = len(answer)
        return self.slots[filled] if filled < len(self.slots) else None

    def labels_of(self, slot: str) -> np.ndarray:
        """Return the ids of the labels that an attribute of the answer may have."""
        return np.flatnonzero(self._slot_masks[slot])


def _attribute(row: Labels, kind: str, tokenizer: Tokenizer) -> tuple[int, int]:
    label = tokenizer.scheme.known(kind, getattr(row, kind))
    token = tokenizer.special_id(kind, label)
    return token, token if label is not None else NO_TARGET


def _is(token: int, kind: str, tokenizer: Tokenizer) -> bool:
    return token in tokenizer.ids_of(kind)


def _mask(size: int, ids: Iterable[int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[list(ids)] = True
    return mask
