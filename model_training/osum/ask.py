"""Questions to a trained model: about recordings of any length, or about the clips of a hand-off's split.

    file ──windows of 30 s, cut where it is quiet──> Osum.answer ──read_answer──> Reading each ──join──> Reading
    split ──ClipBatches──> Osum.answer ──> Answer per clip and task (evaluation/answers.py)

A window without speech is not asked about speech: its answer is empty, not an invention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_training.data.batching import BatchPlan, Planner
from model_training.data.handoff import Handoff
from model_training.data.index import Index
from model_training.data.loading import ClipBatches, Sample
from model_training.data.reading import Reader
from model_training.decoding.windows import windows
from model_training.evaluation.answers import Answer, AudioPlace
from model_training.osum.build import Opened
from model_training.osum.data import padded_features
from model_training.osum.parts.mel import Mel, log_mel
from model_training.osum.tasks import Asked, Labels, Reading, parse_task, read_answer
from operators.audio.decode import Problem
from operators.clip import Word
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE
from operators.index import Row

WINDOW_SECONDS = 30
_LEAST = SAMPLE_RATE // 10
_BATCH = 8


class Answerer:
    """An Answerer asks a model questions about samples."""

    def __init__(self, opened: Opened, *, together: int = _BATCH) -> None:
        self.opened, self._together = opened, together

    def ask(self, pcms: Sequence[np.ndarray], prompt: str) -> list[str]:
        """Return the answer about each clip, int16 [T] of at most 30 s; "" where it is too short to hold anything."""
        model = self.opened.model
        heard = [place for place, pcm in enumerate(pcms) if len(pcm) >= _LEAST]
        answers = [""] * len(pcms)
        for first in range(0, len(heard), self._together):
            places = heard[first : first + self._together]
            mels = [log_mel(pcms[place], model.bins, full_window=model.full_window) for place in places]
            for place, answer in zip(places, self.answer_mels(mels, prompt), strict=True):
                answers[place] = answer
        return answers

    def answer_mels(self, mels: Sequence[Mel], prompt: str) -> list[str]:
        """Return the answer about each clip of one batch."""
        model, device = self.opened.model, self.opened.device
        arrays = padded_features(mels, model.bins)
        question = model.chat.question(prompt)
        dtype = self.opened.autocast
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            return model.answer(
                torch.from_numpy(arrays["features_BFM"]).to(device),
                torch.from_numpy(arrays["mel_lengths_B"]).to(device),
                [question] * len(mels),
                self.opened.settings.data.max_answer_tokens,
            )

    def prompt(self, asked: Asked) -> str:
        """Return the first of the wordings that the model was taught for a task."""
        return self.opened.prompts.of(asked, self.opened.settings.data.languages)[0]

    def check(self, asked: Asked) -> None:
        """Raise UserError for a task that the model was not trained for."""
        trained = [name for name, weight in self.opened.settings.data.tasks.items() if weight]
        if asked.name not in {parse_task(name).name for name in trained}:
            raise UserError(f"the model was not trained for the task {asked.name}: it has {', '.join(trained)}")


@dataclass(frozen=True, slots=True)
class Said:
    """A Said is the answer about one recording."""

    answer: str
    """as the model gave it, one window a paragraph"""
    reading: Reading | None
    """None: a question of one's own was asked"""


