"""What engines and labels got wrong by a truth file, counted; pipeline/score/estimates.py makes rates of it.

    ledger ──rows of recordings with truth──align──> clips with text ──measure──> Counts per recording, domain, language
                                                 └─> why the others cannot be scored: coverage

Everything counted is an integer sum over clips, kept per recording so that recordings can be drawn again for intervals.
What is held grows with the recordings that have a truth, never with the clips. A clip's texts are compared as they are
said aloud (Normaliser.spoken), in the form that test sets are scored in (evaluation_form): 23 and twenty three are the
same words, and so are business man and businessman. `ScoreSettings.spoken` False compares them as they are written.

A transcript is *right* at a limit when its mixed-token error rate (per Han character, per word elsewhere) is within it.
The label of a clip that the agreement rule rejected is the one it would have had, to compare the rule with chance.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.agreement import AgreementRule
from operators.edits import edit_counts
from operators.errors import UserError
from operators.language import is_unspaced
from operators.text.folded_en import respace
from operators.text.phones_en import pronounce
from operators.text.spoken import Normaliser, evaluation_form, text_rules, tokens
from pipeline.report.histograms import SCORE_EDGES
from pipeline.score.clips import SCORE_COLUMNS, Labels, hypotheses, placed_clips, recordings_with_truth
from pipeline.score.truth import Tolerance, Truth

KEPT, DISAGREED, EARLIER = 0, 1, 2
"""Clips that were kept, that the agreement rule rejected, that were rejected before it could decide."""
LABEL, ASR = 0, 1
"""Systems; 2 is the copilot and, where a run votes, 3 and so on are further copilots."""
CLIPS, CHAR_EDITS, CHARS, WORD_EDITS, WORDS, TOKEN_EDITS, TOKENS, RIGHT = range(8)
"""Columns of `Counts.errors`; from RIGHT on one column per limit."""
ALIKE_COLUMNS = 4
"""Of `Counts.joint`, per limit: the ASR wrong, the copilot wrong, both, both with the same text."""
UNSCORED = ("unheard", "no_truth", "no_text", "cut", "overlapping")
_WORST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """ScoreSettings say how a run is scored: what counts as right, and which texts are compared."""

    limits: tuple[float, ...] = (0.0, 5.0, 10.0)
    """percent: a transcript is right when its error rate is within the limit."""
    tolerance: Tolerance = field(default_factory=Tolerance)
    spoken: bool = True
    """compare spoken forms, in which 23 is 二十三 and can't is cannot; False: texts as they are written."""

    def __post_init__(self) -> None:
        if not self.limits or not all(0 <= limit < 100 for limit in self.limits):
            raise UserError("the error rates that count as right are percentages from 0 to below 100")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """Counts are sums over clips, int64; leading axes (recordings, bootstrap draws) are welcome everywhere.

    errors [..., systems, 3, RIGHT + limits] by KEPT, DISAGREED and EARLIER, of the clips that the system heard; a clip
    that was rejected earlier has no label. joint [..., copilots, 1 + 4 limits]: clips that the ASR and the copilot
    heard, then `ALIKE_COLUMNS` per limit.
    """

    errors: np.ndarray
    joint: np.ndarray

    @classmethod
    def zeros(cls, copilots: int, limits: int) -> Counts:
        return cls(
            errors=np.zeros((2 + copilots, 3, RIGHT + limits), np.int64),
            joint=np.zeros((copilots, 1 + ALIKE_COLUMNS * limits), np.int64),
        )


@dataclass(frozen=True, slots=True, order=True)
class WrongLabel:
    """A WrongLabel is a kept clip whose label is wrong. Ordered by error rate, then by name; the worst are shown."""

    error_rate: float
    recording_id: str
    start: int
    clip_id: str
    domain: str
    truth: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreCounts:
    """ScoreCounts hold all that was counted of a run."""

    ledgers: int
    by_recording: dict[tuple[str, str, str], Counts]
    """by (recording, domain, language), sorted."""
    coverage: dict[tuple[str, str], tuple[int, int]]
    """(domain, "scored" or one of UNSCORED) -> clips, samples."""
    engines: tuple[tuple[str, ...], ...]
    """names of the engines that were the ASR, the copilot, the second copilot, ..."""
    edges: tuple[np.ndarray, np.ndarray]
    """of WER and PER in `grid`: those of the report, and the run's own limits."""
    grid: np.ndarray
    """int64 [WER bin, PER bin, 4 + limits]: clips that the rule decides, their samples, edits and characters of their
    labels, and right labels per limit. In the last bins lies what no limit keeps."""
    wrong_labels: tuple[WrongLabel, ...]


