"""From scores to token ids: CTC greedy and prefix beam, attention beam, attention rescoring. numpy only, no model.

    Scorer ──ctc──> log_probs_SV ──ctc_greedy | ctc_prefix_beam──> hypotheses ──────────┐
       └────next──> log_probs_HV ──attention_beam, one token at a time under a Grammar──┼──> Recognition per clip
       └────score─> log_probs_HLV ──attention_rescoring of the CTC hypotheses───────────┘
            score_reverse: the same of a right-to-left decoder, where there is one
            head: what the speaker head says of an attribute, which `heed` lays over the decoder's own word for it

Who computes the scores does not matter here: a torch model (scorer.py) or an exported one. Scores are natural
logarithms. Prefix beam: Hannun et al. 2014, algorithm 1; rescoring: WeNet (attention score + ctc_weight * CTC score),
and U2++ (Wu et al. 2021) for the second decoder.

Legend: S encoder frames, V vocabulary, H hypotheses, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, log1p
from typing import NamedTuple, Protocol

import numpy as np

from model_training.text.perception import Grammar, Recognition, parse
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import BLANK, EOT, TRANSCRIBE
from operators.errors import UserError

METHODS = ("ctc_greedy", "ctc_prefix_beam", "attention", "attention_rescoring")
SURER, HEAD, DECODER = "surer", "head", "decoder"
SPEAKERS = (SURER, HEAD, DECODER)
"""Whose word counts for an attribute that a speaker head answers."""


class Hypothesis(NamedTuple):
    ids: tuple[int, ...]
    score: float


class HeadScores(NamedTuple):
    """HeadScores are a speaker head's word on one clip."""

    attributes: Sequence[str]
    """what it answers"""
    logits_V: np.ndarray
    """which mean something between the labels of one attribute"""


