"""The eight tasks, each one row of a table: what a clip must know, what is asked, what is answered, how that is read.

    row ──target──> "female", "coughing", "<0.1>hello<0.5>", a reply      asr+gender: transcript, new line, label
    answer of the model ──read_answer──> transcript, label     None where the answer is no known label: never a default

Questions are data: prompts.yaml, or a file of one's own. A question of ASR+X is a line that asks for the transcript and
a line that asks for X. Source: OSUM, "OSUM Training" (ASR+X, five prompts a task); the words of the prompts are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from model_training.text.tokens import Scheme
from operators.clip import SAMPLE_RATE, Word
from operators.errors import UserError
from operators.index import Row

PROMPTS = Path(__file__).with_name("prompts.yaml")
NO_EVENT = "none"
ASR = "asr"
_EVENT = re.compile(r"<event:[^>]*>")
_TIMED = re.compile(r"<(\d+(?:\.\d+)?)>([^<]*)<(\d+(?:\.\d+)?)>")


@dataclass(frozen=True, slots=True)
class Task:
    """A Task is one thing that can be asked of a clip."""

    name: str
    paper: str
    """its name in OSUM"""
    column: str
    """of the index, which must be known"""
    write: Callable[[Any], str]
    """from the column's value to the answer"""
    read: Callable[[str], Any]
    """from an answer to the value, None where it is none"""
    closed: bool = False
    """whether the answer is one of a list of labels"""


def transcript(label: str) -> str:
    """Return the words of a label, without its events."""
    return " ".join(_EVENT.sub(" ", label).split())


def timed(words: Sequence[Word]) -> str:
    """Return words with their times in tenths of a second: <0.1>hello<0.5> <0.7>world<1.2>."""
    return " ".join(f"<{_tenths(word.start)}>{word.text}<{_tenths(word.end)}>" for word in words)


def read_timed(text: str) -> tuple[Word, ...] | None:
    """Return the words that `timed` wrote; None where the text is anything else, or time runs backwards."""
    words = tuple(
        Word(text=word.strip(), start=round(float(start) * SAMPLE_RATE), end=round(float(end) * SAMPLE_RATE))
        for start, word, end in _TIMED.findall(text)
    )
    rest = _TIMED.sub("", text).strip()
    ordered = all(word.text and word.start <= word.end for word in words)
    return words if words and not rest and ordered else None


def _tenths(samples: int) -> str:
    return f"{round(samples * 10 / SAMPLE_RATE) / 10:.1f}"


def _events(text: str) -> tuple[str, ...] | None:
    if text.strip().lower() == NO_EVENT:
        return ()
    found = tuple(part.strip().lower() for part in text.split(","))
    return found if all(found) else None


def _label(text: str) -> str | None:
    return text.strip().lower() or None


def _text(text: str) -> str:
    return " ".join(text.split())


TASKS = {
    task.name: task
    for task in (
        Task(ASR, "ASR", "label", transcript, _text),
        Task("words", "SRWT", "words", timed, read_timed),
        Task("events", "VED", "events", lambda events: ", ".join(events) or NO_EVENT, _events, closed=True),
        Task("emotion", "SER", "emotion", str.lower, _label, closed=True),
        Task("style", "SSR", "style", str.lower, _label, closed=True),
        Task("gender", "SGC", "gender", str.lower, _label, closed=True),
        Task("age", "SAP", "age", str.lower, _label, closed=True),
        Task("chat", "STTC", "answer", _text, _text),
    )
}
_BY_PAPER = {task.paper.lower(): name for name, task in TASKS.items()}


@dataclass(frozen=True, slots=True)
class Asked:
    """An Asked is what is asked at once: a task, the transcript before it or not."""

    task: Task
    transcript: bool = False

    @property
    def name(self) -> str:
        """Return asr, gender, asr+gender, ..."""
        return f"{ASR}+{self.task.name}" if self.transcript else self.task.name

    @property
    def wants_text(self) -> bool:
        """Say whether a transcript is part of the answer."""
        return self.transcript or self.task.name == ASR


def parse_task(name: str, where: str = "--task") -> Asked:
    """Return the task of a name: asr, gender, asr+gender, or the paper's (SGC, ASR+SGC). Raises UserError."""
    parts = [_BY_PAPER.get(part, part) for part in name.strip().lower().split("+")]
    x = parts[-1]
    if x not in TASKS or len(parts) > 2 or (len(parts) == 2 and (parts[0] != ASR or x == ASR)):
        known = ", ".join(TASKS)
        raise UserError(f"{where}: no task {name!r}: there are {known}, and {ASR}+ before each but the first")
    return Asked(TASKS[x], len(parts) == 2)


