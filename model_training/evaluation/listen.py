"""Clips of a test set to listen to: the best, one in the middle and the worst, with their sound where it can be had.

    Answers of a model at one size ──rank by error rate──> best, median, worst ──Hear──> Sound, small enough to embed

The choice follows from the answers alone, so the same evaluation shows the same clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model_training.data.audio import BadSample
from model_training.data.reading import Reader
from model_training.evaluation.answers import Answer
from model_training.evaluation.metrics import reference_tokens
from model_training.evaluation.words import has_text
from operators.edits import error_rate
from operators.errors import UserError
from operators.index import Row

AUDIO_BUDGET_BYTES = 3_000_000
"""Of all sound in a page, before base64 makes it a third longer."""
OPUS_BITRATE = 24_000
MOST_SETS = 12
_EASY_SECONDS = 20.0
_EACH = 2

Hear = Callable[[Answer], np.ndarray]
"""Returns the samples of a clip, int16 at 16 kHz. Raises BadSample or UserError when it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Shown is a clip in its place: best, median or worst of its set."""

    place: str
    answer: Answer
    percent: float


def choose(answers: Iterable[Answer], each: int = _EACH) -> list[Shown]:
    """Return some of the best, middling and worst clips of one set, in this order, no clip twice.

    Clips longer than 20 s are taken only where there are no others. Of equally good ones the longest text comes first,
    of equally bad ones the longest as well: a short text says little.
    """
    texts = [answer for answer in answers if has_text(answer)]
    short = [answer for answer in texts if answer.seconds <= _EASY_SECONDS]
    ranked = sorted(((_percent(answer), answer) for answer in short or texts), key=_best_first)
    if not ranked:
        return []
    worst_first = sorted(ranked, key=lambda pair: (-pair[0], *_best_first(pair)[1:]))
    middle = sorted(range(len(ranked)), key=lambda at: (abs(at - (len(ranked) - 1) / 2), at))
    chosen: dict[str, Shown] = {}
    for place, order in (("best", ranked), ("worst", worst_first), ("median", [ranked[at] for at in middle])):
        free = [pair for pair in order if pair[1].clip_id not in chosen][:each]
        chosen |= {answer.clip_id: Shown(place=place, answer=answer, percent=percent) for percent, answer in free}
    places = ("best", "median", "worst")
    return sorted(chosen.values(), key=lambda shown: (places.index(shown.place), shown.percent))


def _percent(answer: Answer) -> float:
    return error_rate(
        reference_tokens(answer.reference or "", answer.language), reference_tokens(answer.hypothesis, answer.language)
    )


def _best_first(pair: tuple[float, Answer]) -> tuple[float, int, str]:
    percent, answer = pair
    return percent, -len(reference_tokens(answer.reference or "", answer.language)), answer.clip_id


def reading(reader: Reader) -> Hear:
    """Return what hears the clips of an index."""

    def hear(answer: Answer) -> np.ndarray:
        if answer.audio is None:
            raise UserError(f"{answer.clip_id} says of no audio where it lies")
        place = answer.audio
        return reader.read(
            Row(
                clip_id=answer.clip_id,
                shard=place.shard,
                offset=place.offset,
                size=place.size,
                start_sample=place.start_sample,
                end_sample=place.end_sample,
                frames=round(answer.seconds * 100),
                label_tokens=0,
                label="",
                domain=answer.set,
            )
        )

    return hear


def sounds(turns: Sequence[Sequence[Answer]], hear: Hear | None) -> dict[tuple[str, str], bytes]:
    """Return (set, clip id) to an Ogg Opus file, as long as there is room in the page: the first clip of every turn
    before the second of any. A clip that cannot be read any more has none.
    """
    from operators.audio.decode import encode_opus

    found: dict[tuple[str, str], bytes] = {}
    left = AUDIO_BUDGET_BYTES
    if hear is None:
        return found
    for at in range(max(map(len, turns), default=0)):
        for turn in turns:
            if at >= len(turn) or (key := (turn[at].set, turn[at].clip_id)) in found:
                continue
            try:
                data = encode_opus(hear(turn[at]), bitrate=OPUS_BITRATE)
            except (BadSample, UserError):
                continue
            if len(data) <= left:
                found[key] = data
                left -= len(data)
    return found
