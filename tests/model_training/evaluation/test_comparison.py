"""Two models on the same clips: what is more than chance, and what only looks so."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from model_training.evaluation.answers import Answer
from model_training.evaluation.comparison import Comparison, compare, compare_all
from model_training.evaluation.evaluation import Evaluation, evaluation_of
from operators.errors import UserError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def answers(error: float, *, recordings: int = 40, clips: int = 5, seed: int = 0, spread: float = 0.0) -> list[Answer]:
    """Each recording has its own difficulty, the same for every model; `error` is the mean share of wrong words."""
    hard = np.random.default_rng(99).normal(0, spread, recordings)
    draw, found = np.random.default_rng(seed), []
    for recording in range(recordings):
        for clip in range(clips):
            wrong = draw.random(len(WORDS)) < np.clip(error + hard[recording], 0, 1)
            said = [word if not bad else "zero" for word, bad in zip(WORDS, wrong, strict=True)]
            found.append(
                Answer(set="s", clip_id=f"{recording}-{clip}", recording=f"r{recording}", seconds=3.0,
                       reference=" ".join(WORDS), hypothesis=" ".join(said), truths={"gender": "male"},
                       labels={"gender": "male" if draw.random() > error else "female"})
            )  # fmt: skip
    return found


def change(found: Comparison, task: str = "", name: str | None = "s"):
    return next(each for each in found.changes if (each.task, each.set) == (task, name))


def test_a_real_difference_is_seen_through_recordings_that_are_hard_for_both() -> None:
    """Apart, the intervals of 20 and 14 % overlap, for recordings differ by far more; paired, they do not."""
    first, second = answers(0.20, seed=1, spread=0.15), answers(0.14, seed=2, spread=0.15)
    alone = [evaluation_of(each).pooled(0, "").tokens.interval for each in (first, second)]
    assert alone[0][0] < alone[1][1], "apart they cannot be told apart"  # type: ignore[index]
    found = change(compare(first, second, ("a", "b")))
    assert found.is_sure
    assert found.verdict == "better"
    assert change(compare(second, first, ("b", "a"))).verdict == "worse"
    assert found.difference.value == pytest.approx(found.second - found.first)


def test_no_difference_is_called_chance_about_as_often_as_it_says() -> None:
    sure = sum(
        change(compare(answers(0.2, seed=2 * at, clips=2), answers(0.2, seed=2 * at + 1, clips=2), ("a", "b"))).is_sure
        for at in range(25)
    )
    assert sure <= 5, "95 % intervals: one or two of 25 are wrong, five once in 100"


def test_the_interval_is_that_of_drawing_recordings_by_hand() -> None:
    first, second = answers(0.2, seed=1), answers(0.15, seed=2)
    found = change(compare(first, second, ("a", "b")))
    errors = np.array([[a.hypothesis.split().count("zero") for a in part] for part in (first, second)])
    by_recording = (errors[1] - errors[0]).reshape(40, 5).sum(1)
    picks = np.random.default_rng(5).integers(0, 40, (4000, 40))
    low, high = np.percentile(100 * by_recording[picks].sum(1) / (40 * 50), [2.5, 97.5])
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=0.3)
    assert compare(first, second, ("a", "b")) == compare(first, second, ("a", "b")), "seeded"


def test_one_recording_tells_nothing_and_a_model_differs_not_from_itself() -> None:
    one = answers(0.3, recordings=1)
    assert (
        change(compare(one, answers(0.1, recordings=1, seed=3), ("a", "b"))).verdict == "one recording: cannot be told"
    )
    same = compare(answers(0.2), answers(0.2), ("a", "b"))
    assert change(same).verdict == "the same"
    assert (same.better, same.worse, same.words, same.clips) == (0, 0, (), ())


@pytest.mark.parametrize(
    ("recordings", "verdict"), [(2, "too few recordings"), (5, "too few recordings"), (6, "better")]
)
def test_a_handful_of_recordings_that_all_gain_may_do_so_by_chance(recordings: int, verdict: str) -> None:
    before, after = (answers(error, recordings=recordings, clips=40, seed=1) for error in (0.5, 0.1))
    found = change(compare(before, after, ("a", "b")))
    assert (found.difference.high or 0) < 0, "the interval alone would say better"
    assert found.verdict == verdict
    assert found.is_sure == (verdict == "better")


def test_attributes_clips_and_words_that_changed_are_named() -> None:
    first, second = answers(0.4, seed=1), answers(0.05, seed=2)
    found = compare(first, second, ("a", "b"))
    assert change(found, "gender").verdict == "better"
    assert found.better > 100 > found.worse
    assert found.better + found.worse + found.alike == 200
    assert {word.word for word in found.words} == {word.upper() for word in WORDS}
    assert all(word.said == 200 and word.second < word.first for word in found.words)
    assert all(one.edits <= other.edits for one, other in pairwise(found.clips))
    assert found.clips[0].edits < -3


def test_only_what_both_answered_is_compared() -> None:
    first, second = answers(0.2, seed=1), answers(0.2, seed=2)
    second[3] = replace(second[3], reference="another reference")
    found = compare(first, second[:-5], ("a", "b"))
    assert change(found).clips == 194
    assert found.unpaired == 200 + 195 - 2 * 194
    with pytest.raises(UserError, match="no clip in common"):
        compare(first, [replace(answer, set="t") for answer in second], ("a", "b"))


def test_sizes_that_both_have_are_paired_and_else_the_largest() -> None:
    def model(name: str, *sizes: int) -> Evaluation:
        return evaluation_of([replace(a, n_experts=n) for n in sizes for a in answers(0.2, recordings=3)], name=name)

    assert [each.variants for each in compare_all(model("a", 3, 15), model("b", 3, 15))] == [
        ((3, ""),) * 2,
        ((15, ""),) * 2,
    ]
    (only,) = compare_all(model("a", 3, 15), model("twin", 0))
    assert only.variants == ((15, ""), (0, ""))
    assert only.names == ("a N=15", "twin dense")
