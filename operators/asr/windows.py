"""Clips of one recording share a window of the recogniser, and the window's words go back to the clips.

    clips ──pack──> Window: clips in order, silence between ──fill──> float32 audio ──recogniser──> words with times
    words, sound of each clip ──share_out──> the words of each clip, and the clips in doubt, to be heard alone

Whisper's encoder computes 30 s whatever it is given, so a clip of 4 s alone costs as much as seven of them together,
and hears less context. Word times from cross-attention are too coarse to be labels, but pauses part the clips: a word
belongs to the clip whose *sound* it covers. Which windows there are is a function of the clips alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from operators.asr.hallucination import LOW_LOGPROB, HallucinationRules, check
from operators.clip import SAMPLE_RATE, Span

FRAME = SAMPLE_RATE // 50
"""samples of one step of Whisper's cross-attention, 20 ms."""

OPEN_WINDOWS = 2
"""Windows that a clip may still go into. One leaves 27 % of the shared crawl's windows empty, two 22 %, any number
21 %: a clip too long for the rest of a window then does not end it for the shorter one that follows.
"""

MAX_COMPRESSION_RATIO = 2.4
"""Whisper's own `compression_ratio_threshold`: text that zlib shrinks further than this goes round in circles."""

MAX_STRADDLE_SECONDS = 0.3
"""a word that covers this much sound of two clips may belong to either."""

_QUIET_DB = 30.0
"""sound this far below a clip's loud frames is pause."""


@dataclass(frozen=True, slots=True)
class Window:
    """A Window is what one pass of the recogniser hears: clips by index, and where in the window each lies."""

    clips: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def samples(self) -> int:
        return self.spans[-1].end

    @property
    def shared(self) -> bool:
        return len(self.clips) > 1


@dataclass(frozen=True, slots=True)
class Word:
    """A Word is a word of a window's transcript: text, spaces included; time in samples; log probabilities of its
    tokens.
    """

    text: str
    span: Span
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """A Share is one clip's part of a window's transcript."""

    text: str
    avg_logprob: float
    """mean log probability of its tokens, the end of the text counted as certain, as for a clip heard alone."""


def alone(lengths: Sequence[int]) -> list[Window]:
    """Return a window for each clip."""
    return [Window((index,), (Span(0, length),)) for index, length in enumerate(lengths)]


def pack(lengths: Sequence[int], keys: Sequence[Hashable], gap: int, size: int) -> list[Window]:
    """Pack neighbouring clips of equal key into windows of at most `size` samples, `gap` samples apart, in order.

    lengths: samples of each clip, at most `size`. Every clip is in exactly one window: the earliest of the last
    `OPEN_WINDOWS` that has room, else one of its own.
    """
    windows: list[Window] = []
    for index, (length, key) in enumerate(zip(lengths, keys, strict=True)):
        for place in range(max(0, len(windows) - OPEN_WINDOWS), len(windows)):
            window = windows[place]
            start = window.samples + gap
            if keys[window.clips[0]] == key and start + length <= size:
                windows[place] = Window((*window.clips, index), (*window.spans, Span(start, start + length)))
                break
        else:
            windows.append(Window((index,), (Span(0, length),)))
    return windows