class Scorer(Protocol):
    """A Scorer is a batch of encoded clips, and how likely tokens are. All arrays are float32 log-probabilities."""

    @property
    def frames(self) -> Sequence[int]:
        """Return the encoder frames of every clip."""

    def ctc(self, clip: int) -> np.ndarray:
        """Return CTC's scores (S, V) of one clip, without its padding."""

    def next(self, ids_HL: np.ndarray, clips_H: np.ndarray, parents_H: np.ndarray | None) -> np.ndarray:
        """Return the scores (H, V) of the token after each hypothesis. `clips_H` says whose hypothesis a row is.

        Row h is row parents_H[h] of the previous call and one token more, so that states can be kept; None: begin.
        """

    def score(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        """Return the scores (H, L, V): at position l those of the token after ids_HL[:, : l + 1]."""

    @property
    def has_reverse(self) -> bool:
        """Say whether there is a right-to-left decoder."""

    def score_reverse(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        """Return what the right-to-left decoder says, as `score` does, of ids whose content stands from its end."""

    def head(self, clip: int) -> HeadScores | None:
        """Return what the speaker head says of a clip; None where the model has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    method: str = "attention_rescoring"
    beam: int = 10
    """hypotheses kept; 1 is greedy"""
    ctc_weight: float = 0.5
    """of the CTC score beside the attention score when rescoring"""
    reverse_weight: float = 0.3
    """of the right-to-left decoder in the attention score, where the model has one"""
    speaker: str = SURER
    """whose word counts for attributes, where the model has a speaker head: surer, head or decoder"""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"unknown decoding method {self.method!r}: choose from {', '.join(METHODS)}")
        if self.beam < 1:
            raise UserError(f"beam must be at least 1, not {self.beam}")
        if not 0 <= self.ctc_weight <= 1:
            raise UserError(f"the weight of CTC must lie between 0 and 1, not at {self.ctc_weight:g}")
        if self.speaker not in SPEAKERS:
            raise UserError(f"attributes are answered by one of {', '.join(SPEAKERS)}, not by {self.speaker!r}")
        if not 0 <= self.reverse_weight <= 1:
            raise UserError(
                f"the weight of the right-to-left decoder must lie between 0 and 1, not at {self.reverse_weight:g}"
            )


def decode_batch(
    scorer: Scorer, tokenizer: Tokenizer, grammar: Grammar, settings: SearchSettings | None = None
) -> list[Recognition]:
    """Return the best hypothesis of every clip of the batch. CTC methods give text and events, no attributes."""
    settings = settings or SearchSettings()
    return [parse(best[0].ids, tokenizer, best[0].score) for best in search(scorer, grammar, settings)]


def search(scorer: Scorer, grammar: Grammar, settings: SearchSettings) -> list[list[Hypothesis]]:
    """Return the hypotheses of every clip, best first, never none; the decoder's have prompt and <eot> around them.

    A task without a transcript has nothing to rescore: it is answered by the attention beam.
    """
    clips = range(len(scorer.frames))
    if settings.method == "ctc_greedy":
        return [[_greedy_hypothesis(scorer.ctc(clip), grammar.ctc)] for clip in clips]
    if settings.method == "attention" or (settings.method == "attention_rescoring" and grammar.task != TRANSCRIBE):
        return attention_beam(scorer, grammar, settings.beam, settings.speaker)
    nbest = [ctc_prefix_beam(scorer.ctc(clip), settings.beam, grammar.ctc) for clip in clips]
    if settings.method == "ctc_prefix_beam":
        return nbest
    return attention_rescoring(scorer, grammar, nbest, settings.ctc_weight, settings.reverse_weight, settings.speaker)


def heed(
    scorer: Scorer, grammar: Grammar, clip: int, ids: Sequence[int], log_probs_V: np.ndarray, speaker: str = SURER
) -> np.ndarray:
    """Return the scores (V,) of the token after `ids`, in which the surer of decoder and speaker head has its word.

    Where an attribute comes next, both are taken as shares between its labels, and the one whose best label has the
    larger share counts; the head where they are equal. What all labels have together stays the decoder's, so whether
    they come next at all is not the head's to say.
    """
    slot = grammar.slot_after(ids)
    found = scorer.head(clip) if slot is not None and speaker != DECODER else None
    if slot is None or found is None or slot not in found.attributes:
        return log_probs_V
    labels_N = grammar.labels_of(slot)
    if len(labels_N) < 2:  # known, or nobody knows
        return log_probs_V
    decoder_N, head_N = log_probs_V[labels_N], found.logits_V[labels_N]
    together = np.logaddexp.reduce(decoder_N)
    decoder_N, head_N = decoder_N - together, head_N - np.logaddexp.reduce(head_N)
    if speaker == SURER and decoder_N.max() > head_N.max():
        return log_probs_V
    heard_V = log_probs_V.copy()
    heard_V[labels_N] = together + head_N
    return heard_V


def check_speaker(speaker: str, has_head: bool) -> None:
    """Raise UserError where a speaker head alone shall answer, and the model has none."""
    if speaker == HEAD and not has_head:
        raise UserError(
            "the model has no speaker head: train one with model.speaker_head.attributes=[gender,age], or leave "
            "--speaker head out"
        )


def ctc_greedy(scores_SV: np.ndarray, allowed_V: np.ndarray | None = None) -> list[int]:
    """Return the best token of every frame, repeats merged, blanks dropped. Logits or log-probabilities.

    `allowed_V` bool: what may be emitted; the default is everything.
    """
    if allowed_V is not None:
        scores_SV = np.where(allowed_V, scores_SV, -inf)
    return merge_frames(scores_SV.argmax(axis=1) if len(scores_SV) else np.zeros(0, dtype=int))


def merge_frames(best_S: np.ndarray) -> list[int]:
    """Return the tokens of frames, repeats merged, blanks dropped."""
    fresh_S = np.ones(len(best_S), dtype=bool)
    fresh_S[1:] = best_S[1:] != best_S[:-1]
    return [int(token) for token in best_S[fresh_S & (best_S != BLANK)]]


def ctc_prefix_beam(log_probs_SV: np.ndarray, beam: int, allowed_V: np.ndarray | None = None) -> list[Hypothesis]:
    """Return the most likely label sequences, each summed over its alignments, best first.

    Every frame offers its `beam` best tokens, and `beam` prefixes survive it; with a beam as large as the number of
    prefixes the scores are exact.
    """
    prefixes = PrefixBeam(beam, allowed_V)
    prefixes.extend(log_probs_SV)
    return prefixes.hypotheses()


class PrefixBeam:
    """A PrefixBeam is CTC's prefix beam search, which takes frames as they come."""

    def __init__(self, beam: int, allowed_V: np.ndarray | None = None) -> None:
        self._beam, self._allowed_V = beam, allowed_V
        # Per prefix the log-probability of ending in a blank, and of ending in its last token.
        self._prefixes: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -inf)}

    def extend(self, log_probs_SV: np.ndarray) -> None:
        """Take the next frames' log-probabilities."""
        if self._allowed_V is not None:
            log_probs_SV = np.where(self._allowed_V, log_probs_SV, -inf)
        for log_probs_V in log_probs_SV:
            self._take(log_probs_V)

    def hypotheses(self) -> list[Hypothesis]:
        """Return what the frames so far say, best first, never nothing."""
        found = [Hypothesis(prefix, _log_add(*ends)) for prefix, ends in self._prefixes.items() if max(ends) > -inf]
        return found or [Hypothesis((), -inf)]

    def _take(self, log_probs_V: np.ndarray) -> None:
        beam = self._beam
        offered = [(int(token), float(log_probs_V[token])) for token in _best_tokens(log_probs_V, beam)]
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(prefix: tuple[int, ...], blank: float, token: float, into: dict = grown) -> None:  # type: ignore[type-arg]
            old_blank, old_token = into.get(prefix, (-inf, -inf))
            into[prefix] = (_log_add(old_blank, blank), _log_add(old_token, token))

        for prefix, (blank, token) in self._prefixes.items():
            total = _log_add(blank, token)
            for candidate, log_prob in offered:
                if candidate == BLANK:
                    add(prefix, total + log_prob, -inf)
                elif prefix and candidate == prefix[-1]:
                    add(prefix, -inf, token + log_prob)
                    add((*prefix, candidate), -inf, blank + log_prob)
                else:
                    add((*prefix, candidate), -inf, total + log_prob)
        ranked = sorted(grown.items(), key=lambda item: (-_log_add(*item[1]), item[0]))
        self._prefixes = dict(ranked[:beam])


