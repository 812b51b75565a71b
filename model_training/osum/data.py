"""A hand-off's clips as questions: what is drawn for a clip, and what a batch of them holds.

    row ──task drawn by weight, of those it knows──> Asked ──question drawn──> before | SPEECH | after, answer
    pcm ──log_mel──> features                                                        └──> OsumBatch

Shapes: B clips, F mel frames, M mel bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from model_training import config
from model_training.data.audio import BadSample
from model_training.data.handoff import Handoff
from model_training.data.index import Index
from model_training.data.loading import Sample, only
from model_training.data.source import ClipSource
from model_training.osum.parts.llm import Chat
from model_training.osum.parts.mel import Mel, log_mel
from model_training.osum.settings import OsumSettings
from model_training.osum.tasks import TASKS, Asked, Labels, Prompts, check_known, parse_task, target, transcript
from operators.index import Row

Question = tuple[list[int], list[int]]
"""Token ids before and behind the speech."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """An Exercise is what one clip teaches in one batch."""

    asked: Asked
    question: Question
    answer: list[int]
    words: list[int]
    """the transcript's ids, where it is known"""


class Writer(Protocol):
    """A Writer turns questions and answers into token ids, as the model that learns them reads and writes."""

    def question(self, asked: Asked, language: str | None, number: int) -> Question:
        """Return one of the ways to ask; `number` is any number, drawn at random."""

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer, its end with them."""

    def words(self, text: str) -> list[int]:
        """Return the ids of a transcript as the adaptor is aligned with it."""


class ChatWriter:
    """A ChatWriter asks a language model in its chat template, in one of the prompts' wordings."""

    def __init__(self, chat: Chat, prompts: Prompts, languages: Sequence[str]) -> None:
        self._chat, self._prompts, self._languages = chat, prompts, tuple(languages)
        self._ids = lru_cache(maxsize=1024)(chat.question)

    def question(self, asked: Asked, language: str | None, number: int) -> Question:
        wordings = self._prompts.of(asked, self._languages)
        return self._ids(wordings[number % len(wordings)])

    def answer(self, text: str) -> list[int]:
        return self._chat.answer(text)

    def words(self, text: str) -> list[int]:
        return self._chat.words(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class OsumBatch:
    """An OsumBatch holds clips with a question and its answer each. B is 0 when none of its clips could be used."""

    features_BFM: Tensor
    """float32 log-mel, 0 after a clip's end, or 3000 frames each"""
    mel_lengths_B: Tensor
    """of the clips themselves, in mel frames"""
    feature_lengths_B: Tensor
    """the clips' 10 ms frames as the index counts them"""
    exercises: list[Exercise]
    clip_ids: list[str]
    rows: list[Row]
    global_batch: int
    bad: tuple[BadSample, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def only(self, wanted_B: list[bool]) -> OsumBatch:
        """Return some of its clips, with the padding as it was."""
        return only(self, wanted_B)


class OsumForm:
    """An OsumForm makes a clip into mel features, and one exercise that its labels allow.

    Args:
        fixed: take the first task that a clip knows, in its first wording: nothing is drawn.
    """

    batch = OsumBatch

    def __init__(
        self,
        tasks: Iterable[tuple[float, Asked]],
        labels: Labels,
        writer: Writer,
        bins: int,
        settings: OsumSettings,
        *,
        fixed: bool = False,
    ) -> None:
        self._tasks = [(weight, asked) for weight, asked in tasks if weight > 0]
        self._labels, self._writer, self._bins = labels, writer, bins
        self._full_window, self._most = settings.full_window(), settings.data.max_answer_tokens
        self._fixed = fixed

    def targets(self, row: Row, generator: np.random.Generator) -> Exercise:
        """Return a task that the clip has an answer to, asked in one of its wordings. Raises BadSample without any."""
        known = [(weight, asked, text) for weight, asked in self._tasks if (text := target(asked, row, self._labels))]
        lot, number = generator.random(), int(generator.integers(1 << 30))
        if not known:
            raise BadSample(row.clip_id, "empty_label", "no task of the settings has an answer for it")
        if self._fixed:
            lot, number = 0.0, 0
        shares = np.cumsum([weight for weight, _, _ in known])
        _, asked, text = known[int(np.searchsorted(shares, lot * shares[-1], side="right"))]
        answer = self._writer.answer(text)
        if len(answer) > self._most:
            raise BadSample(row.clip_id, "label_too_long", f"{len(answer)} tokens of answer, {self._most} at most")
        words = self._writer.words(transcript(row.label))
        return Exercise(asked, self._writer.question(asked, row.language, number), answer, words)

    def features(self, row: Row, pcm: np.ndarray, targets: Exercise, generator: np.random.Generator) -> Mel:
        """Return log-mel features."""
        return log_mel(pcm, self._bins, full_window=self._full_window)

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return what an OsumBatch holds of these clips."""
        rows = [sample.row for sample in samples]
        return padded_features([sample.features for sample in samples], self._bins) | {
            "feature_lengths_B": np.array([row.frames for row in rows], np.int64),
            "exercises": [sample.targets for sample in samples],
            "clip_ids": [row.clip_id for row in rows],
            "rows": rows,
        }


def padded_features(mels: Sequence[Mel], bins: int) -> dict[str, np.ndarray]:
    """Return `features_BFM` of clips, 0 behind their ends, and their `mel_lengths_B`."""
    longest = max((len(mel.features_FM) for mel in mels), default=0)
    padded_BFM = np.zeros((len(mels), longest, bins), np.float32)
    for place, mel in enumerate(mels):
        padded_BFM[place, : len(mel.features_FM)] = mel.features_FM
    return {"features_BFM": padded_BFM, "mel_lengths_B": np.array([mel.frames for mel in mels], np.int64)}


class OsumSource(ClipSource[OsumBatch]):
    """An OsumSource is the data of an OsumLearner."""

    def __init__(self, handoff: Handoff, settings: OsumSettings, writer: Writer, bins: int) -> None:
        super().__init__(handoff, settings.data, settings.train, needs_text=False)
        self._settings, self._bins, self._uri = settings, bins, handoff.uri
        self.tasks = [(weight, parse_task(name, "data.tasks")) for name, weight in settings.data.tasks.items()]
        self.labels = known_labels(self.index)
        wanted = [asked for weight, asked in self.tasks if weight]
        check_known(wanted, self.labels, self.index.knows, handoff.uri)
        self._writer = writer

    def record(self, vocabulary: int, tokenizer: str, digests: dict[str, str]) -> dict[str, Any]:
        """Return what each checkpoint says: settings, what was taught on what, and digests of the parts."""
        return {
            "settings": config.to_dict(self._settings),
            "vocabulary": vocabulary,
            "tokenizer": tokenizer,
            "data": self.fingerprint,
            "handoff": self._uri,
            "learnt": dict(self.labels.known),
            "osum": {"digests": digests, "scheme": self.labels.scheme.to_dict()},
        }

    def form(self, split: str) -> OsumForm:
        """Return what clips become: a drawn task and wording in training; on dev the same ones each time."""
        fixed = split == "dev"
        return OsumForm(self.tasks, self.labels, self._writer, self._bins, self._settings, fixed=fixed)


def known_labels(index: Index) -> Labels:
    """Return the labels that clips of an index have, by task. None is foreign: a language model can say any name."""
    empty = Labels()
    known = {
        name: sorted({empty.canonical(name, label) for label in index.labels("event" if name == "events" else name)})
        for name, task in TASKS.items()
        if task.closed
    }
    if index.knows("events"):  # () is known to have none
        known["events"] = known["events"] or ["none"]
    return Labels(known)
