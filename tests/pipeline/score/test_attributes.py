"""Annotators and agreed labels against a truth that says who speaks and what sounds."""

from __future__ import annotations

from typing import Any

import pytest

from operators.clip import Span
from pipeline.score.attributes import AGREED, AttributeScore, score_attributes, true_labels
from pipeline.score.truth import Tolerance, read_truth
from tests.support.synthetic_run import clip_row, table
from tests.support.truths import truth_bytes, truth_line

SECOND = 16_000


def row(recording: str, number: int, **said: dict[str, str]) -> dict[str, Any]:
    """A clip of 2 s; `said` is annotator -> kind -> label, and "agreed" the columns of the ledger."""
    agreed = said.pop(AGREED, {})
    opinions = [
        {"annotator": annotator, "kind": kind, "labels": [label] if label else [], "score": None}
        for annotator, kinds in said.items()
        for kind, label in kinds.items()
    ]
    start = 2 * number * SECOND
    return clip_row("d", recording, start, start + 2 * SECOND, opinions=opinions, **agreed)


def scores(rows: list[dict[str, Any]], truth: bytes) -> dict[tuple[str, str], AttributeScore]:
    found = score_attributes([table(rows)], read_truth(truth, "truth.jsonl"), Tolerance())
    return {(each.kind, each.annotator): each for each in found}


TRUTH = truth_bytes(
    truth_line("r1", None, gender="F", emotion="angry"),
    truth_line("r2", None, gender="male"),
    truth_line("r3", None),
)


def test_accuracy_is_of_the_answers_and_yield_of_the_clips() -> None:
    female, male = {"gender": "female"}, {"gender": "male"}
    rows = [
        row("r1", 0, a=female, b=female, agreed=female),
        row("r1", 1, a=female, b=male),
        row("r1", 2, b=male),
        row("r2", 0, a=male, b=male, agreed=male),
        row("r3", 0, a=male, b=male, agreed=male),
    ]
    found = scores(rows, TRUTH)
    summed = {key: (each.clips, each.answered, each.right) for key, each in found.items()}
    assert summed == {
        ("gender", "a"): (4, 3, 3),
        ("gender", "b"): (4, 4, 2),
        ("gender", AGREED): (4, 2, 2),
    }, "nothing is known of r3, and nobody said a word of emotion"
    agreed = found["gender", AGREED]
    assert (agreed.accuracy.value, agreed.answers.value) == (100.0, 50.0)
    assert agreed.answers.low is not None
    assert agreed.answers.low <= 50 <= (agreed.answers.high or 0)
    assert [annotator for kind, annotator in found if kind == "gender"] == ["a", "b", AGREED]


def test_clips_that_nobody_was_asked_about_are_not_scored() -> None:
    asked = row("r1", 0, a={"gender": "female"})
    assert scores([asked, row("r1", 1) | {"opinions": None}], TRUTH)["gender", "a"].clips == 1


def segment(start: float, end: float, **labels: Any) -> dict[str, Any]:
    return {"start_s": start, "end_s": end, "text": "x", **labels}


@pytest.mark.parametrize(
    ("segments", "more", "expected"),
    [
        ([segment(0, 2, gender="f"), segment(2, 4, gender="woman")], {}, {"gender": ("female",)}),
        ([segment(0, 2, gender="f"), segment(2, 4, gender="m")], {}, {}),
        ([segment(0, 2, gender="f"), segment(2, 4)], {}, {}),
        ([segment(0, 2), segment(2, 4)], {"gender": "male"}, {"gender": ("male",)}),
        ([segment(0, 2, gender="f")], {"gender": "male"}, {"gender": ("female",)}),
        ([segment(3.9, 9, gender="f")], {"gender": "male"}, {"gender": ("male",)}),
        ([], {"events": "dog"}, {"events": ("dog",)}),
        ([segment(0, 2, events=[]), segment(2, 4, events=["laughter"])], {}, {"events": ("laughing",)}),
        ([segment(0, 2, events=[]), segment(2, 4)], {}, {}),
        ([segment(0, 2)], {"language": "zh-HK"}, {"language": ("yue",)}),
    ],
)
def test_what_is_true_of_a_clip_is_what_all_segments_in_it_say(
    segments: list[dict[str, Any]], more: dict[str, Any], expected: dict[str, tuple[str, ...]]
) -> None:
    truth = read_truth(truth_bytes({"recording_id": "r", "segments": segments, **more}), "truth.jsonl")
    recording = truth.find("r", "r")
    assert recording is not None
    assert true_labels(recording, Span(0, 4 * SECOND), Tolerance()) == expected
    assert truth.has_attributes
