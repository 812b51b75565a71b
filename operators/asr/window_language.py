"""Which language each window is decoded in, out of what the model gives each clip's stretch of it.

    chances of every clip ──mean──> of its window ──sure──> the window's own language
                              └──> of its recording ──┘ unsure: the recording's; two near each other: a trial, in which
                                                        the recording's longest unsure windows are heard in the first,
                                                        and, where that does not settle it, in the second
    a clip that is sure of another language than its window's ──> foreign: heard by itself, in its own

A language is identified from a few seconds, so a short clip, or a child's, is easily taken for another, and one such
clip would put a whole window into that one's script. What all clips of a recording say together is right more often.
Pure functions: the same chances give the same answer.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from operators.asr.windows import Window
from operators.language import script_of

MAX_RIVAL = 0.25
"""A recording's unsure windows are put to trial where its second language has more than this share of the first's
probability.
"""

TRIAL_WINDOWS = 2
"""of a recording that are heard in both languages, the longest."""

CLEAR_LOGPROB = -0.45
"""What a text must be as probable as to settle a trial. Prompted with a language of another script, Whisper base writes
in the script of what is said, goes round in circles, or makes a text of -0.5 and less (47 windows of Mandarin,
Cantonese and English, four languages each).
"""

CLEAR_SCRIPT = 0.9
"""of such a text's letters are in the language's script."""

Chances = Mapping[str, float]
"""Probability by language."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A Spoken is a language that something is decoded in."""

    language: str
    probability: float | None
    """that the model gives it; None: the model knows one language."""
    prompt: str | None = None
    """what the model is prompted with, where that is another."""
    identified: tuple[str, float] | None = None
    """what it was taken for, and with which probability, where its recording overruled that."""

    @property
    def prompted(self) -> str:
        return self.prompt or self.language


@dataclass(frozen=True, slots=True)
class Choice:
    """A Choice is the language of a window, and which of its clips are in another."""

    spoken: Spoken
    """probabilities are over the window's clips, by their length."""
    given: bool = False
    """True where the language was not identified."""
    foreign: frozenset[int] = frozenset()
    """positions of clips that are sure of another language."""

    def of_clip(self, chances: Chances, sure: float, candidates: Sequence[str] = ()) -> Spoken:
        """Return the language of a clip of the window that is heard alone, by its chances there.

        It is as given; or its own, where it is sure; or the window's.
        """
        if self.given:
            return replace(self.spoken, probability=chances[self.spoken.prompted])
        best = likeliest(chances, candidates)[0]
        return _spoken(best if chances[best] >= sure else self.spoken.language, chances, candidates)


@dataclass(frozen=True, slots=True)
class Trial:
    """A Trial says which windows of a recording are unsure, and of which two languages."""

    languages: tuple[str, str]
    windows: tuple[int, ...]
    """all that go by the outcome."""
    heard: tuple[int, ...]
    """those of them that are decoded."""

    def settled(self, text: str, logprob: float) -> bool:
        """Return whether what was heard in the first language tells that it is the one, so the second need not be.

        Languages of one script never do so: the text of either would look like the other's.
        """
        own, rival = (script_of(language) for language in self.languages)
        letters = [character for character in text if character.isalpha()]
        alike = sum(unicodedata.name(letter, "").startswith(own) for letter in letters)
        return own != rival and logprob >= CLEAR_LOGPROB and 0 < CLEAR_SCRIPT * len(letters) <= alike


def likeliest(chances: Chances, candidates: Sequence[str] = ()) -> list[str]:
    """Return the languages that may be chosen, the likeliest first, ties by name."""
    return sorted(candidates or chances, key=lambda code: (-chances[code], code))


def mean(chances: Sequence[Chances], weights: Sequence[float]) -> dict[str, float]:
    """Return the weighted mean by language."""
    whole = sum(weights)
    return {
        code: sum(each[code] * weight for each, weight in zip(chances, weights, strict=True)) / whole
        for code in chances[0]
    }


def decide(
    windows: Sequence[Window],
    chances: Sequence[Sequence[Chances]],
    recordings: Sequence[Hashable],
    sure: float,
    candidates: Sequence[str] = (),
) -> tuple[list[str], list[Trial]]:
    """Return the language of each window, and the trials that may still change it.

    chances: of each window, of each of its clips. recordings: what each window was cut from. sure: a window that has
    this probability for a language goes by itself; 0: every window does. candidates: languages to choose among, all
    where empty.
    """
    own = [mean(each, [span.samples for span in window.spans]) for window, each in zip(windows, chances, strict=True)]
    chosen = [likeliest(each, candidates)[0] for each in own]
    unsure: defaultdict[Hashable, list[int]] = defaultdict(list)
    together: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, recording in enumerate(recordings):
        together[recording].append(place)
        if own[place][chosen[place]] < sure:
            unsure[recording].append(place)
    trials = []
    for recording, places in unsure.items():
        all_of_it = together[recording]
        whole = mean(
            [own[place] for place in all_of_it],
            [sum(span.samples for span in windows[place].spans) for place in all_of_it],
        )
        first, *rest = likeliest(whole, candidates)
        for place in places:
            chosen[place] = first
        if rest and whole[rest[0]] > MAX_RIVAL * whole[first]:
            longest = sorted(places, key=lambda place: (-windows[place].samples, place))[:TRIAL_WINDOWS]
            trials.append(Trial((first, rest[0]), tuple(places), tuple(sorted(longest))))
    return chosen, trials


def choice(
    window: Window, chances: Sequence[Chances], language: str, sure: float, candidates: Sequence[str] = ()
) -> Choice:
    """Return the Choice of a window for which a language was decided: see `decide`."""
    own = mean(chances, [span.samples for span in window.spans])
    foreign = frozenset(
        position
        for position, each in enumerate(chances)
        if (best := likeliest(each, candidates)[0]) != language and each[best] >= sure
    )
    return Choice(_spoken(language, own, candidates), foreign=foreign)


def _spoken(language: str, chances: Chances, candidates: Sequence[str]) -> Spoken:
    best = likeliest(chances, candidates)[0]
    return Spoken(language, chances[language], identified=None if best == language else (best, chances[best]))