def count(
    tables: Iterable[pa.Table], truth: Truth, settings: ScoreSettings, rule: AgreementRule, normaliser: Normaliser
) -> ScoreCounts:
    """Return what a stream of ledgers (LEDGER_SCHEMA, or only its SCORE_COLUMNS) holds, each table one whole ledger.

    `rule` and `normaliser` are the run's own. Raises UserError where the truth fits no recording or no clip of it.
    """
    tally = _Tally(truth, settings, rule, normaliser)
    for table in tables:
        tally.add(table.select(SCORE_COLUMNS))
    return tally.finish()


class _Tally:
    def __init__(self, truth: Truth, settings: ScoreSettings, rule: AgreementRule, normaliser: Normaliser) -> None:
        self._truth = truth
        self._settings = settings
        self._labels = Labels(rule, normaliser)
        self._normaliser = normaliser
        self._counts: dict[tuple[str, str, str], Counts] = {}
        self._coverage: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))
        self._engines: dict[int, Counter[str]] = defaultdict(Counter)
        self._edges = np.union1d(SCORE_EDGES, rule.max_wer), np.union1d(SCORE_EDGES, rule.max_per)
        self._grid = np.zeros([len(edges) + 2 for edges in self._edges] + [4 + len(settings.limits)], np.int64)
        self._wrong: list[WrongLabel] = []
        self._ledgers = 0
        self._clips = 0

    def add(self, table: pa.Table) -> None:
        self._ledgers += 1
        clips = table.filter(pc.is_in(table["outcome"], pa.array(["kept", "rejected"])))
        self._clips += clips.num_rows
        found = recordings_with_truth(clips, self._truth)
        known = pa.array(list(found), pa.string())
        self._without_truth(clips.filter(pc.invert(pc.is_in(clips["recording_id"], known))))
        for clip in placed_clips(table, found, self._settings.tolerance):
            self._coverage[clip.row["domain"], clip.placement] += (1, clip.span.samples)
            if clip.placement == "scored":
                self._score(clip.row, clip.truth, clip.language, clip.span.samples)

    def _without_truth(self, clips: pa.Table) -> None:
        clips = clips.append_column("samples", pc.subtract(clips["end"], clips["start"]))
        sums = clips.group_by("domain", use_threads=False).aggregate([("samples", "count"), ("samples", "sum")])
        for row in sums.to_pylist():
            self._coverage[row["domain"], "no_truth"] += (row["samples_count"], row["samples_sum"])

    def _score(self, row: dict[str, Any], text: str, language: str, samples: int) -> None:
        limits = self._settings.limits
        heard = hypotheses(row)
        truth = self._form(text, language)
        forms = [self._form(hypothesis.text, language, text) for hypothesis in heard]
        measured = [_measure(*self._spaced_alike(truth, form, language), language, limits) for form in forms]
        counts = self._counts_of(row["recording_id"], row["domain"], language, copilots=len(heard) - 1)
        label = self._labels.label(row, heard)
        group = KEPT if row["outcome"] == "kept" else EARLIER if label is None else DISAGREED
        for index, (hypothesis, numbers) in enumerate(zip(heard, measured, strict=True)):
            self._engines[index][hypothesis.engine] += 1
            counts.errors[ASR + index, group] += numbers
            if index:
                counts.joint[index - 1] += _joint(measured[0], numbers, alike=forms[0] == forms[index])
        if label is None:
            return
        form = self._form(label, language, text)
        numbers = _measure(*self._spaced_alike(truth, form, language), language, limits)
        counts.errors[LABEL, group] += numbers
        wer, per = -1, -1
        if self._labels.limits_decide(row, heard):
            wer, per = (
                int(np.searchsorted(edges, row[rate])) for edges, rate in zip(self._edges, ("wer", "per"), strict=True)
            )
        self._grid[wer, per] += np.concatenate(([1, samples], numbers[[CHAR_EDITS, CHARS]], numbers[RIGHT:]))
        if group == KEPT and numbers[TOKEN_EDITS]:
            self._remember(row, truth, form, int(numbers[TOKEN_EDITS]), int(numbers[TOKENS]))

    def _form(self, text: str, language: str, beside: str = "") -> str:
        return evaluation_form(self._normaliser.spoken(text, language, beside) if self._settings.spoken else text)

    def _spaced_alike(self, truth: str, form: str, language: str) -> tuple[str, str]:
        """Both with compounds that one of them writes apart written together: business man is businessman, as said."""
        if truth == form or not self._settings.spoken or text_rules(language) not in ("en", ""):
            return truth, form
        words, heard = respace(truth.lower().split(), form.lower().split(), pronounce)
        return " ".join(words), " ".join(heard)

    def _counts_of(self, recording: str, domain: str, language: str, copilots: int) -> Counts:
        key = (recording, domain, language)
        counts = self._counts.get(key)
        if counts is None or len(counts.joint) < copilots:
            wider = Counts.zeros(copilots, len(self._settings.limits))
            if counts is not None:  # a copilot more than the clips before had
                wider.errors[: len(counts.errors)] += counts.errors
                wider.joint[: len(counts.joint)] += counts.joint
            self._counts[key] = counts = wider
        return counts

    def _remember(self, row: dict[str, Any], truth: str, label: str, edits: int, length: int) -> None:
        wrong = WrongLabel(
            100 * edits / max(length, 1), row["recording_id"], row["start"], row["clip_id"], row["domain"], truth, label
        )
        heapq.heappush(self._wrong, wrong)
        if len(self._wrong) > _WORST:
            heapq.heappop(self._wrong)

    def finish(self) -> ScoreCounts:
        if self._clips and not any(placement != "no_truth" for _, placement in self._coverage):
            raise UserError(
                f"none of the {self._truth.recordings:,} recordings of the truth file is in the run: "
                "its recording_id or path must be that of the run's ledgers ('show' prints them)"
            )
        if not self._counts:
            reasons = Counter[str]()
            for (_, placement), (clips, _) in self._coverage.items():
                reasons[placement] += int(clips)
            found = (
                ", ".join(f"{clips:,} {placement}" for placement, clips in sorted(reasons.items()))
                or "the run has none"
            )
            raise UserError(
                f"no clip can be scored by this truth file ({found}): see docs/how-to/check-label-quality.md"
            )
        copilots = max(len(counts.joint) for counts in self._counts.values())
        return ScoreCounts(
            ledgers=self._ledgers,
            by_recording={key: self._counts_of(*key, copilots=copilots) for key in sorted(self._counts)},
            coverage={key: (int(clips), int(samples)) for key, (clips, samples) in sorted(self._coverage.items())},
            engines=tuple(tuple(sorted(self._engines[index])) for index in range(1 + copilots)),
            edges=self._edges,
            grid=self._grid,
            wrong_labels=tuple(
                sorted(self._wrong, key=lambda wrong: (-wrong.error_rate, wrong.recording_id, wrong.start))
            ),
        )


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(tokens(text))


