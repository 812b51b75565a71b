"""Which language does a recording speak? Clips vote, and a doubtful clip that says otherwise is overruled.

    clips of a unit ──by recording──> votes: seconds of each language ──more than half──> majority
                                      unsure, and of another language ──> heard again in the majority's language

A language is identified from a few seconds, so a short or noisy clip, or a child's, is easily taken for another, and
then transcribed in that one's script. Recordings in which people do switch between languages are safe: a clip that is
sure of its language stays, whatever the others say. Pure functions: the same clips give the same answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """A Ballot is what is known of the language of one clip."""

    recording: str
    samples: int
    """of the clip: its weight."""
    language: str | None
    """as identified, None where nothing was."""
    probability: float | None
    """that the language was identified with, 0 to 1; None: the engine gives none."""
    votes: bool = True
    """False for a clip whose transcript is not to be trusted: it may be overruled, and overrules nobody."""


def overruled(ballots: Sequence[Ballot], sure: float) -> dict[int, str]:
    """Return the places of the clips that are to be heard again, each with the language of its recording.

    Of a recording that is the language of more than half the samples that vote; without one nobody is overruled. A clip
    of another language gives way when its probability is below `sure`; one without a probability is left alone.
    """
    votes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for ballot in ballots:
        if ballot.votes and ballot.language is not None:
            votes[ballot.recording][ballot.language] += ballot.samples
    majority = {recording: _majority(weights) for recording, weights in votes.items()}
    found: dict[int, str] = {}
    for index, ballot in enumerate(ballots):
        language = majority.get(ballot.recording)
        doubtful = ballot.probability is not None and ballot.probability < sure
        if language is not None and doubtful and ballot.language not in (None, language):
            found[index] = language
    return found


def _majority(weights: dict[str, int]) -> str | None:
    total = sum(weights.values())
    return next((language for language, weight in weights.items() if 2 * weight > total), None)
