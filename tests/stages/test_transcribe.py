"""The Transcribe stage gives an engine what it asks for, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from operators.asr.hallucination import HallucinationRules
from operators.clip import SAMPLE_RATE, Clip, Hypothesis, Piece, Recording, Span, Unit, clip_id
from stages.base import Doing
from stages.transcribe import Transcribe


class Plain:
    """An engine that takes clips and languages only."""

    name = "plain"

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        return [Hypothesis(engine=self.name, text=f"clip of {len(clip)}", language="en") for clip in clips]

    def close(self) -> None:
        pass


class Curious(Plain):
    """An engine that wants to know where clips come from, and says how far it is."""

    def __init__(self) -> None:
        self.recordings: list[str] = []

    def transcribe(  # type: ignore[override]
        self,
        clips: Sequence[np.ndarray],
        languages: Sequence[str | None],
        *,
        recordings: Sequence[str],
        progress: Callable[[int, float], None] | None,
    ) -> list[Hypothesis]:
        self.recordings = list(recordings)
        if progress is not None:
            progress(len(clips), sum(map(len, clips)) / SAMPLE_RATE)
        return super().transcribe(clips, languages)


class Short(Plain):
    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        return super().transcribe(clips, languages)[:-1]


def unit_of(*recording_ids: str) -> Unit:
    span = Span(0, 3 * SAMPLE_RATE)
    return Unit(
        unit_id="d-000000",
        domain="d",
        pieces=tuple(
            Piece(recording=Recording(recording_id=name, uri=name, domain="d")) for name in sorted(set(recording_ids))
        ),
        clips=tuple(
            Clip(clip_id=clip_id(name, span.shift(place)), recording_id=name, span=span.shift(place))
            for place, name in enumerate(recording_ids)
        ),
        audio=np.zeros(span.samples * len(recording_ids), np.int16),
    )


def stage_of(engine: Plain) -> Transcribe:
    stage = Transcribe(load=lambda: engine, rules=HallucinationRules(min_avg_logprob=-100))
    stage.open()
    return stage


def test_an_engine_of_two_arguments_will_do() -> None:
    done = stage_of(Plain()).process(unit_of("a", "b"))
    assert [clip.hypotheses[0].text for clip in done.clips] == ["clip of 48000"] * 2


def test_an_engine_that_asks_is_given_recordings_and_a_listener() -> None:
    engine, told = Curious(), list[Doing]()
    stage = stage_of(engine)
    stage.process(unit_of("a", "a", "b"))  # nobody listens
    stage.tell = told.append
    stage.process(unit_of("a", "a", "b"))
    assert engine.recordings == ["a", "a", "b"]
    assert [(now.stage, now.clips, now.of_clips, now.audio_seconds, now.of_seconds) for now in told] == [
        ("Transcribe", 0, 3, 0.0, 9.0),
        ("Transcribe", 3, 3, 9.0, 9.0),
    ]


def test_an_engine_that_answers_too_little_is_a_bug_that_is_named() -> None:
    with pytest.raises(ValueError, match="plain answered 1 hypotheses for 2 clips"):
        stage_of(Short()).process(unit_of("a", "b"))
