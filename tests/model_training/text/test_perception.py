"""Targets say what is known and nothing else; the grammar lets nothing else out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.text.perception import (
    NO_TARGET,
    TEXT_ENDS,
    Grammar,
    build_targets,
    parse,
    text_ends,
    trainable_tasks,
)
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, BLANK, EOT, SOT, UNK, Scheme
from operators.errors import UserError

TOKENIZER = Tokenizer.train(["你好吗 hello there hello", "the other"], Scheme(), bpe_size=30)
ATTRIBUTE_UNKNOWNS = {TOKENIZER.special_id(kind, None) for kind in ATTRIBUTES}
NEVER = {BLANK, UNK, SOT, *ATTRIBUTE_UNKNOWNS}


@dataclass(frozen=True)
class Clip:
    label: str | None = "hello 你好"
    language: str | None = "zh"
    age: str | None = "adult"
    gender: str | None = "female"
    emotion: str | None = "neutral"
    events: tuple[str, ...] | None = ("dog",)


def spelt(ids: list[int]) -> list[str]:
    return ["-" if token == NO_TARGET else TOKENIZER.tokens[token] for token in ids]


def test_attributes_first() -> None:
    targets = build_targets(Clip(), TOKENIZER)
    text = [TOKENIZER.tokens[token] for token in TOKENIZER.encode("hello 你好")]
    attributes = ["<lang:zh>", "<age:adult>", "<gender:female>", "<emotion:neutral>"]
    assert spelt(targets.inputs) == ["<sot>", "<task:transcribe>", *attributes, *text, "<event:dog>"]
    assert spelt(targets.targets) == ["-", *attributes, *text, "<event:dog>", "<eot>"]
    assert spelt(targets.ctc) == [*text, "<event:dog>"]
    assert targets.content == (5, 5 + len(text) + 1)
    assert targets.events_known


def test_text_first() -> None:
    targets = build_targets(Clip(), TOKENIZER, order="text_first")
    text = [TOKENIZER.tokens[token] for token in TOKENIZER.encode("hello 你好")]
    attributes = ["<lang:zh>", "<age:adult>", "<gender:female>", "<emotion:neutral>"]
    assert spelt(targets.targets) == ["-", *text, "<event:dog>", *attributes, "<eot>"]
    assert targets.content == (1, 1 + len(text) + 1)


@pytest.mark.parametrize("task", ["language", "event"])
def test_an_attribute_is_no_content_and_an_event_is(task: str) -> None:
    targets = build_targets(Clip(events=("dog", "rain")), TOKENIZER, task=task)
    first, end = targets.content
    assert spelt(targets.targets[first:end]) == (["<event:dog>", "<event:rain>"] if task == "event" else [])


def test_a_text_of_unknown_language_ends_too() -> None:
    targets = build_targets(Clip(language="fr"), TOKENIZER, order="text_first")
    end = len(TOKENIZER.encode("hello 你好")) + 2
    assert targets.inputs[end + 1] == TOKENIZER.special_id("language", None)
    assert targets.targets[end] == TEXT_ENDS
    assert spelt(targets.targets[end + 1 :]) == ["<age:adult>", "<gender:female>", "<emotion:neutral>", "<eot>"]
    silent = build_targets(Clip(label="", events=(), language=None), TOKENIZER, order="text_first")
    assert silent.targets[1] == TEXT_ENDS
    for language in ("zh", None):
        untold = build_targets(Clip(label="", events=None, language=language), TOKENIZER, order="text_first")
        assert untold.targets[1] == NO_TARGET, "a clip without a transcript does not teach that nothing was said"


@pytest.mark.parametrize("known", [(), ("en",), ("zh", "yue")])
def test_what_ends_a_text_is_what_the_grammar_lets_out(known: tuple[str, ...]) -> None:
    grammar = Grammar(TOKENIZER, order="text_first", known_labels={"language": known})
    allowed = set(np.flatnonzero(grammar.allowed_next(grammar.prompt) & ~grammar.content).tolist())
    assert set(text_ends(TOKENIZER, {"language": known})) == allowed


def test_an_unknown_attribute_is_fed_as_unk_and_never_a_target() -> None:
    targets = build_targets(Clip(age=None, emotion="bored"), TOKENIZER)
    assert spelt(targets.inputs[2:6]) == ["<lang:zh>", "<age:unk>", "<gender:female>", "<emotion:unk>"]
    assert spelt(targets.targets[1:5]) == ["<lang:zh>", "-", "<gender:female>", "-"]


def test_an_unknown_character_is_no_target_either() -> None:
    targets = build_targets(Clip(label="你龘好", events=None), TOKENIZER)
    assert UNK in targets.inputs
    assert UNK not in targets.targets
    assert not targets.events_known


def test_an_event_with_a_place_keeps_it_and_is_not_repeated() -> None:
    targets = build_targets(Clip(label="你<event:dog>好", events=("dog_bark", "cat", "cat")), TOKENIZER)
    assert spelt(targets.ctc) == ["你", "<event:dog>", "好", "<event:cat>"]


def test_silence_is_not_learnt_from_a_missing_transcript() -> None:
    unknown = build_targets(Clip(label="", events=None), TOKENIZER)
    assert unknown.targets[-1] == NO_TARGET
    assert unknown.is_empty
    sound = build_targets(Clip(label="", events=("rain",)), TOKENIZER)
    assert spelt(sound.targets[-2:]) == ["<event:rain>", "<eot>"]
    nothing = build_targets(Clip(label=None, events=()), TOKENIZER)
    assert nothing.targets[-1] == EOT


@pytest.mark.parametrize(("task", "answer"), [("gender", "<gender:female>"), ("language", "<lang:zh>")])
def test_single_attribute_tasks(task: str, answer: str) -> None:
    targets = build_targets(Clip(), TOKENIZER, task=task)
    assert spelt(targets.inputs) == ["<sot>", f"<task:{task}>", answer]
    assert spelt(targets.targets) == ["-", answer, "<eot>"]
    assert targets.ctc == build_targets(Clip(), TOKENIZER).ctc


def test_tasks_that_a_clip_can_train() -> None:
    everything = Clip()
    assert trainable_tasks(everything, TOKENIZER) == TOKENIZER.scheme.tasks
    assert trainable_tasks(replace(everything, gender=None, events=None), TOKENIZER) == (
        "transcribe",
        "language",
        "age",
        "emotion",
    )


def test_a_task_outside_the_scheme_is_a_user_error() -> None:
    with pytest.raises(UserError, match="translate"):
        build_targets(Clip(), TOKENIZER, task="translate")
    with pytest.raises(UserError, match="translate"):
        Grammar(TOKENIZER, task="translate")
    with pytest.raises(UserError, match="language=fr"):
        Grammar(TOKENIZER, given={"language": "fr"})


labels = st.builds(
    Clip,
    label=st.sampled_from([None, "", "hello", "你龘 other", "the <event:dog> 好", "<event:toaster>"]),
    language=st.sampled_from([None, "zh", "yue", "fr", "unk"]),
    age=st.sampled_from([None, "child", "40"]),
    gender=st.sampled_from([None, "male", "M"]),
    emotion=st.sampled_from([None, "fear", "bored"]),
    events=st.sampled_from([None, (), ("dog",), ("cat", "toaster")]),
)
tasks = st.sampled_from(TOKENIZER.scheme.tasks)
orders = st.sampled_from(["attributes_first", "text_first"])


@given(labels, tasks, orders)
@settings(max_examples=200, deadline=None)
def test_every_target_is_something_the_grammar_can_say(clip: Clip, task: str, order: str) -> None:
    targets = build_targets(clip, TOKENIZER, task=task, order=order)  # type: ignore[arg-type]
    grammar = Grammar(TOKENIZER, task=task, order=order)  # type: ignore[arg-type]
    assert len(targets.inputs) == len(targets.targets)
    assert tuple(targets.inputs[:2]) == grammar.prompt
    assert not set(targets.targets) & NEVER
    assert set(targets.ctc) - {UNK} <= set(np.flatnonzero(grammar.ctc).tolist())
    for place, target in enumerate(targets.targets[1:], start=2):
        if target != NO_TARGET:
            ends = text_ends(TOKENIZER, {"language": TOKENIZER.scheme.labels("language")})
            assert grammar.allowed_next(targets.inputs[:place])[ends if target == TEXT_ENDS else target].all()


@given(labels, orders)
@settings(max_examples=100, deadline=None)
def test_parsing_gives_back_what_was_known(clip: Clip, order: str) -> None:
    targets = build_targets(clip, TOKENIZER, order=order)  # type: ignore[arg-type]
    recognition = parse([*targets.inputs, EOT], TOKENIZER)
    for kind in ATTRIBUTES:
        assert getattr(recognition, kind) == TOKENIZER.scheme.known(kind, getattr(clip, kind))
    events = [label[1] for token in targets.ctc if (label := TOKENIZER.label_of(token))]
    assert recognition.events == tuple(dict.fromkeys(events))
    assert "<" not in recognition.text


@given(tasks, orders, st.data())
@settings(max_examples=150, deadline=None)
def test_no_walk_through_the_grammar_meets_unk(task: str, order: str, data: st.DataObject) -> None:
    grammar = Grammar(TOKENIZER, task=task, order=order)  # type: ignore[arg-type]
    ids = list(grammar.prompt)
    for _ in range(14):
        allowed = np.flatnonzero(grammar.allowed_next(ids)).tolist()
        assert allowed, "there is always a way on"
        assert not set(allowed) & NEVER
        ids.append(data.draw(st.sampled_from(allowed)))
        if ids[-1] == EOT:
            break
    answers = [TOKENIZER.label_of(token) for token in ids[2:]]
    attributes = [label[0] for label in answers if label and label[0] != "event"]
    assert attributes == list(grammar.slots[: len(attributes)])
    if ids[-1] == EOT:
        assert attributes == list(grammar.slots)
        assert np.flatnonzero(grammar.allowed_next(ids)).tolist() == [EOT]


def test_a_given_attribute_leaves_no_choice() -> None:
    grammar = Grammar(TOKENIZER, given={"language": "cantonese", "gender": "f"})
    ids = list(grammar.prompt)
    assert np.flatnonzero(grammar.allowed_next(ids)).tolist() == [TOKENIZER.special_id("language", "yue")]
    ids += [TOKENIZER.special_id("language", "yue"), TOKENIZER.special_id("age", "child")]
    assert np.flatnonzero(grammar.allowed_next(ids)).tolist() == [TOKENIZER.special_id("gender", "female")]


def test_a_model_answers_with_labels_that_it_was_trained_on_and_with_no_others() -> None:
    known_labels = {"language": ["zh", "yue"], "age": [], "gender": ["female"], "emotion": [], "event": ["dog"]}
    grammar = Grammar(TOKENIZER, known_labels=known_labels)
    ids, slots = list(grammar.prompt), []
    for _ in grammar.slots:
        slots.append(np.flatnonzero(grammar.allowed_next(ids)).tolist())
        ids.append(slots[-1][0])
    special = TOKENIZER.special_id
    wanted = [["zh", "yue"], [None], ["female"], [None]]
    assert slots == [
        [special(kind, label) for label in labels] for kind, labels in zip(grammar.slots, wanted, strict=True)
    ]
    events = TOKENIZER.ids_of("event")
    for mask in (grammar.ctc, grammar.allowed_next(ids)):
        assert np.flatnonzero(mask[events.start : events.stop]).tolist() == [special("event", "dog") - events.start]
    found = parse(ids, TOKENIZER)
    assert (found.language, found.age, found.gender, found.emotion) == ("zh", None, "female", None)
    with pytest.raises(UserError, match="no label"):
        Grammar(TOKENIZER, task="age", known_labels=known_labels)