def ctc_log_prob(log_probs_SV: np.ndarray, ids: Sequence[int]) -> float:
    """Return the log-probability that CTC gives the labels `ids`, over all alignments; -inf where they do not fit.

    The forward algorithm of Graves et al. 2006, over the labels with a blank around each.
    """
    states_Z = np.full(2 * len(ids) + 1, BLANK)
    states_Z[1::2] = ids
    may_skip_Z = np.zeros(len(states_Z), bool)
    may_skip_Z[3::2] = states_Z[3::2] != states_Z[1:-2:2]
    ending_Z = np.full(len(states_Z), -inf)
    ending_Z[0] = 0.0  # before the first frame, a blank that costs nothing
    for log_probs_V in log_probs_SV.astype(np.float64):
        before_Z = ending_Z
        ending_Z = before_Z.copy()
        ending_Z[1:] = np.logaddexp(ending_Z[1:], before_Z[:-1])
        ending_Z[2:] = np.logaddexp(ending_Z[2:], np.where(may_skip_Z[2:], before_Z[:-2], -inf))
        ending_Z += log_probs_V[states_Z]
    return float(np.logaddexp.reduce(ending_Z[-2:]))


def attention_beam(scorer: Scorer, grammar: Grammar, beam: int, speaker: str = SURER) -> list[list[Hypothesis]]:
    """Return the most likely answers of the decoder under the grammar, per clip, best first; beam 1 is greedy.

    An answer has at most as many tokens of content as the clip has encoder frames (CTC could not spell more either).
    A clip is done when no open hypothesis can overtake its best finished one: log-probabilities only fall.
    """
    most = [grammar.head + max(frames, 1) for frames in scorer.frames]
    finished: list[list[Hypothesis]] = [[] for _ in most]
    # (ids, score, row in the previous call) of every open hypothesis.
    open_: list[list[tuple[tuple[int, ...], float, int]]] = [[(grammar.prompt, 0.0, -1)] for _ in most]
    first = True
    while rows := [(clip, *hypothesis) for clip, some in enumerate(open_) for hypothesis in some]:
        ids_HL = np.array([ids for _, ids, _, _ in rows], dtype=np.int64)
        parents_H = None if first else np.array([row for *_, row in rows], dtype=np.int64)
        log_probs_HV = scorer.next(ids_HL, np.array([clip for clip, *_ in rows], dtype=np.int64), parents_H)
        first = False
        candidates: list[list[tuple[float, tuple[int, ...], int]]] = [[] for _ in most]
        for row, (clip, ids, score, _) in enumerate(rows):
            allowed_V = grammar.allowed_next(ids)
            if len(ids) >= most[clip]:
                allowed_V = allowed_V & ~grammar.content
            heard_V = heed(scorer, grammar, clip, ids, log_probs_HV[row], speaker)
            log_probs_V = np.where(allowed_V, heard_V, -inf)
            candidates[clip] += [
                (-score - float(log_probs_V[token]), (*ids, int(token)), row)
                for token in _best_tokens(log_probs_V, beam)
            ]
        for clip, some in enumerate(candidates):
            if not open_[clip]:
                continue
            kept = sorted(some)[:beam]
            finished[clip] += [Hypothesis(ids, -cost) for cost, ids, _ in kept if ids[-1] == EOT]
            open_[clip] = [(ids, -cost, row) for cost, ids, row in kept if ids[-1] != EOT]
            best = max((score for _, score in finished[clip]), default=-inf)
            if best >= max((score for _, score, _ in open_[clip]), default=-inf):
                open_[clip] = []
    if not all(finished):
        raise ValueError("the decoder's scores are not finite")
    return [sorted(some, key=lambda item: (-item.score, item.ids))[:beam] for some in finished]


