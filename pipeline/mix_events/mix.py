"""Put an event into a clip of speech: at its start, at its end, or into a pause, with the text to match.

    speech, its text and words ──draw──> Placed(where, level, speed, pitch) ──mix──> pcm, text with <event:...> in place

The event is put in between, not over the words: what is heard and what is written stay in one order. OSUM (section 3.1)
makes its training data for vocal events so.

Shapes: int16 [samples] at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from operators.audio.vary import vary
from operators.clip import SAMPLE_RATE, Word
from operators.text.scripts import tokens

Where = Literal["start", "pause", "end"]

LEVEL_DB = (-5.0, 5.0)
FACTOR = (0.85, 1.15)
"""Speed and pitch of an event, drawn apart."""
MIN_PAUSE = SAMPLE_RATE * 15 // 100
"""between two words, for an event to go there"""

_FRAME = SAMPLE_RATE // 50
_FADE = SAMPLE_RATE // 100
_QUIET_DB = 30.0
_PEAK = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A Placed says how an event was put in."""

    where: Where
    after_words: int
    """words of the text before it"""
    at: int
    """the sample of the speech at which it was put in"""
    level_db: float
    """of the event over the speech"""
    speed: float
    pitch: float


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A Mixture is a clip with an event in it."""

    pcm: np.ndarray
    text: str
    event_start: int
    event_samples: int


def pauses(words: Sequence[Word]) -> list[tuple[int, int]]:
    """Return (words before it, sample in its middle) of every pause between two words that is long enough."""
    found = []
    for number, (one, other) in enumerate(pairwise(words), 1):
        if other.start - one.end >= MIN_PAUSE:
            found.append((number, (one.end + other.start) // 2))
    return found


def draw(rng: np.random.Generator, samples: int, words: Sequence[Word], n_words: int) -> Placed:
    """Return where an event goes and how it sounds.

    words: of the text, timed; empty where nobody knows when they are spoken: then it goes to an edge.
    """
    gaps = pauses(words) if len(words) == n_words else []
    where: Where = ("start", "end", "pause")[int(rng.integers(3 if gaps else 2))]
    after, at = {"start": (0, 0), "end": (n_words, samples)}.get(where, (0, 0))
    if where == "pause":
        after, at = gaps[int(rng.integers(len(gaps)))]
    level, speed, pitch = (float(rng.uniform(*bounds)) for bounds in (LEVEL_DB, FACTOR, FACTOR))
    return Placed(
        where=where, after_words=after, at=at, level_db=round(level, 2), speed=round(speed, 3), pitch=round(pitch, 3)
    )


def mix(speech: np.ndarray, text: str, event: np.ndarray, label: str, placed: Placed) -> Mixture:
    """Return the clip with the event in it. Raises ValueError when one of them is silent."""
    varied = vary(trimmed(event), speed=placed.speed, pitch=placed.pitch).astype(np.float64)
    loud_speech, loud_event = loudness(speech), loudness(varied)
    if loud_speech <= 0 or loud_event <= 0:
        raise ValueError("the speech is silent" if loud_speech <= 0 else "the event is silent")
    varied *= loud_speech / loud_event * 10 ** (placed.level_db / 20)
    fade = np.minimum(np.arange(len(varied)), _FADE) / _FADE
    varied *= fade * fade[::-1]
    joined = np.concatenate([speech[: placed.at], varied, speech[placed.at :]])
    # Both are turned down where the event would clip: the level between them is what was drawn.
    joined *= min(1.0, _PEAK / np.abs(joined).max())
    return Mixture(
        np.rint(joined).astype(np.int16), with_event(text, label, placed.after_words), placed.at, len(varied)
    )


def loudness(pcm: np.ndarray) -> float:
    """Return the root mean square of the frames within 20 dB of the loud ones: pauses do not count."""
    frames = pcm[: len(pcm) // _FRAME * _FRAME].astype(np.float64).reshape(-1, _FRAME)
    powers = np.square(frames).mean(axis=1) if len(frames) else np.zeros(1)
    heard = powers[powers >= np.percentile(powers, 95) / 100]
    return float(np.sqrt(heard.mean()))


def trimmed(event: np.ndarray, most_seconds: float = 3.0) -> np.ndarray:
    """Return an event without the quiet at its ends, and of a long one its loudest `most_seconds`."""
    frames = event[: len(event) // _FRAME * _FRAME].astype(np.float64).reshape(-1, _FRAME)
    powers = np.square(frames).mean(axis=1) if len(frames) else np.zeros(0)
    if not len(powers) or powers.max() <= 0:
        return event
    heard = np.flatnonzero(powers >= powers.max() / 10 ** (_QUIET_DB / 10))
    first, last = int(heard[0]), int(heard[-1]) + 1
    most = round(most_seconds * SAMPLE_RATE) // _FRAME
    if last - first > most:
        sums = np.concatenate([[0.0], np.cumsum(powers)])
        first += int(np.argmax(sums[first + most : last + 1] - sums[first : last + 1 - most]))
        last = first + most
    return event[first * _FRAME : last * _FRAME]


def with_event(text: str, label: str, after_words: int) -> str:
    """Return the text with <event:label> behind its first `after_words` words, and their punctuation."""
    tag, place, words = f"<event:{label}>", 0, tokens(text)
    if after_words >= len(words):
        return f"{text} {tag}".strip()
    for word in words[:after_words]:
        place = text.index(word, place) + len(word)
    rest = text[place:]
    if after_words:
        upcoming = rest.index(words[after_words])
        place, rest = place + upcoming, rest[upcoming:]
    return f"{text[:place].rstrip()} {tag} {rest.lstrip()}".strip()
