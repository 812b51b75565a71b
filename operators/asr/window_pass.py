"""One pass over some windows: each encoded once; languages, text and words out of the same steps.

windows ──fill, mel──> encode once ──> steps of each window
  steps ─┬─> chances of each clip's stretch ──window_language──> a language per window, by its recording
         ├─> beam search in batches, the longest first, one prompt per window ──> text, avg_logprob
         └─> align, where clips share the window ──> words with times ──windows.share_out──> Heard of each clip
  clips in doubt, and those in another language ──> encoded and decoded again, each in a window of its own
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from operators.asr.hallucination import HallucinationRules
from operators.asr.whisper_model import Decoded
from operators.asr.window_language import Chances, Choice, Spoken, choice, decide
from operators.asr.windows import FRAME, Share, Window, Word, alone, fill, loops, share_out
from operators.clip import Span
from operators.language import canonical

T = TypeVar("T")

WINDOWS_AT_ONCE = 64
"""whose steps are kept until their languages are settled: 200 MB of Whisper base, 500 of large-v3."""

LOW_LOGPROB_OF_LOOPS = -3.0
"""what a text that goes round in circles counts for on trial: as an improbable one."""

_DOUBTS = HallucinationRules()
"""Transcribe's own at their defaults: settings that reject less must not make a window's words go astray."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A Heard is what was heard in one clip, and in which of the windows."""

    window: int
    clip: int
    spoken: Spoken
    text: str
    avg_logprob: float
    retaken: bool = False


