"""Word times as files that others read: WebVTT for players and browsers, CTM for scoring tools.

Word ... ──vtt──> WEBVTT, a cue for each few words          ──ctm──> recording channel start duration word
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from operators.clip import SAMPLE_RATE, Word
from operators.text.scripts import join

_CUE_SECONDS = 5.0
_CUE_WORDS = 12
_PAUSE_SECONDS = 0.6


def vtt(words: Sequence[Word], offset: int = 0) -> str:
    """Return the words as WebVTT: a cue ends at a pause, after 12 words or 5 seconds, and times each word inside it.

    offset: samples that the clip begins at in what is played (0: the clip itself).
    """
    parts = ["WEBVTT"]
    for cue in _cues(words):
        first, last = cue[0], cue[-1]
        timed = [f"<{_clock(word.start + offset)}>{escape(word.text, quote=False)}" for word in cue[1:]]
        space = " " if " " in join([word.text for word in cue]) else ""  # none between Han characters
        text = space.join([escape(first.text, quote=False), *timed])
        parts.append(f"{_clock(first.start + offset)} --> {_clock(max(last.end, first.start + 1) + offset)}\n{text}")
    return "\n\n".join(parts) + "\n"


def ctm(words: Sequence[Word], name: str, offset: int = 0) -> str:
    """Return the words as CTM lines (NIST): name, channel 1, start and duration in seconds, word.

    name: of the recording that the times count from; white space in it becomes "_".
    """
    label = "_".join(name.split()) or "recording"
    return "".join(
        f"{label} 1 {(word.start + offset) / SAMPLE_RATE:.3f} {(word.end - word.start) / SAMPLE_RATE:.3f} {word.text}\n"
        for word in words
    )


def _cues(words: Sequence[Word]) -> list[list[Word]]:
    cues: list[list[Word]] = []
    for word in words:
        cue = cues[-1] if cues else []
        if (
            not cue
            or len(cue) >= _CUE_WORDS
            or word.start - cue[-1].end > _PAUSE_SECONDS * SAMPLE_RATE
            or word.end - cue[0].start > _CUE_SECONDS * SAMPLE_RATE
        ):
            cues.append([word])
        else:
            cue.append(word)
    return cues


def _clock(samples: int) -> str:
    milliseconds = round(samples * 1000 / SAMPLE_RATE)
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"