@dataclass(frozen=True)
class Labels:
    """The Labels are the names that answers may give, by task: what the data of the training had.

    Data sets call a label by many names: the scheme's aliases make one of them.
    """

    known: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scheme: Scheme = field(default_factory=Scheme)

    def canonical(self, task: str, label: str) -> str:
        """Return our name of a label."""
        kind = "event" if task == "events" else task
        label = " ".join(label.lower().split())
        return self.scheme.aliases.get(f"{kind}:{label}", label)

    def read(self, task: str, answer: str) -> Any:
        """Return what an answer says: a label, a tuple of events or timed words, text. None is no answer."""
        value = TASKS[task].read(answer)
        if value is None or not TASKS[task].closed:
            return value or None
        given = value if isinstance(value, tuple) else (value,)
        names = tuple(self.canonical(task, label) for label in given)
        if not set(names) <= set(self.known.get(task, ())):
            return None
        return tuple(dict.fromkeys(names)) if isinstance(value, tuple) else names[0]


@dataclass(frozen=True, slots=True)
class Reading:
    """A Reading is what an answer of the model says."""

    text: str | None = None
    """the transcript, where it was asked for"""
    value: Any = None
    """label, events, timed words or reply; None: no answer"""


def target(asked: Asked, row: Row, labels: Labels) -> str | None:
    """Return the answer that a clip teaches; None where it does not know it."""
    value = getattr(row, asked.task.column)
    if value is None or (asked.wants_text and not transcript(row.label)) or value == "":
        return None
    if asked.task.closed:
        given = value if isinstance(value, tuple) else (value,)
        names = tuple(labels.canonical(asked.task.name, label) for label in given)
        if not set(names) <= set(labels.known.get(asked.task.name, ())):
            return None
        value = names if isinstance(value, tuple) else names[0]
    answer = asked.task.write(value)
    if not answer:
        return None
    return f"{transcript(row.label)}\n{answer}" if asked.transcript else answer


def read_answer(asked: Asked, answer: str, labels: Labels) -> Reading:
    """Return what an answer says. With a transcript asked for, X is on the last line."""
    answer = answer.strip()
    if asked.task.name == ASR:
        return Reading(text=_text(answer))
    if not asked.transcript:
        return Reading(value=labels.read(asked.task.name, answer))
    text, line, x = answer.rpartition("\n")
    if not line:
        return Reading(text=_text(answer))
    return Reading(text=_text(text), value=labels.read(asked.task.name, x))


class Prompts:
    """The Prompts are the questions of each task, in several languages."""

    def __init__(self, table: Mapping[str, Mapping[str, Sequence[str]]], name: str) -> None:
        """Take questions by task and language; `asr+` are lines that ask for the transcript first.

        Raises:
            UserError: an unknown task, or an entry that is no list of questions.
        """
        self.table, self.name = table, name
        for task, by_language in table.items():
            if task not in TASKS and task != "asr+":
                raise UserError(f"{name}: no task {task!r}: there are {', '.join(TASKS)}, and asr+")
            if not isinstance(by_language, Mapping) or not by_language:
                raise UserError(f"{name}: {task} needs lists of questions by language, for example en: [...]")
            for language, questions in by_language.items():
                ok = isinstance(questions, list) and questions and all(isinstance(q, str) and q for q in questions)
                if not ok:
                    raise UserError(f"{name}: {task}.{language} must be a list of questions")

    @classmethod
    def load(cls, path: str = "") -> Prompts:
        """Return the questions of a YAML file; the built-in ones without a path. Raises UserError."""
        file = Path(path) if path else PROMPTS
        try:
            table = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the questions {file}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is no YAML file of questions: {str(error).splitlines()[0]}") from None
        if not isinstance(table, dict):
            raise UserError(f"{file} holds no questions: write them by task and language")
        return cls(table, str(file))

    def of(self, asked: Asked, languages: Sequence[str]) -> list[str]:
        """Return every question that asks this in these languages. Raises UserError where there is none."""
        questions = []
        for language in languages:
            own = self.table.get(asked.task.name, {}).get(language, [])
            if asked.transcript:
                leads = self.table.get("asr+", {}).get(language, [])
                questions += [f"{leads[place % len(leads)]}\n{one}" for place, one in enumerate(own) if leads]
            else:
                questions += own
        if not questions:
            raise UserError(f"{self.name} has no question for {asked.name} in {', '.join(languages)}")
        return questions

    @cached_property
    def texts(self) -> list[str]:
        """Return every line, for a vocabulary."""
        return [one for by_language in self.table.values() for questions in by_language.values() for one in questions]


def check_known(asked: Collection[Asked], labels: Labels, has_column: Callable[[str], bool], uri: str) -> None:
    """Raise UserError for a task that no clip of the hand-off has a label for."""
    for one in asked:
        column = one.task.column
        if (one.task.closed and not labels.known.get(one.task.name)) or not has_column(column):
            raise UserError(
                f"data.tasks: no clip of {uri} has {column} for {one.name}; take it out, or label some clips"
            )
