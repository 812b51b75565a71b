"""The hand-checked clips of a run, by language, as numbers: what a calibration is fitted to.

ledgers, truth ──placed clips (pipeline/score/clips.py)──> evidence, errors of the label, recording ──> LanguageSample
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.agreement import AgreementRule
from operators.confidence import EVIDENCE, evidence
from operators.edits import edit_counts
from operators.language import canonical
from operators.text.spoken import Normaliser, evaluation_form
from pipeline.score.clips import SCORE_COLUMNS, Labels, agreement, hypotheses, placed_clips, recordings_with_truth
from pipeline.score.truth import Tolerance, Truth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LanguageSample:
    """A LanguageSample holds the clips of one language that the agreement rule decided and truth can score.

    Clips are sorted by recording, then by start; so nothing depends on the order of ledgers.
    """

    recordings: tuple[str, ...]
    """names, sorted."""
    place: np.ndarray
    """int64 [clips]: of each clip's recording among the names."""
    evidence: np.ndarray
    """float64 [clips, EVIDENCE]."""
    edits: np.ndarray
    """int64 [clips]: character edits of the label, kept or not, against the truth, both as they are said aloud."""
    characters: np.ndarray
    """int64 [clips]: of the truth, without spaces."""
    samples: np.ndarray
    """int64 [clips]."""
    within: np.ndarray
    """bool [clips]: whether WER and PER are within the run's limits; the others serve to fit, and are never kept."""

    def right(self, percent: float) -> np.ndarray:
        """Return where the label is right: a character error rate of at most `percent`. bool [clips]."""
        return np.asarray(100 * self.edits <= percent * self.characters)


def collect(
    tables: Iterable[pa.Table], truth: Truth, tolerance: Tolerance, rule: AgreementRule, normaliser: Normaliser
) -> dict[str, LanguageSample]:
    """Return the samples of each language that clips of the run have, "" where none is known; also empty ones.

    rule, normaliser: the run's own. Raises UserError where the truth fits two recordings.
    """
    labels = Labels(rule, normaliser)
    found: dict[str, list[tuple[str, int, list[float], int, int, int, bool]]] = defaultdict(list)
    for ledger in tables:
        table = ledger.select(SCORE_COLUMNS)
        clips = table.filter(pc.is_in(table["outcome"], pa.array(["kept", "rejected"])))
        for language in pc.unique(clips.filter(pc.equal(clips["outcome"], "kept"))["language"]).to_pylist():
            found[canonical(language) or ""] += []
        for clip in placed_clips(table, recordings_with_truth(clips, truth), tolerance):
            row = clip.row
            label = labels.label(row, heard := hypotheses(row)) if clip.placement == "scored" else None
            if label is None:
                continue
            said, written = (
                evaluation_form(normaliser.spoken(text, clip.language)).replace(" ", "") for text in (clip.truth, label)
            )
            known = evidence(agreement(row), heard)
            # By the language that the verdict is given in, which is the clip's own.
            found[canonical(row["language"]) or ""].append(
                (
                    row["recording_id"],
                    row["start"],
                    [known[name] for name in EVIDENCE],
                    edit_counts(said, written).total,
                    len(said),
                    clip.span.samples,
                    labels.within_limits(row),
                )
            )
    return {language: _sample(clips) for language, clips in sorted(found.items())}


def _sample(clips: list[tuple[str, int, list[float], int, int, int, bool]]) -> LanguageSample:
    clips = sorted(clips, key=lambda clip: clip[:2])
    names = sorted({clip[0] for clip in clips})
    at = {name: place for place, name in enumerate(names)}
    return LanguageSample(
        recordings=tuple(names),
        place=np.array([at[clip[0]] for clip in clips], np.int64),
        evidence=np.array([clip[2] for clip in clips], np.float64).reshape(len(clips), len(EVIDENCE)),
        edits=np.array([clip[3] for clip in clips], np.int64),
        characters=np.array([clip[4] for clip in clips], np.int64),
        samples=np.array([clip[5] for clip in clips], np.int64),
        within=np.array([clip[6] for clip in clips], bool),
    )
