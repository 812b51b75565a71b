"""Rates, proportions and intervals against independent judges: jiwer, scipy, resampling, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jiwer
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from model_training.evaluation.answers import Answer
from model_training.evaluation.evaluate import answer_of
from model_training.evaluation.intervals import Proportion, student
from model_training.evaluation.metrics import (
    NO_ANSWER,
    ErrorRate,
    EventCounts,
    LabelCounts,
    Scores,
    reference_tokens,
)
from model_training.text.perception import Recognition
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, Scheme
from tests.support.corpus import Clip

SCHEME = Scheme()


def score_clip(row: Clip, recognition: Recognition, asked: Sequence[str] = ATTRIBUTES) -> Scores:
    return Scores.of([answer_of(row, recognition, SCHEME, asked)])


words = st.lists(st.sampled_from(["HELLO", "WORLD", "THE", "你", "好", "吗", "很"]), max_size=8)


@given(st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_error_rates_are_jiwers(pairs: list[tuple[list[str], list[str]]]) -> None:
    total = ErrorRate()
    for reference, hypothesis in pairs:
        total = total.plus(ErrorRate.of(reference, hypothesis))
    judged = jiwer.process_words([" ".join(one) for one, _ in pairs], [" ".join(other) for _, other in pairs])
    assert total.percent == pytest.approx(100 * judged.wer)
    assert total.errors == judged.substitutions + judged.deletions + judged.insertions
    assert total.reference == sum(len(reference) for reference, _ in pairs)


def test_character_rate_is_jiwers_without_spaces() -> None:
    row, recognition = Clip(label="Hello wörld 你好"), Recognition(text="HALLO WÖRLDS 你")
    scores = score_clip(row, recognition)
    assert scores.characters.percent == pytest.approx(100 * jiwer.cer("HELLOWÖRLD你好", "HALLOWÖRLDS你"))
    assert scores.tokens.percent == pytest.approx(100 * jiwer.wer("HELLO WÖRLD 你 好", "HALLO WÖRLDS 你"))


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("今天天氣，很好！", "今天天气很好"),
        ("Hello, World.", "HELLO WORLD"),
        ("ｉＰｈｏｎｅ 你好", "IPHONE你好"),
        ("the <event:dog> barks", "THE BARKS"),
        ("don’t", "DON'T"),
    ],
)
def test_what_the_papers_form_makes_equal_is_no_error(reference: str, hypothesis: str) -> None:
    assert score_clip(Clip(label=reference), Recognition(text=hypothesis)).tokens.percent == 0


def test_one_token_per_han_character_or_word() -> None:
    assert reference_tokens("我很 like 你好吗") == ["我", "很", "LIKE", "你", "好", "吗"]


@pytest.mark.parametrize(("label", "language"), [("A & B", "en"), ("Henry VIII", "en"), ("3 km/h", "zh"), ("-5", "fr")])
def test_what_the_model_was_taught_to_write_is_right(label: str, language: str) -> None:
    tokenizer = Tokenizer.train([label], Scheme(), languages=[language], bpe_size=40)
    taught = tokenizer.decode(tokenizer.encode(label, language))
    assert reference_tokens(taught, language) == reference_tokens(label, language)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_intervals_are_scipys(right: int, total: int) -> None:
    assume(right <= total)
    low, high = Proportion(right, total).interval or (0.0, 0.0)
    judged = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((100 * judged.low, 100 * judged.high), abs=1e-6)


def test_interval_of_an_error_rate_is_that_of_resampled_clips() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 30, 400)
    errors = draw.binomial(lengths, draw.beta(1, 9, 400))
    total = ErrorRate()
    for e, n in zip(errors.tolist(), lengths.tolist(), strict=True):
        total = total.plus(ErrorRate(e, 0, 0, n, 1, e * e, e * n, n * n))
    picks = draw.integers(0, 400, (4000, 400))
    low, high = np.percentile(100 * errors[picks].sum(1) / lengths[picks].sum(1), [2.5, 97.5])
    assert total.interval == pytest.approx((low, high), abs=0.25)


def test_no_error_in_a_few_tokens_is_no_proof_of_none() -> None:
    low, high = ErrorRate(0, 0, 0, 20, 2, 0, 0, 200).interval or (1.0, 0.0)
    assert low == 0
    assert 5 < high < 20


def test_f1_and_accuracy_by_hand() -> None:
    said = {("zh", "zh"): 6, ("zh", "yue"): 2, ("yue", "yue"): 3, ("yue", NO_ANSWER): 1, ("en", "zh"): 1}
    counts = LabelCounts.of(pair for pair, count in said.items() for _ in range(count))
    assert counts.counts == said
    assert counts.accuracy[:2] == (9, 13)
    assert counts.balanced.percent == pytest.approx(100 * (6 / 8 + 3 / 4 + 0) / 3)
    assert counts.constant == ("zh", Proportion(8, 13))
    assert counts.f1("zh") == pytest.approx(100 * 2 * 6 / (2 * 6 + 1 + 2))
    assert counts.f1("yue") == pytest.approx(100 * 2 * 3 / (2 * 3 + 2 + 1))
    assert counts.f1("en") == 0
    assert counts.f1("minnan") is None


def test_events_by_hand() -> None:
    pairs = [(["dog"], ["dog"]), (["dog", "cat"], ["dog"]), ([], []), ([], ["rain"]), (["rain"], ["rain", "dog"])]
    total = EventCounts()
    for truth, answer in pairs:
        total = total.plus(EventCounts.of([(truth, answer)]))
    assert total.accuracy[:2] == (1, 3)
    assert total.false_alarms[:2] == (1, 2)
    together = EventCounts.of(pairs)
    assert (together.found, together.false, together.missed) == (total.found, total.false, total.missed)
    assert together.accuracy[:2] == (1, 3)
    assert together.accuracy.interval is None, "one recording says nothing of others"
    assert total.f1("dog") == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 0))
    assert total.f1("cat") == 0
    assert total.f1("rain") == pytest.approx(100 * 2 / (2 + 1))


def test_only_what_is_known_and_asked_is_counted() -> None:
    row = Clip(label="", gender="f", age="40", events=("toaster",))
    scores = score_clip(row, Recognition(text="HELLO", gender="female", age="adult", emotion="fear"))
    assert scores.tokens == ErrorRate()
    assert set(scores.attributes) == {"gender"}
    assert scores.attributes["gender"].accuracy[:2] == (1, 1)
    assert scores.events.accuracy[:2] == (0, 1), "an event that the model cannot say is missed"
    assert score_clip(row, Recognition(), asked=()).attributes == {}
    assert score_clip(Clip(), Recognition()).events == EventCounts()


def test_clips_of_one_voice_are_not_independent() -> None:
    """Ten speakers, twenty clips each, every speaker all right or all wrong: ten answers, not two hundred."""
    by_speaker = [
        Answer(
            set="s",
            clip_id=f"{speaker}-{clip}",
            recording=f"s{speaker}",
            truths={"gender": "male"},
            labels={"gender": "male" if speaker < 7 else "female"},
            reference="A B",
            hypothesis="A B" if speaker < 7 else "A",
        )
        for speaker in range(10)
        for clip in range(20)
    ]
    scores = Scores.of(by_speaker)
    alone = Scores.of(replace(answer, recording="") for answer in by_speaker)
    for one in (scores, alone):
        assert one.attributes["gender"].accuracy.percent == 70
        assert one.tokens.percent == 15
    assert alone.attributes["gender"].accuracy.interval == pytest.approx(Proportion(140, 200).interval)
    ten = width(Proportion(7, 10).interval)
    assert ten < width(scores.attributes["gender"].accuracy.interval) < 1.3 * ten, "and ten are few to know that from"
    assert scores.tokens.recordings == 10
    assert width(scores.tokens.interval) > 4 * width(alone.tokens.interval)
    assert Scores.of(by_speaker[:20]).attributes["gender"].accuracy.interval is None


def test_a_constant_answer_is_worth_nothing_when_balanced() -> None:
    truth = ["adult"] * 72 + ["child"] * 18 + ["elderly"] * 10
    answers = [
        Answer(set="s", clip_id=str(at), truths={"age": age}, labels={"age": "adult"}) for at, age in enumerate(truth)
    ]
    counts = Scores.of(answers).attributes["age"]
    assert counts.accuracy.percent == 72
    assert counts.constant == ("adult", Proportion(72, 100))
    assert counts.balanced.percent == pytest.approx(100 / 3)


def test_the_interval_of_a_balanced_accuracy_is_that_of_resampled_recordings() -> None:
    draw = np.random.default_rng(1)
    recordings, recalls = 300, {"a": 0.9, "b": 0.6, "c": 0.75}
    truths = draw.choice(list(recalls), p=[0.6, 0.3, 0.1], size=(recordings, 3))
    right = draw.random((recordings, 3)) < np.vectorize(recalls.get)(truths)
    counts = LabelCounts()
    for of, ok in zip(truths.tolist(), right.tolist(), strict=True):
        counts = counts.plus(LabelCounts.of((t, t if r else NO_ANSWER) for t, r in zip(of, ok, strict=True)))
    picks = draw.integers(0, recordings, (2000, recordings))
    recall = [
        (right[picks] & (truths[picks] == label)).sum((1, 2)) / (truths[picks] == label).sum((1, 2))
        for label in recalls
    ]
    means = np.mean(recall, axis=0)
    assert counts.balanced.interval == pytest.approx(np.percentile(100 * means, [2.5, 97.5]), abs=0.7)


def width(interval: tuple[float, float] | None) -> float:
    assert interval
    return interval[1] - interval[0]


def test_two_recordings_that_are_alike_by_luck_prove_nothing() -> None:
    alike = ErrorRate(20, 0, 0, 100).as_one().plus(ErrorRate(20, 0, 0, 100).as_one())
    assert width(alike.interval) > 30
    assert ErrorRate(20, 0, 0, 100).as_one().interval is None


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 30, 400])
def test_students_t_is_scipys(freedom: int) -> None:
    assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=3e-3)
