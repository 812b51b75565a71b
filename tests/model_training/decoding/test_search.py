"""Searches against brute force: every alignment, every answer, every hypothesis scored by hand."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.decoding.search import (
    METHODS,
    HeadScores,
    Hypothesis,
    SearchSettings,
    attention_beam,
    attention_rescoring,
    ctc_greedy,
    ctc_prefix_beam,
    decode_batch,
    heed,
)
from model_training.text.perception import Grammar
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, BLANK, EOT, SOT, UNK, Order, Scheme
from operators.errors import UserError

SCHEME = Scheme(
    languages=("zh", "en"), ages=("child",), genders=("male", "female"), emotions=("neutral",), events=("dog",)
)
TOKENIZER = Tokenizer.train(["你好"], SCHEME)
NEVER = {BLANK, UNK, SOT, *(TOKENIZER.special_id(kind, None) for kind in ATTRIBUTES)}


def normalise(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class TableScorer:
    """A decoder whose next token depends on clip, place and the last two tokens: enough for beams to disagree with
    greed.

    It checks on the way what a caching model relies on: row h continues row parents[h] of the previous call.
    """

    def __init__(
        self, seed: int, frames: Sequence[int], vocabulary: int = len(TOKENIZER), sharpness: float = 2.0
    ) -> None:
        draw = np.random.default_rng(seed)
        self.frames = list(frames)
        self.ctc_scores = [normalise(sharpness * draw.standard_normal((count, vocabulary))) for count in frames]
        self.vocabulary, self.seed, self.sharpness = vocabulary, seed, sharpness
        self._before: np.ndarray | None = None
        self.calls = 0
        self.reverse: TableScorer | None = None
        self.heads: dict[int, HeadScores] = {}

    def head(self, clip: int) -> HeadScores | None:
        return self.heads.get(clip)

    @property
    def has_reverse(self) -> bool:
        return self.reverse is not None

    def score_reverse(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        assert self.reverse is not None
        return self.reverse.score(ids_HL, clips_H)

    def _log_probs(self, clip: int, ids: Sequence[int]) -> np.ndarray:
        draw = np.random.default_rng([self.seed, clip, len(ids), *ids[-2:]])
        return normalise(self.sharpness * draw.standard_normal(self.vocabulary))

    def ctc(self, clip: int) -> np.ndarray:
        return self.ctc_scores[clip]

    def next(self, ids_HL: np.ndarray, clips_H: np.ndarray, parents_H: np.ndarray | None) -> np.ndarray:
        if parents_H is not None:
            assert self._before is not None
            assert (self._before[parents_H] == ids_HL[:, :-1]).all()
        self._before = ids_HL
        self.calls += 1
        return np.stack([self._log_probs(int(clip), list(ids)) for clip, ids in zip(clips_H, ids_HL, strict=True)])

    def score(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                np.stack([self._log_probs(int(clip), list(ids[: end + 1])) for end in range(len(ids))])
                for clip, ids in zip(clips_H, ids_HL, strict=True)
            ]
        )

    def total(self, clip: int, ids: Sequence[int], start: int) -> float:
        """Log-probability of ids[start:] by the chain rule."""
        return sum(float(self._log_probs(clip, list(ids[:at]))[ids[at]]) for at in range(start, len(ids)))


def every_answer(grammar: Grammar, most: int) -> list[tuple[int, ...]]:
    """All complete answers with at most `most` tokens of content."""
    complete, open_ = [], [grammar.prompt]
    while open_:
        ids = open_.pop()
        content = sum(bool(grammar.content[token]) for token in ids[len(grammar.prompt) :])
        for token in np.flatnonzero(grammar.allowed_next(ids)).tolist():
            if token == EOT:
                complete.append((*ids, token))
            elif content < most or not grammar.content[token]:
                open_.append((*ids, token))
    return complete


def collapse(alignment: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(alignment) if token != BLANK)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_prefix_beam_is_the_sum_over_all_alignments(seed: int, frames: int, vocabulary: int) -> None:
    log_probs = normalise(2 * np.random.default_rng(seed).standard_normal((frames, vocabulary)))
    sums: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for alignment in itertools.product(range(vocabulary), repeat=frames):
        sums[collapse(alignment)] += float(np.exp(log_probs[np.arange(frames), alignment].sum()))
    found = ctc_prefix_beam(log_probs, beam=10_000)
    assert {hypothesis.ids for hypothesis in found} == set(sums)
    for hypothesis in found:
        assert np.exp(hypothesis.score) == pytest.approx(sums[hypothesis.ids], rel=1e-9)
    assert [hypothesis.score for hypothesis in found] == sorted(
        (hypothesis.score for hypothesis in found), reverse=True
    )
    # A small beam only loses mass, never invents it.
    for hypothesis in ctc_prefix_beam(log_probs, beam=2):
        assert np.exp(hypothesis.score) <= sums[hypothesis.ids] * (1 + 1e-9)


def test_prefix_beam_can_beat_the_best_alignment() -> None:
    # Hannun's point: two weak alignments of "1" together outweigh the single best one, all blank.
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert ctc_greedy(log_probs) == []
    best = ctc_prefix_beam(log_probs, beam=4)[0]
    assert best.ids == (1,)
    assert np.exp(best.score) == pytest.approx(0.64)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_ctc_greedy_merges_repeats_and_drops_blanks(frames: list[int]) -> None:
    logits = np.eye(4)[frames].reshape(len(frames), 4)
    assert tuple(ctc_greedy(logits)) == collapse(frames)


@pytest.mark.parametrize("order", ["attributes_first", "text_first"])
@pytest.mark.parametrize("seed", range(6))
def test_attention_beam_is_the_argmax_over_all_answers(order: str, seed: int) -> None:
    grammar = Grammar(TOKENIZER, order=order)  # type: ignore[arg-type]
    scorer = TableScorer(seed, frames=[3, 1])
    for clip, found in enumerate(attention_beam(scorer, grammar, beam=2000)):
        answers = every_answer(grammar, scorer.frames[clip])
        totals = {ids: scorer.total(clip, ids, len(grammar.prompt)) for ids in answers}
        best = max(totals, key=totals.__getitem__)
        assert found[0].ids == best
        assert found[0].score == pytest.approx(totals[best])
        for hypothesis in found:
            assert hypothesis.score == pytest.approx(totals[hypothesis.ids])


@pytest.mark.parametrize("task", SCHEME.tasks)
@pytest.mark.parametrize("seed", range(4))
def test_beam_of_one_is_greedy(task: str, seed: int) -> None:
    grammar = Grammar(TOKENIZER, task=task)
    scorer = TableScorer(seed, frames=[4, 2, 6])
    found = attention_beam(scorer, grammar, beam=1)
    for clip, hypotheses in enumerate(found):
        ids, content = list(grammar.prompt), 0
        while ids[-1] != EOT:
            allowed = grammar.allowed_next(ids)
            if content == scorer.frames[clip]:
                allowed = allowed & ~grammar.content
            ids.append(int(np.where(allowed, scorer._log_probs(clip, ids), -np.inf).argmax()))
            content += bool(grammar.content[ids[-1]])
        assert [hypothesis.ids for hypothesis in hypotheses] == [tuple(ids)]


def test_a_wider_beam_finds_what_greed_misses() -> None:
    grammar = Grammar(TOKENIZER)
    gains = []
    for seed in range(20):
        narrow, wide = (attention_beam(TableScorer(seed, [4]), grammar, beam)[0][0].score for beam in (1, 50))
        gains.append(wide - narrow)
    assert min(gains) >= 0
    assert max(gains) > 0.5


def test_clips_in_one_batch_do_not_touch_each_other() -> None:
    grammar = Grammar(TOKENIZER)
    together = attention_beam(TableScorer(7, [4, 4]), grammar, 3)
    scorer = TableScorer(7, [4])
    assert attention_beam(scorer, grammar, 3) == together[:1]


@pytest.mark.parametrize("order", ["attributes_first", "text_first"])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.5, 100.0])
def test_rescoring_orders_hypotheses_as_computed_by_hand(order: str, ctc_weight: float) -> None:
    grammar = Grammar(TOKENIZER, order=order)  # type: ignore[arg-type]
    ni, hao = TOKENIZER.encode("你好")
    nbest = [
        Hypothesis((ni, hao), -1.0),
        Hypothesis((ni,), -1.5),
        Hypothesis((), -4.0),
        Hypothesis((hao, ni, hao), -2.0),
    ]
    scorer = TableScorer(5, frames=[8])
    head = list(grammar.prompt)
    while order == "attributes_first" and len(head) < len(grammar.prompt) + 4:
        head.append(int(np.where(grammar.allowed_next(head), scorer._log_probs(0, head), -np.inf).argmax()))
    closing = (
        [EOT] if order == "attributes_first" else [TOKENIZER.special_id("language", code) for code in ("zh", "en")]
    )
    by_hand = {}
    for hypothesis in nbest:
        ids = [*head, *hypothesis.ids]
        end = np.log(np.exp(scorer._log_probs(0, ids)[closing]).sum())
        by_hand[hypothesis.ids] = scorer.total(0, ids, len(head)) + end + ctc_weight * hypothesis.score

    [found] = attention_rescoring(scorer, grammar, [nbest], ctc_weight)
    expected = sorted(by_hand, key=lambda ids: -by_hand[ids])
    content = [tuple(token for token in hypothesis.ids if token in (ni, hao)) for hypothesis in found]
    assert content == expected
    assert [hypothesis.score for hypothesis in found] == pytest.approx([by_hand[ids] for ids in expected])
    assert found[0].ids[-1] == EOT
    assert len(found[0].ids) == len(grammar.prompt) + 4 + len(expected[0]) + 1
    if ctc_weight == 100.0:
        assert content == [hypothesis.ids for hypothesis in sorted(nbest, key=lambda one: -one.score)]


@pytest.mark.parametrize("order", ["attributes_first", "text_first"])
def test_a_right_to_left_decoder_scores_the_same_text_from_its_end(order: str) -> None:
    grammar = Grammar(TOKENIZER, order=order, given={"language": "zh"})
    ni, hao = (TOKENIZER.tokens.index(character) for character in "你好")
    nbest = [Hypothesis((ni, hao), -1.0), Hypothesis((), -4.0), Hypothesis((hao, ni, ni), -2.0)]
    scorer = TableScorer(5, frames=[8])
    [left] = attention_rescoring(scorer, grammar, [nbest], 0.5, 0.3)
    scorer.reverse = TableScorer(6, frames=[8])
    [unasked] = attention_rescoring(scorer, grammar, [nbest], 0.5, 0.0)
    assert unasked == left, "without a decoder its weight is nothing"
    [found] = attention_rescoring(scorer, grammar, [nbest], 0.5, 0.3)
    content = len(found[0].ids[: grammar.head])
    head = list(found[0].ids[:content])
    closing = [EOT] if order == "attributes_first" else [TOKENIZER.special_id("language", "zh")]
    scores = {tuple(t for t in one.ids[content:] if t in (ni, hao)): one.score for one in left}
    for hypothesis in found:
        ids = tuple(token for token in hypothesis.ids[content:] if token in (ni, hao))
        (ctc,) = (one.score for one in nbest if one.ids == ids)
        backwards = [*head, *reversed(ids)]
        end = np.log(np.exp(scorer.reverse._log_probs(0, backwards)[closing]).sum())
        other = scorer.reverse.total(0, backwards, len(head)) + end
        assert hypothesis.score == pytest.approx(0.7 * (scores[ids] - 0.5 * ctc) + 0.3 * other + 0.5 * ctc)


@given(st.integers(0, 10_000), st.sampled_from(METHODS), st.sampled_from(SCHEME.tasks), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_method_ever_emits_unk(seed: int, method: str, task: str, text_first: bool) -> None:
    class Eager(TableScorer):
        """Wants nothing more than tokens that must not come out."""

        def _log_probs(self, clip: int, ids: Sequence[int]) -> np.ndarray:
            logits = super()._log_probs(clip, ids)
            logits[list(NEVER)] += 20
            return normalise(logits)

    scorer = Eager(seed, frames=[5, 2])
    for scores in scorer.ctc_scores:
        scores[:, list(NEVER - {BLANK})] += 20
    grammar = Grammar(TOKENIZER, task=task, order="text_first" if text_first else "attributes_first")
    for recognition in decode_batch(scorer, TOKENIZER, grammar, SearchSettings(method=method, beam=3)):
        assert not set(recognition.ids) & NEVER
        for kind in ATTRIBUTES:
            asked = kind in grammar.slots and (method.startswith("attention"))
            label = getattr(recognition, kind)
            assert (label in TOKENIZER.scheme.labels(kind)) if asked else (label is None)


def test_given_attributes_are_kept_by_every_attention_method() -> None:
    for seed, method in itertools.product(range(4), ("attention", "attention_rescoring")):
        grammar = Grammar(TOKENIZER, given={"language": "en", "gender": "male"})
        [recognition] = decode_batch(TableScorer(seed, [3]), TOKENIZER, grammar, SearchSettings(method=method, beam=2))
        assert (recognition.language, recognition.gender) == ("en", "male")


def word(kind: str, label: str, share: float) -> HeadScores:
    """A head that gives a label this share of its kind."""
    labels = SCHEME.labels(kind)
    logits_V = np.full(len(TOKENIZER), 50.0, np.float32)  # what is no label of the kind says nothing
    for one in labels:
        logits_V[TOKENIZER.special_id(kind, one)] = np.log(share if one == label else (1 - share) / (len(labels) - 1))
    return HeadScores((kind,), logits_V)


@pytest.mark.parametrize("order", ["attributes_first", "text_first"])
@pytest.mark.parametrize("method", ["attention", "attention_rescoring"])
def test_the_surer_of_decoder_and_head_has_its_word(method: str, order: Order) -> None:
    """The decoder gives female 0.8 of the two; what both together have is a small part of the whole."""
    male, female = (TOKENIZER.special_id("gender", label) for label in ("male", "female"))

    class Decided(TableScorer):
        def _log_probs(self, clip: int, ids: Sequence[int]) -> np.ndarray:
            logits = super()._log_probs(clip, ids)
            logits[male], logits[female] = np.log(0.2), np.log(0.8)
            return normalise(logits)

    def heard(speaker: str, *heads: HeadScores) -> list[str | None]:
        scorer = Decided(3, [4] * len(heads))
        scorer.heads = dict(enumerate(heads))
        settings = SearchSettings(method=method, beam=1, speaker=speaker)
        found = decode_batch(scorer, TOKENIZER, Grammar(TOKENIZER, order=order), settings)
        return [recognition.gender for recognition in found]

    unsure, sure, agreed = (
        word("gender", label, share) for label, share in (("male", 0.7), ("male", 0.9), ("female", 0.6))
    )
    assert heard("surer", unsure, sure, agreed) == ["female", "male", "female"]
    assert heard("head", unsure, sure, agreed) == ["male", "male", "female"]
    assert heard("decoder", unsure, sure, agreed) == ["female", "female", "female"]
    given = Grammar(TOKENIZER, order=order, given={"gender": "female"})
    scorer = Decided(3, [4])
    scorer.heads = {0: sure}
    (found,) = decode_batch(scorer, TOKENIZER, given, SearchSettings(method=method, beam=1))
    assert found.gender == "female", "what the caller knows is not the head's to say"


def test_the_head_leaves_what_the_labels_have_together_as_it_was() -> None:
    scorer, grammar = TableScorer(3, [4]), Grammar(TOKENIZER, order="text_first")
    scorer.heads = {0: word("language", "en", 0.999)}
    own_V = scorer._log_probs(0, grammar.prompt)
    heard_V = heed(scorer, grammar, 0, grammar.prompt, own_V)
    labels = grammar.labels_of("language")
    assert np.logaddexp.reduce(heard_V[labels]) == pytest.approx(np.logaddexp.reduce(own_V[labels]))
    others = np.setdiff1d(np.arange(len(own_V)), labels)
    assert (heard_V[others] == own_V[others]).all()


def test_a_clip_without_frames_is_empty_and_not_an_error() -> None:
    for method in METHODS:
        recognitions = decode_batch(
            TableScorer(1, [0, 3]), TOKENIZER, Grammar(TOKENIZER), SearchSettings(method=method, beam=2)
        )
        assert len(recognitions) == 2
    assert decode_batch(TableScorer(1, []), TOKENIZER, Grammar(TOKENIZER), SearchSettings(method="attention")) == []


def test_wrong_settings_are_user_errors() -> None:
    with pytest.raises(UserError, match="ctc_greedy"):
        SearchSettings(method="viterbi")
    with pytest.raises(UserError, match="beam"):
        SearchSettings(beam=0)
    with pytest.raises(UserError, match="right-to-left"):
        SearchSettings(reverse_weight=1.5)
