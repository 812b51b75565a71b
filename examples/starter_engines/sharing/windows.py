"""Windows that several clips share, as examples to train on.

    Corpus ──runs of sentences, a recording's in order──> clips ──silence between──> SharedWindow: up to 30 s

They are put together as `operators.asr.windows` does it: neighbouring clips of one language, digital silence between.
A quarter of the examples is a clip by itself, so that nothing is forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from examples.starter_engines.features import BINS, FRAMES_PER_SECOND, Corpus, Example, alike, join

WINDOW_FRAMES = 3000
GAP_FRAMES = 80
"""`asr.window_gap_seconds` at its default."""
NO_SOUND = -10.0
"""whisperX's log mel energy of digital silence."""
CLIP_SECONDS = (2.0, 8.0, 16.0)
"""Longest runs of sentences that clips are cut in, one for each pass over the corpus."""
SINGLE_SHARE = 0.25
FULL_SHARE = 0.5
"""of shared windows hold as many clips as there is room for, as nearly all do in use; the others fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWindow:
    """A SharedWindow is clips of one language in a row, `GAP_FRAMES` of digital silence between them."""

    clips: tuple[Example, ...]

    @property
    def frames(self) -> int:
        return sum(clip.frames for clip in self.clips) + GAP_FRAMES * (len(self.clips) - 1)

    @property
    def start(self) -> int:
        """Where its first clip lies in the corpus."""
        return self.clips[0].start

    @property
    def text(self) -> str:
        return join([clip.text for clip in self.clips if clip.text])

    @property
    def language(self) -> str:
        return self.clips[0].language

    @property
    def sentences(self) -> tuple[tuple[int, int, str], ...]:
        """Every sentence with its frames in the window."""
        found, start = [], 0
        for clip in self.clips:
            found += [(start + first, start + last, text) for first, last, text in clip.sentences]
            start += clip.frames + GAP_FRAMES
        return tuple(found)

    def cut(self, features: np.ndarray) -> np.ndarray:
        """Return its features out of a corpus's: float32 [frames, 80]."""
        silence = np.full((GAP_FRAMES, BINS), NO_SOUND, np.float32)
        parts = [part for clip in self.clips for part in (silence, clip.cut(features))]
        return np.concatenate(parts[1:])


def shared_windows(corpus: Corpus, r: random.Random, max_seconds: float) -> list[SharedWindow]:
    """Return a pass over the corpus: every sentence once, in clips of up to `max_seconds`, in windows."""
    starts = [row["start"] for row in corpus.index]
    of_recording: dict[int, list[Example]] = {}
    for example in corpus.examples(r, max_seconds):
        place = int(np.searchsorted(starts, example.start, side="right")) - 1
        of_recording.setdefault(place, []).append(example)
    order = sorted(of_recording)
    r.shuffle(order)
    windows: list[SharedWindow] = []
    for language in sorted({row["language"] for row in corpus.index}):
        clips: list[Example] = []
        limit = _limit(r)
        for place in order:
            for clip in of_recording[place]:
                if clip.language != language:
                    continue
                if clips and SharedWindow(clips=(*clips, clip)).frames > limit:
                    windows.append(SharedWindow(clips=tuple(clips)))
                    clips, limit = [], _limit(r)
                clips.append(clip)
        if clips:
            windows.append(SharedWindow(clips=tuple(clips)))
    return windows


def window_batches(corpus: Corpus, r: random.Random, frames_per_batch: int) -> Iterator[list[SharedWindow]]:
    """Yield batches of windows of like length without end, the clips of every pass over the corpus cut again."""
    while True:
        for seconds in CLIP_SECONDS:
            yield from alike(shared_windows(corpus, r, seconds), r, frames_per_batch)


def _limit(r: random.Random) -> float:
    """Frames that the next window may have; a first clip is in it whatever it is."""
    if r.random() < SINGLE_SHARE:
        return 0
    return WINDOW_FRAMES if r.random() < FULL_SHARE else r.uniform(8 * FRAMES_PER_SECOND, WINDOW_FRAMES)