def attention_rescoring(
    scorer: Scorer,
    grammar: Grammar,
    nbest: Sequence[Sequence[Hypothesis]],
    ctc_weight: float,
    reverse_weight: float = 0.0,
    speaker: str = SURER,
) -> list[list[Hypothesis]]:
    """Return CTC's hypotheses of every clip by decoder score + ctc_weight * CTC score, with attributes filled in.

    With a right-to-left decoder the decoder score is (1 - reverse_weight) * left-to-right + reverse_weight * the other.

    Attributes that come before the text are decoded greedily first and are the same for all of a clip's hypotheses;
    those behind it are decoded for the best hypothesis only. Their own probability is in no score.
    """

    def before_content(ids: tuple[int, ...]) -> np.ndarray | None:
        allowed_V = grammar.allowed_next(ids)
        return None if (allowed_V & grammar.content).any() else allowed_V

    def after_content(ids: tuple[int, ...]) -> np.ndarray | None:
        return None if ids[-1] == EOT else grammar.allowed_next(ids) & ~grammar.content

    def extend(clips: Sequence[int], prefixes: Sequence[tuple[int, ...]], mask: _NextMask) -> list[tuple[int, ...]]:
        return _extend(scorer, grammar, clips, prefixes, mask, speaker)

    clips = range(len(nbest))
    heads = extend(clips, [grammar.prompt for _ in clips], before_content)
    weights = ctc_weight, reverse_weight if scorer.has_reverse else 0.0
    found = [_rescore_clip(scorer, grammar, clip, heads[clip], nbest[clip], weights) for clip in clips]
    return [
        [best._replace(ids=extend([clip], [best.ids], after_content)[0]), *others]
        for clip, (best, *others) in enumerate(found)
    ]


_NextMask = Callable[[tuple[int, ...]], np.ndarray | None]