@dataclass(kw_only=True)
class WindowPass:
    """A WindowPass hears some windows. `model` is whisper_model's, `mel` makes a spectrogram of float32 samples."""

    model: Any
    mel: Callable[[np.ndarray], Any]
    windows: Sequence[Window]
    clips: Sequence[np.ndarray]
    """all that the windows' indices are of, int16 [samples]."""
    hints: Sequence[str | None]
    """languages that are known of them."""
    recordings: Sequence[str] | None
    """what they were cut from; None: each clip is on its own."""
    sure: float
    """a window or clip that gives its language this probability goes by itself, else by its recording."""
    batch_size: int
    _steps: np.ndarray = field(init=False, repr=False)
    """float32 [windows, steps, width]: what the encoder makes of each window."""
    _choices: list[Choice] = field(init=False, repr=False)
    _decoded: dict[tuple[int, str], Decoded] = field(default_factory=dict, init=False, repr=False)
    """of windows, by language."""

    def hear(self) -> Iterator[Heard]:
        """Yield what is heard in every clip of the windows, batch by batch."""
        self._encode()
        self._choose()
        # Windows of like length finish decoding at like steps; the longest first: memory runs out early or never.
        order = sorted(range(len(self.windows)), key=lambda place: (-self.windows[place].samples, place))
        again: list[tuple[int, int]] = []
        for batch in _chunks(order, self.batch_size):
            self._decode([(place, self._choices[place].spoken.prompted) for place in batch])
            words = self._words(batch)
            for place in batch:
                if self.windows[place].shared:
                    yield from self._share(place, words.get(place), again)
                else:
                    spoken = self._choices[place].spoken
                    found = self._decoded[place, spoken.prompted]
                    yield Heard(place, self.windows[place].clips[0], spoken, found.text, found.avg_logprob)
        yield from self._retake(again)

    def _encode(self) -> None:
        done = 0
        for batch in _chunks(self.windows, self.batch_size):
            found = self._steps_of(batch)
            if not done:
                self._steps = np.empty((len(self.windows), *found.shape[1:]), np.float32)
            self._steps[done : done + len(batch)] = found
            done += len(batch)

    def _steps_of(self, windows: Sequence[Window]) -> np.ndarray:
        import torch

        steps: np.ndarray = self.model.steps(torch.stack([self.mel(fill(window, self.clips)) for window in windows]))
        return steps

    def _choose(self) -> None:
        """Settle the language of each window: as given, else by its clips and its recording."""
        model = self.model
        if not model.multilingual:
            self._choices = [Choice(Spoken("en", None))] * len(self.windows)
            return
        choices: dict[int, Choice] = {}
        chances: dict[int, list[Chances]] = {}
        for place, window in enumerate(self.windows):
            hint = self.hints[window.clips[0]]
            if hint or not window.shared:
                chances[place] = model.chances(self._steps[place : place + 1])
                prompt = model.prompt_language(hint, chances[place][0]) if hint else None
                if hint and prompt:
                    spoken = Spoken(canonical(hint) or prompt, chances[place][0][prompt], prompt)
                    choices[place] = Choice(spoken, given=True)
                    continue
            if window.shared:
                chances[place] = [model.chances(self._stretch(place, span))[0] for span in window.spans]
        unknown = [place for place in range(len(self.windows)) if place not in choices]
        windows = [self.windows[place] for place in unknown]
        sure = 0.0 if self.recordings is None else self.sure
        members: list[Hashable] = [
            place if self.recordings is None else self.recordings[self.windows[place].clips[0]] for place in unknown
        ]
        languages, trials = decide(windows, [chances[place] for place in unknown], members, sure, model.candidates)
        for trial in trials:
            places = [unknown[at] for at in trial.heard]
            first, second = ([(place, language) for place in places] for language in trial.languages)
            self._decode(first)
            if all(trial.settled(self._decoded[row].text, _likelihood(self._decoded[row])) for row in first):
                continue
            self._decode(second)
            if sum(_likelihood(self._decoded[row]) for row in second) > sum(
                _likelihood(self._decoded[row]) for row in first
            ):
                for at in trial.windows:
                    languages[at] = trial.languages[1]
        for at, place in enumerate(unknown):
            choices[place] = choice(windows[at], chances[place], languages[at], sure, model.candidates)
        self._choices = [choices[place] for place in range(len(self.windows))]

    def _decode(self, rows: Sequence[tuple[int, str]]) -> None:
        """Decode windows, each in a language, where that has not been done."""
        for batch in _chunks([row for row in rows if row not in self._decoded], self.batch_size):
            places = [place for place, _ in batch]
            most_clips = max(len(self.windows[place].clips) for place in places)
            found = self.model.decode(self._steps[places], [language for _, language in batch], most_clips)
            self._decoded.update(zip(batch, found, strict=True))

    def _words(self, batch: Sequence[int]) -> dict[int, tuple[Word, ...]]:
        """Words with times of the shared windows whose text is complete. One call of `align` takes one language."""
        found: dict[int, tuple[Word, ...]] = {}
        alike: defaultdict[str, list[int]] = defaultdict(list)
        for place in batch:
            language = self._choices[place].spoken.prompted
            if self.windows[place].shared and self._decoded[place, language].complete:
                alike[language].append(place)
        for language, places in alike.items():
            tokens = [self._decoded[place, language].tokens for place in places]
            samples = [self.windows[place].samples for place in places]
            found.update(zip(places, self.model.timed(self._steps[places], tokens, language, samples), strict=True))
        return found

    def _share(self, place: int, words: tuple[Word, ...] | None, again: list[tuple[int, int]]) -> Iterator[Heard]:
        """Yield what the clips of a shared window said, and add those in doubt to `again`: window, position in it.

        words: None where the text is not complete.
        """
        window, chosen = self.windows[place], self._choices[place]
        shares: list[Share] = []
        doubtful = set(range(len(window.clips)))
        if words is not None:
            shares, doubtful = share_out(window, words, self.clips, chosen.spoken.language, _DOUBTS)
        doubtful |= chosen.foreign
        for position, clip in enumerate(window.clips):
            if position in doubtful:
                again.append((place, position))
            else:
                yield Heard(place, clip, chosen.spoken, shares[position].text, shares[position].avg_logprob)

    def _retake(self, again: Sequence[tuple[int, int]]) -> Iterator[Heard]:
        """Yield what is heard in clips of shared windows when each has a window of its own."""
        each_alone = alone([len(clip) for clip in self.clips])
        single = {(place, position): each_alone[self.windows[place].clips[position]] for place, position in again}
        for batch in _chunks(sorted(again, key=lambda at: (-single[at].samples, single[at].clips)), self.batch_size):
            steps = self._steps_of([single[at] for at in batch])
            spoken = [self._choices[place].spoken for place, _ in batch]
            if self.model.multilingual:
                spoken = [
                    self._choices[place].of_clip(chances, self.sure, self.model.candidates)
                    for (place, _), chances in zip(batch, self.model.chances(steps), strict=True)
                ]
            found = self.model.decode(steps, [each.prompted for each in spoken])
            for (place, position), each, said in zip(batch, spoken, found, strict=True):
                clip = self.windows[place].clips[position]
                yield Heard(place, clip, each, said.text, said.avg_logprob, retaken=True)

    def _stretch(self, place: int, span: Span) -> np.ndarray:
        """float32 [1, steps, width]: a clip's part of a window."""
        return self._steps[place : place + 1, span.start // FRAME : -(-span.end // FRAME)]


def _likelihood(decoded: Decoded) -> float:
    """How well a window's text fits its sound; what goes round in circles is likely, and wrong."""
    return decoded.avg_logprob if decoded.complete and not loops(decoded.text) else LOW_LOGPROB_OF_LOOPS


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
