"""Recognisers: clips in, one hypothesis per clip out, in the order given.

    clips of a unit ──WhisperX──> Hypothesis each (text, language, its probability, avg_logprob, its window)
    clips in play ──CopilotRouter──by language──> FunAsr, or several ──> their hypotheses, or None: no copilot

An engine takes all clips of a unit at once and makes its own batches: sorted by length, so that a batch holds clips
alike. Batches are a function of the list alone, so the same unit gives the same hypotheses on any worker. `WhisperX` is
in `whisperx.py`, `FunAsr` in `funasr.py`; both load their model in the constructor, which takes seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from operators.asr.funasr import FunAsr
from operators.asr.whisperx import WhisperX
from operators.clip import SAMPLE_RATE, Hypothesis
from operators.language import canonical

__all__ = ["ANY_LANGUAGE", "CopilotRouter", "FunAsr", "Recogniser", "WhisperX"]

ANY_LANGUAGE = "*"
"""The router's key for every language that has no copilot of its own."""


Progress = Callable[[int, float], None]
"""Called inside a unit with the clips and the seconds of audio that are finished so far."""


class Recogniser(Protocol):
    """A Recogniser is what the stages need of an engine; bring your own by writing these three.

    `transcribe` may also take `recordings` (what each clip was cut from: consecutive clips of one may be heard
    together) and `progress`, by keyword: an engine that names them is given them.
    """

    name: str
    """goes into `Hypothesis.engine`; names engine and model, never a path of the machine."""

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        """Return one hypothesis per clip, in order; `text` is "" where nothing was heard.

        clips: int16 [samples] each, 16 kHz mono, at most 30 s. languages: what is known of each clip's language, or
        None.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def transcribe(
    engine: Recogniser,
    clips: Sequence[np.ndarray],
    languages: Sequence[str | None],
    *,
    recordings: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Hypothesis]:
    """Return the answer of `engine.transcribe`, called with those of the keywords that it takes.

    Raises ValueError when it is not one hypothesis per clip.
    """
    offered: dict[str, Any] = {"recordings": recordings, "progress": progress}
    takes = inspect.signature(engine.transcribe).parameters
    answers = engine.transcribe(clips, languages, **{name: offered[name] for name in offered if name in takes})
    if len(answers) != len(clips):
        raise ValueError(f"{engine.name} answered {len(answers)} hypotheses for {len(clips)} clips")
    return answers


Loader = Callable[[], Recogniser]


@dataclass(slots=True)
class CopilotRouter:
    """A CopilotRouter holds the copilots of each language, loaded when a clip first needs them and kept until `close`.

    models: language -> a loader, or several for a vote; `ANY_LANGUAGE` serves the rest. Loaders that compare equal
    share one engine, so a model that serves three languages is in memory once.
    """

    models: Mapping[str, Loader | Sequence[Loader]]
    _loaded: list[tuple[Loader, Recogniser]] = field(default_factory=list, init=False, repr=False)

    def transcribe(
        self,
        clips: Sequence[np.ndarray],
        languages: Sequence[str | None],
        progress: Progress | None = None,
    ) -> list[tuple[Hypothesis, ...] | None]:
        """Return the hypotheses of each clip's copilots, in the order configured; None where its language has no
        copilot.

        clips: int16 [samples] each, 16 kHz mono. An engine hears all its clips of all its languages in one call.
        progress: called with the clips and their seconds that are as good as finished. Of three engines that hear every
        clip, the first one's answers are a third of the work.
        """
        routes = [self._route(language) for language in languages]
        engines: list[Loader] = []
        for route in routes:
            engines += [loader for loader in route or () if loader not in engines]
        seconds = [len(clip) / SAMPLE_RATE for clip in clips]
        chosen_by = [
            [index for index, route in enumerate(routes) if route is not None and loader in route] for loader in engines
        ]
        work = _Work(
            clips=len(clips),
            seconds=sum(seconds),
            answers=sum(map(len, chosen_by)),
            answer_seconds=sum(seconds[index] for chosen in chosen_by for index in chosen),
        )
        heard: list[dict[int, Hypothesis]] = []  # of each engine: clip index -> what it heard
        for loader, chosen in zip(engines, chosen_by, strict=True):
            answers = transcribe(
                self._engine(loader),
                [clips[i] for i in chosen],
                [languages[i] for i in chosen],
                progress=None if progress is None else work.told(progress),
            )
            heard.append(dict(zip(chosen, answers, strict=True)))
            work.answers_before += len(chosen)
            work.seconds_before += sum(seconds[index] for index in chosen)
            if progress is not None:
                work.told(progress)(0, 0.0)
        return [
            None if route is None else tuple(heard[engines.index(loader)][index] for loader in route)
            for index, route in enumerate(routes)
        ]

    def load(self) -> None:
        """Load every engine now instead of when a clip first needs it. Raises UserError for the first that cannot be
        loaded.
        """
        for loaders in self.models.values():
            for loader in (loaders,) if callable(loaders) else loaders:
                self._engine(loader)

    def close(self) -> None:
        for _, engine in self._loaded:
            engine.close()
        self._loaded.clear()

    def _route(self, language: str | None) -> tuple[Loader, ...] | None:
        """Loaders for a language code: exactly, else by its canonical name (zh-CN: zh, zh-HK: yue), else the
        rest's, else None.
        """
        code = (language or "").lower().replace("_", "-")
        for key in (code, canonical(code) or "", ANY_LANGUAGE):
            if self.models.get(key):
                loaders = self.models[key]
                return (loaders,) if callable(loaders) else tuple(loaders)
        return None

    def _engine(self, loader: Loader) -> Recogniser:
        for known, engine in self._loaded:
            if known == loader:
                return engine
        engine = loader()
        self._loaded.append((loader, engine))
        return engine


@dataclass(slots=True)
class _Work:
    """A _Work turns answers of one engine after the other into clips: a clip that three engines hear is done once."""

    clips: int
    seconds: float
    """of these."""
    answers: int
    """of all engines together."""
    answer_seconds: float
    answers_before: int = 0
    """of the engines that are through."""
    seconds_before: float = 0.0

    def told(self, progress: Progress) -> Progress:
        """Return what an engine calls with its own clips and seconds so far."""

        def further(answers: int, seconds: float) -> None:
            clips = self.clips * (self.answers_before + answers) // self.answers
            progress(clips, self.seconds * (self.seconds_before + seconds) / max(self.answer_seconds, 1e-9))

        return further
