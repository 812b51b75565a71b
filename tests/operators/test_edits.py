"""Edits and error rates: jiwer, rapidfuzz and the textbook loop give the same numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from operators.agreement import AgreementJudge
from operators.clip import Hypothesis
from operators.edits import Edits, align, edit_counts, error_rate
from operators.text.folded import Folder
from operators.text.phones import Phonetiser
from operators.text.spoken import tokens

PAIRS = Path(__file__).parent.parent / "data" / "rover_pairs.tsv"
TOKENS = st.lists(st.sampled_from(["我", "你", "the", "a", "x", "𠮷", "don't"]), max_size=12)
"""Han and Latin mixed, empty lists too."""


def plain_distance(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein by the textbook loop."""
    row = list(range(len(hypothesis) + 1))
    for i, token in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (token != other))
    return row[-1]


@settings(max_examples=300, deadline=None)
@given(TOKENS, TOKENS)
def test_edit_counts_equal_the_plain_loop(reference: list[str], hypothesis: list[str]) -> None:
    edits = edit_counts(reference, hypothesis)
    assert edits.total == plain_distance(reference, hypothesis)
    assert edits.deletions - edits.insertions == len(reference) - len(hypothesis)
    assert edits.reference_length == len(reference)


@settings(max_examples=300, deadline=None)
@given(TOKENS, TOKENS)
def test_jiwer_and_rapidfuzz_give_the_same_numbers(reference: list[str], hypothesis: list[str]) -> None:
    edits = edit_counts(reference, hypothesis)
    kinds = [edit.tag for edit in Levenshtein.editops(reference, hypothesis)]
    assert edits[:3] == (kinds.count("replace"), kinds.count("delete"), kinds.count("insert"))
    assert edits.rate == error_rate(reference, hypothesis), "to the last bit: a bound of 10 is a bound of 10"


@settings(max_examples=300, deadline=None)
@given(TOKENS.filter(bool), TOKENS)
def test_tokens_count_as_jiwer_counts_the_words_of_a_sentence(reference: list[str], hypothesis: list[str]) -> None:
    judged = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    edits = edit_counts(reference, hypothesis)
    assert edits[:3] == (judged.substitutions, judged.deletions, judged.insertions)
    assert edits.rate == pytest.approx(100 * judged.wer)


def test_a_token_with_a_space_in_it_is_one_token() -> None:
    assert edit_counts(["new york", "is"], ["new", "york", "is"]) == Edits(1, 0, 1, 2)
    assert error_rate(["new york", "is"], ["new", "york", "is"]) == 100.0


def test_rates_of_empty_references_are_never_nan() -> None:
    assert edit_counts([], []).rate == error_rate([], []) == 0.0
    assert edit_counts([], ["a", "b"]).rate == error_rate([], ["a", "b"]) == 100.0
    assert edit_counts(["a"], []).rate == 100.0
    assert edit_counts(["a"], ["b", "c", "d"]).rate == 300.0


@pytest.mark.parametrize("tenths", range(1, 60))
def test_a_rate_of_exactly_ten_percent_is_exactly_ten(tenths: int) -> None:
    assert Edits(tenths, 0, 0, 10 * tenths).rate == 10.0


@settings(max_examples=200, deadline=None)
@given(TOKENS, TOKENS)
def test_an_alignment_spells_both_sides_with_the_fewest_edits(reference: list[str], hypothesis: list[str]) -> None:
    steps = align(reference, hypothesis)
    assert [step.reference for step in steps if step.kind != "insertion"] == reference
    assert [step.hypothesis for step in steps if step.kind != "deletion"] == hypothesis
    assert all((step.kind == "equal") == (step.reference == step.hypothesis) for step in steps)
    assert sum(step.kind != "equal" for step in steps) == plain_distance(reference, hypothesis)


def test_the_rovers_rates_are_jiwers() -> None:
    """Of every pair of the public table: WER over mixed tokens, PER over phones, of the folded forms."""
    with PAIRS.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    judge, folder, phonetiser = AgreementJudge(), Folder(), Phonetiser()
    counted = 0
    for row in rows:
        language = row["language"]
        asr, copilot = (Hypothesis(engine=side, text=row[side]) for side in ("asr", "copilot"))
        agreement = judge.measure(asr, [copilot], language, seconds=4.0)
        compared = folder.compare(asr.text, copilot.text, language)
        sides = [compared.first.folded, compared.second.folded]
        reference, hypothesis = sides if agreement.reference == "asr" else sides[::-1]
        if reference == hypothesis:
            assert agreement.wer == agreement.per
            assert agreement.wer == (0.0 if reference or compared.first.spoken == compared.second.spoken else 100.0)
            continue
        assert agreement.wer == edit_counts(tokens(reference), tokens(hypothesis)).rate
        phones = [phonetiser.phones(text, language) for text in (reference, hypothesis)]
        assert agreement.per == edit_counts(*phones).rate
        counted += 1
    assert counted > 100, "a table of equal pairs would show nothing"
