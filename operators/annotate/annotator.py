"""Annotators: clips in, opinions of their speaker, sound and style out. What several say alike becomes a label.

    Heard (pcm, text, language) ──Annotator──> {kind: Opinion} each ──named──> NamedOpinion ... ──agree──> Attributes

An audio model passes over the text, a text model over the audio. Who does not know leaves the kind out: abstaining is
an answer, a guess is none. An annotator takes all kept clips of a unit at once and makes its own batches, as a
recogniser does, so the same unit gives the same opinions on any worker. It loads its model in the constructor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from operators.clip import KINDS, SAMPLE_RATE, Hypothesis, NamedOpinion, Quality, Word
from operators.language import canonical

Progress = Callable[[int, float], None]
"""Called inside a unit with the clips and the seconds of audio that are finished so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """A Heard is a kept clip as annotators, aligners and diarisations meet it."""

    pcm: np.ndarray
    """int16 [samples], 16 kHz mono."""
    text: str
    """the label, as the shard holds it."""
    language: str | None = None
    hypotheses: tuple[Hypothesis, ...] = ()
    """what the recognisers heard, their tags with it."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """An Opinion is a label, or of "events" any number of them, with the score that the annotator gives it."""

    labels: tuple[str, ...]
    """lower case; (): of "events" alone, there are none."""
    score: float | None = None


class Cache(Protocol):
    """A Cache keeps answers in the run directory, for annotators that would not give the same one twice."""

    def get(self, key: str) -> bytes | None:
        """Return what was put under a name (letters and digits, the hex of a hash), None where nothing was."""
        ...

    def put(self, key: str, data: bytes) -> None: ...


class Annotator(Protocol):
    """An Annotator is what the stage needs of an engine; bring your own by writing these three.

    `annotate` may also take `cache` (a Cache) and `progress`, by keyword: an engine that names them is given them.
    """

    name: str
    """goes into the ledger; names engine and model, never a path of the machine."""

    def annotate(self, clips: Sequence[Heard]) -> list[Mapping[str, Opinion]]:
        """Return, for each clip in order, an opinion of each kind (operators.clip.KINDS) that it has one of.

        Raises MachineTrouble when it cannot answer now (an endpoint that died): the unit is then left undone.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpeaker:
    """A ClipSpeaker says who speaks in a clip: a number within its recording, in the order of appearance from 0."""

    number: int | None
    """None: cannot be told."""
    overlap: float | None = None
    """share of the clip in which more than one speaks, 0-1; None where the engine does not tell."""


class Diarisation(Protocol):
    """A Diarisation tells the speakers of one recording apart."""

    name: str

    def speakers(self, clips: Sequence[Heard]) -> list[ClipSpeaker]:
        """Return who speaks in each clip. clips: those of one recording, or of a unit's piece of it, in time order."""
        ...

    def close(self) -> None: ...


class Aligner(Protocol):
    """An Aligner finds when each word of a label is spoken."""

    name: str

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        """Return the words of each clip's label in order, timed; None for a clip that it cannot align (a language that
        it does not know, a path that does not fit).
        """
        ...

    def close(self) -> None: ...


class Meter(Protocol):
    """A Meter measures how good a clip's sound is."""

    def measure(self, pcm: np.ndarray, neighbours: Sequence[np.ndarray] = ()) -> Quality:
        """Return the quality of int16 [samples]. neighbours: clips before and after it in its recording, nearest first,
        whose pauses hold the same noise.
        """
        ...

    def close(self) -> None: ...


def opinions(
    annotator: Annotator,
    clips: Sequence[Heard],
    kinds: Sequence[str],
    *,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> list[tuple[NamedOpinion, ...]]:
    """Return what an annotator says of each clip, of `kinds` alone, in the order of KINDS.

    Labels are lower case, without repeats; events come in the order of their names, a language under its one name. An
    opinion of more than one label is none where a clip has but one. Raises ValueError for an answer of another length,
    or of a kind that there is none of.
    """
    offered: dict[str, Any] = {"cache": cache, "progress": progress}
    takes = inspect.signature(annotator.annotate).parameters
    answers = annotator.annotate(clips, **{name: offered[name] for name in offered if name in takes})
    if len(answers) != len(clips):
        raise ValueError(f"{annotator.name} answered for {len(answers)} of {len(clips)} clips")
    if unknown := sorted({kind for answer in answers for kind in answer} - set(KINDS)):
        raise ValueError(f"{annotator.name} gave an opinion of {unknown[0]}: there are {', '.join(KINDS)}")
    return [
        tuple(
            named
            for kind in KINDS
            if kind in kinds and kind in answer and (named := _named(annotator.name, kind, answer[kind])) is not None
        )
        for answer in answers
    ]


def one_by_one(
    clips: Sequence[Heard], opinion: Callable[[np.ndarray], Mapping[str, Opinion]], progress: Progress | None = None
) -> list[Mapping[str, Opinion]]:
    """Return what `opinion` says of each clip. Clips that are never in one batch cannot depend on each other.

    opinion: takes int16 [samples], 16 kHz.
    """
    found: list[Mapping[str, Opinion]] = []
    seconds = 0.0
    for clip in clips:
        found.append(opinion(clip.pcm))
        seconds += len(clip.pcm) / SAMPLE_RATE
        if progress is not None:
            progress(len(found), seconds)
    return found


def _named(annotator: str, kind: str, opinion: Opinion) -> NamedOpinion | None:
    labels = tuple(dict.fromkeys(tidy(kind, label) for label in opinion.labels))
    if "" in labels or (kind != "events" and len(labels) != 1):
        return None
    if kind == "events":
        labels = tuple(sorted(labels))
    score = None if opinion.score is None else float(opinion.score)
    return NamedOpinion(annotator=annotator, kind=kind, labels=labels, score=score)


_ALSO_CALLED = {
    "gender": {"m": "male", "man": "male", "f": "female", "woman": "female"},
    "age": {"kid": "child", "senior": "elderly"},
    "emotion": {
        **{"angry": "anger", "sad": "sadness", "happy": "happiness", "joy": "happiness"},
        **{"surprised": "surprise", "fearful": "fear", "disgusted": "disgust"},
    },
    "events": {"laughter": "laughing", "applause": "clapping", "cough": "coughing", "sneeze": "sneezing"},
}
"""What data sets and models call the labels of the trainer's scheme: two names of one thing are no disagreement."""


def tidy(kind: str, label: str) -> str:
    """Return a label as it is compared and kept: one line in lower case, under its one name."""
    text = " ".join(label.lower().split())
    return canonical(text) or "" if kind == "language" else _ALSO_CALLED.get(kind, {}).get(text, text)