def _rescore_clip(
    scorer: Scorer,
    grammar: Grammar,
    clip: int,
    head: tuple[int, ...],
    nbest: Sequence[Hypothesis],
    weights: tuple[float, float],
) -> list[Hypothesis]:
    """Return the hypotheses of one clip by their new scores, best first."""
    ctc_weight, reverse_weight = weights
    sequences = [(*head, *hypothesis.ids) for hypothesis in nbest]
    spoken = _content_scores(scorer.score, grammar, clip, head, sequences)
    if reverse_weight:
        backwards = [(*head, *reversed(hypothesis.ids)) for hypothesis in nbest]
        turned = _content_scores(scorer.score_reverse, grammar, clip, head, backwards)
        spoken = [(1 - reverse_weight) * one + reverse_weight * other for one, other in zip(spoken, turned)]
    rescored = [
        Hypothesis(ids, score + ctc_weight * hypothesis.score)
        for ids, score, hypothesis in zip(sequences, spoken, nbest, strict=True)
    ]
    rescored.sort(key=lambda item: (-item.score, item.ids))
    return rescored


def _content_scores(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    grammar: Grammar,
    clip: int,
    head: tuple[int, ...],
    sequences: Sequence[tuple[int, ...]],
) -> list[float]:
    """Return how likely a decoder finds the content behind the head, and its end, in each sequence of one clip."""
    longest = max(map(len, sequences))
    ids_HL = np.array([[*ids, *[EOT] * (longest - len(ids))] for ids in sequences], dtype=np.int64)
    log_probs_HLV = score(ids_HL, np.full(len(sequences), clip, dtype=np.int64))
    scores = []
    for row, ids in enumerate(sequences):
        places = np.arange(len(head) - 1, len(ids) - 1)
        content = float(log_probs_HLV[row, places, ids_HL[row, len(head) : len(ids)]].sum(dtype=np.float64))
        # The content ends with whatever may follow it: <eot>, or the first attribute of any label.
        ends_V = grammar.allowed_next(ids) & ~grammar.content
        end = float(np.logaddexp.reduce(log_probs_HLV[row, len(ids) - 1, ends_V].astype(np.float64)))
        scores.append(content + end)
    return scores


def _extend(
    scorer: Scorer,
    grammar: Grammar,
    clips: Sequence[int],
    prefixes: Sequence[tuple[int, ...]],
    next_mask: _NextMask,
    speaker: str,
) -> list[tuple[int, ...]]:
    """Return prefixes of one length, each extended with the best allowed token until its mask is None."""
    done = list(prefixes)
    parents_H = None
    while (masks := [next_mask(ids) for ids in done]) and masks[0] is not None:
        allowed_HV = np.stack([mask for mask in masks if mask is not None])
        if (allowed_HV.sum(axis=1) == 1).all():
            tokens_H, parents_H = allowed_HV.argmax(axis=1), None
        else:
            log_probs_HV = scorer.next(np.array(done, dtype=np.int64), np.array(clips, dtype=np.int64), parents_H)
            parents_H = np.arange(len(done))
            log_probs_HV = np.stack(
                [
                    heed(scorer, grammar, clip, ids, log_probs_V, speaker)
                    for clip, ids, log_probs_V in zip(clips, done, log_probs_HV, strict=True)
                ]
            )
            tokens_H = np.where(allowed_HV, log_probs_HV, -inf).argmax(axis=1)
        done = [(*ids, int(token)) for ids, token in zip(done, tokens_H, strict=True)]
    return done


def _greedy_hypothesis(log_probs_SV: np.ndarray, allowed_V: np.ndarray) -> Hypothesis:
    """The score is that of the best alignment."""
    best_S = np.where(allowed_V, log_probs_SV, -inf).max(axis=1, initial=-inf)
    return Hypothesis(tuple(ctc_greedy(log_probs_SV, allowed_V)), float(best_S.sum(dtype=np.float64)))


def _best_tokens(log_probs_V: np.ndarray, count: int) -> np.ndarray:
    """Return the ids of the `count` highest scores that are possible at all, in no order."""
    if count < len(log_probs_V):
        best = np.argpartition(-log_probs_V, count - 1)[:count]
    else:
        best = np.arange(len(log_probs_V))
    return best[log_probs_V[best] > -inf]


def _log_add(one: float, other: float) -> float:
    if one < other:
        one, other = other, one
    return one if other == -inf else one + log1p(exp(other - one))