def _measure(truth: str, text: str, language: str, limits: tuple[float, ...]) -> np.ndarray:
    """Return int64 [RIGHT + limits] of one transcript: edits, lengths of the truth, and where it is right."""
    chars, heard_chars = truth.replace(" ", ""), text.replace(" ", "")
    words, heard_words = ([], []) if is_unspaced(language) else (truth.split(), text.split())
    true_tokens, heard_tokens = _tokens(truth), _tokens(text)
    edits = edit_counts(true_tokens, heard_tokens).total
    # Of an empty truth any word is wrong; whole numbers, so that 1 in 20 is within 5 %.
    right = [100 * edits <= limit * len(true_tokens) for limit in limits]
    char_edits, word_edits = edit_counts(chars, heard_chars).total, edit_counts(words, heard_words).total
    return np.array([1, char_edits, len(chars), word_edits, len(words), edits, len(true_tokens), *right], np.int64)


def _joint(asr: np.ndarray, copilot: np.ndarray, *, alike: bool) -> np.ndarray:
    """Return int64 [1 + 4 limits] of a clip that both heard."""
    first, second = 1 - asr[RIGHT:], 1 - copilot[RIGHT:]
    both = first * second
    return np.concatenate(([1], np.stack([first, second, both, both * alike], axis=-1).ravel()))
