"""Rates, proportions and intervals against independent judges: jiwer, scipy, resampling, and by hand."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from model_training.evaluation.evaluate import score_clip
from model_training.evaluation.metrics import (
    NO_ANSWER,
    ErrorRate,
    EventCounts,
    LabelCounts,
    Proportion,
    reference_tokens,
)
from model_training.text.perception import Recognition
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from tests.support.corpus import Clip

SCHEME = Scheme()


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
    scores = score_clip(row, recognition, SCHEME)
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
    assert score_clip(Clip(label=reference), Recognition(text=hypothesis), SCHEME).tokens.percent == 0


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
    counts = LabelCounts({("zh", "zh"): 6, ("zh", "yue"): 2, ("yue", "yue"): 3, ("yue", NO_ANSWER): 1, ("en", "zh"): 1})
    assert counts.accuracy == Proportion(9, 13)
    assert counts.f1("zh") == pytest.approx(100 * 2 * 6 / (2 * 6 + 1 + 2))
    assert counts.f1("yue") == pytest.approx(100 * 2 * 3 / (2 * 3 + 2 + 1))
    assert counts.f1("en") == 0
    assert counts.f1("minnan") is None


def test_events_by_hand() -> None:
    pairs = [(["dog"], ["dog"]), (["dog", "cat"], ["dog"]), ([], []), ([], ["rain"]), (["rain"], ["rain", "dog"])]
    total = EventCounts()
    for truth, answer in pairs:
        total = total.plus(EventCounts.of(truth, answer))
    assert total.accuracy == Proportion(1, 3)
    assert total.false_alarms == Proportion(1, 2)
    assert total.f1("dog") == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 0))
    assert total.f1("cat") == 0
    assert total.f1("rain") == pytest.approx(100 * 2 / (2 + 1))


def test_only_what_is_known_and_asked_is_counted() -> None:
    row = Clip(label="", gender="f", age="40", events=("toaster",))
    scores = score_clip(row, Recognition(text="HELLO", gender="female", age="adult", emotion="fear"), SCHEME)
    assert scores.tokens == ErrorRate()
    assert set(scores.attributes) == {"gender"}
    assert scores.attributes["gender"].accuracy == Proportion(1, 1)
    assert scores.events.accuracy == Proportion(0, 1), "an event that the model cannot say is missed"
    assert score_clip(row, Recognition(), SCHEME, asked=()).attributes == {}
    assert score_clip(Clip(), Recognition(), SCHEME).events == EventCounts()