def ask_file(
    answerer: Answerer,
    audio: str | Path | np.ndarray,
    asked: Asked | None,
    prompt: str,
    *,
    has_speech: Callable[[np.ndarray], bool] | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> Said:
    """Return the answer about a recording of any length.

    Args:
        asked: the task, None for a question of one's own.
        has_speech: says of a window whether anybody speaks in it; those where nobody does are not asked about.

    Raises:
        UserError: audio that cannot be read.
    """
    answers, places, start = [], [], 0
    for pcm in windows(audio, WINDOW_SECONDS * SAMPLE_RATE, on_problem):
        if has_speech is None or has_speech(pcm):
            answers += answerer.ask([pcm], prompt)
            places.append((start, len(pcm)))
        start += len(pcm)
    if asked is None:
        return Said("\n\n".join(answer for answer in answers if answer), None)
    readings = [read_answer(asked, answer, answerer.opened.labels) for answer in answers]
    whole = "\n\n".join(answer for answer in answers if answer)
    return Said(whole, join(asked, readings, places))


def join(asked: Asked, readings: Sequence[Reading], places: Sequence[tuple[int, int]]) -> Reading:
    """Return one reading of a recording's windows: texts in order, one label by most seconds, events and words all.

    Args:
        places: start and length of each window in samples.
    """
    text = " ".join(reading.text for reading in readings if reading.text) if asked.wants_text else None
    values = [(reading.value, place) for reading, place in zip(readings, places, strict=True) if reading.value]
    if asked.task.name == "words":
        moved = (
            Word(text=word.text, start=word.start + start, end=word.end + start)
            for words, (start, _) in values
            for word in words
        )
        return Reading(text, tuple(moved) or None)
    if asked.task.name == "events":
        known = [reading.value for reading in readings if reading.value is not None]
        return Reading(text, tuple(dict.fromkeys(event for events in known for event in events)) if known else None)
    if asked.task.name == "chat":
        return Reading(text, " ".join(value for value, _ in values) or None)
    seconds: Counter[str] = Counter()
    for value, (_, length) in values:
        seconds[value] += length
    return Reading(text, max(seconds, key=lambda label: seconds[label], default=None))


class _MelForm:
    """A form of clips to ask about: their features, and nothing to learn."""

    batch = dict

    def __init__(self, opened: Opened) -> None:
        self._bins, self._full_window = opened.model.bins, opened.model.full_window

    def targets(self, row: Row, generator: np.random.Generator) -> None:
        """Return nothing."""

    def features(self, row: Row, pcm: np.ndarray, targets: None, generator: np.random.Generator) -> Mel:
        """Return log-mel features."""
        return log_mel(pcm, self._bins, full_window=self._full_window)

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the clips as they are."""
        return {"rows": [sample.row for sample in samples], "mels": [sample.features for sample in samples]}


@dataclass(frozen=True)
class Asking:
    """An Asking is the answers to every task about every clip of a split, and the clips that could not be read."""

    answers: list[Answer]
    unusable: Mapping[str, list[tuple[str, str]]]
    shifts_ms: list[float]
    """of word starts and ends, where times were asked for and known, in milliseconds"""


def ask_split(
    answerer: Answerer,
    handoff: Handoff,
    split: str,
    tasks: Sequence[Asked],
    *,
    on_answer: Callable[[Row, Asked, str], None] | None = None,
) -> Asking:
    """Return what the model says of a split's clips, by domain. Raises UserError for an empty split."""
    index = handoff.index(split)
    if not len(index):
        raise UserError(f"{handoff.uri}: the split {split} is empty; choose another with --split")
    answers: list[Answer] = []
    unusable: dict[str, list[tuple[str, str]]] = {}
    shifts: list[float] = []
    labels = answerer.opened.labels
    for domain in index.domain_names:
        for batch in _batches(answerer.opened, handoff, index.of_domain(domain)):
            unusable.setdefault(domain, []).extend((bad.clip_id, bad.reason) for bad in batch["bad"])
            for asked in tasks if batch["rows"] else ():
                said = answerer.answer_mels(batch["mels"], answerer.prompt(asked))
                for row, answer in zip(batch["rows"], said, strict=True):
                    reading = read_answer(asked, answer, labels)
                    answers.append(_scored(domain, row, asked, reading, labels))
                    if asked.task.name == "words":
                        shifts += _shifts(row.words, reading.value)
                    if on_answer is not None:
                        on_answer(row, asked, answer)
    return Asking(answers, unusable, shifts)


def _batches(opened: Opened, handoff: Handoff, index: Index) -> Iterator[dict[str, Any]]:
    if not len(index):
        return
    plan = BatchPlan(max_frames=max(6_000, int(index.frames.max())), max_clips=_BATCH)
    planner = Planner(index, plan, max_clip_frames=100 * WINDOW_SECONDS, may_be_empty=True, needs_text=False)
    last = planner.batches_per_epoch(0)
    unusable = list(planner.unusable())
    yield {"rows": [], "mels": [], "bad": unusable}
    yield from ClipBatches(index, planner, Reader(handoff.s3), _MelForm(opened), last_global_batch=last)


def _scored(domain: str, row: Row, asked: Asked, reading: Reading, labels: Labels) -> Answer:
    """Return one clip's answer beside what is true of it."""
    name = asked.task.name
    truths: dict[str, str] = {}
    given: dict[str, str] = {}
    events: dict[str, Any] = {}
    true = getattr(row, asked.task.column)
    if asked.task.closed and name != "events" and true:
        truths[name] = labels.canonical(name, true)
        if reading.value:
            given[name] = reading.value
    if name == "events" and true is not None:
        names = tuple(labels.canonical(name, event) for event in true)
        events = {"true_events": names, "events": reading.value or ()}
    return Answer(
        set=domain,
        clip_id=row.clip_id,
        method=asked.name,
        recording=row.speaker or row.recording_id,
        seconds=row.frames / 100,
        language=row.language,
        reference=row.label or None if asked.wants_text else None,
        hypothesis=reading.text or "",
        truths=truths,
        labels=given,
        audio=AudioPlace.of(row),
        **events,
    )


def _shifts(true: Sequence[Word] | None, said: Sequence[Word] | None) -> list[float]:
    """Return how far words lie from where they are, where both name the same ones (SRWT's average shift)."""
    if not true or not said or [word.text.lower() for word in true] != [word.text.lower() for word in said]:
        return []
    pairs = [(a.start - b.start, a.end - b.end) for a, b in zip(true, said, strict=True)]
    return [abs(shift) * 1000 / SAMPLE_RATE for pair in pairs for shift in pair]