def fill(window: Window, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return float32 [samples] in [-1, 1): the window's audio, digital silence between its clips (int16 [samples]
    each).
    """
    audio = np.zeros(window.samples, np.float32)
    for index, span in zip(window.clips, window.spans, strict=True):
        np.multiply(clips[index], 2.0**-15, out=audio[span.start : span.end], dtype=np.float32)
    return audio


def share_out(
    window: Window, words: Sequence[Word], clips: Sequence[np.ndarray], language: str, rules: HallucinationRules
) -> tuple[list[Share], set[int]]:
    """Return the transcript of each clip of a shared window, in order, and the positions of the clips in doubt.

    Words keep their order, so the clips' shares are consecutive runs; of all ways to cut the text into runs the one is
    taken in which the words cover most sound of their own clips. In doubt is the whole window when its text loops;
    else a clip whose words alone would be rejected (no word, too fast or too slow to be said, improbable) and, as its
    words may have gone to them, its neighbours; and both clips of a word that covers sound of both.
    """
    everything = "".join(word.text for word in words)
    covered_WC = _covered(window, words, clips)
    owners = _assign(covered_WC)
    doubtful: set[int] = set()
    for word, owner in zip(covered_WC, owners, strict=True):
        straddled = [clip for clip in np.flatnonzero(word > MAX_STRADDLE_SECONDS).tolist() if clip != owner]
        if straddled and word[owner] > MAX_STRADDLE_SECONDS:
            doubtful |= {owner, *straddled}
    shares: list[Share] = []
    for position, span in enumerate(window.spans):
        own = [word for word, owner in zip(words, owners, strict=True) if owner == position]
        logprobs = [logprob for word in own for logprob in word.logprobs]
        share = Share("".join(word.text for word in own).strip(), sum(logprobs) / (len(logprobs) + 1))
        shares.append(share)
        wrong = check(share.text, span.seconds, language, share.avg_logprob, rules)
        if wrong is not None:
            reach = 0 if wrong.reason == LOW_LOGPROB else 1
            doubtful |= {
                near for near in range(position - reach, position + reach + 1) if near in range(len(window.clips))
            }
    if loops(everything):
        doubtful = set(range(len(window.clips)))
    return shares, doubtful


def loops(text: str) -> bool:
    """Return whether a window's text repeats itself more than speech does."""
    data = text.encode()
    return len(data) > MAX_COMPRESSION_RATIO * len(zlib.compress(data))


def _covered(window: Window, words: Sequence[Word], clips: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [words, clips]: seconds of each clip's sound under each word; where there is none, what is nearest.

    Silence counts for a thousandth, so that a word in a pause goes to the clip around it, and distance for a millionth.
    """
    covered_WC = np.zeros((len(words), len(window.clips)))
    if not words:
        return covered_WC
    for column, (index, span) in enumerate(zip(window.clips, window.spans, strict=True)):
        sound = np.concatenate(([0], np.cumsum(_sound(clips[index]))))
        starts, ends = (
            np.clip([getattr(word.span, side) - span.start for word in words], 0, span.samples)
            for side in ("start", "end")
        )
        first, last = (np.minimum(edge // FRAME, len(sound) - 1) for edge in (starts, ends))
        middle = np.array([(word.span.start + word.span.end) / 2 for word in words])
        away = np.maximum(0, np.maximum(span.start - middle, middle - span.end))
        covered_WC[:, column] = (
            (sound[last] - sound[first]) * FRAME + 1e-3 * (ends - starts) - 1e-6 * away
        ) / SAMPLE_RATE
    return covered_WC


def _sound(clip: np.ndarray) -> np.ndarray:
    """bool [frames of 20 ms]: where a clip is loud, by its own loud and quiet frames."""
    frames = clip[: len(clip) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float32)
    if not len(frames):
        return np.zeros(0, bool)
    level_db = 10 * np.log10(np.maximum(frames.var(axis=1), 1e-3))
    quiet, loud = np.percentile(level_db, (5, 95))
    return np.asarray(level_db >= max(loud - _QUIET_DB, quiet + (loud - quiet) / 3))


def _assign(covered_WC: np.ndarray) -> list[int]:
    """The clip of each word, never falling, so that the sum of what the words cover is greatest."""
    words, clips = covered_WC.shape
    best = np.zeros(clips)
    chosen = np.zeros((words, clips), np.int64)
    for word in range(words):
        before = np.maximum.accumulate(best)
        # the first clip that reaches the best so far: ties go to the earlier clip
        chosen[word] = np.searchsorted(before, before, side="left")
        best = before + covered_WC[word]
    owners: list[int] = []
    owner = int(np.argmax(best)) if words else 0
    for word in range(words - 1, -1, -1):
        owners.append(owner)
        owner = int(chosen[word, owner])
    return owners[::-1]
