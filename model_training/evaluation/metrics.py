"""What an evaluation counts: edits, right and wrong labels, events found and missed; rates and intervals follow from
counts.

    reference, hypothesis ──evaluation form──> tokens ──edits──> ErrorRate ──┐
    true label, answer ─────────────────────────────────────> LabelCounts ──┼──add──> of a set, of all sets
    true events, answers ───────────────────────────────────> EventCounts ──┘

Counts add up over clips and sets, so every average can be made again from them. All rates are percentages, all
intervals are 95 %, and a rate of nothing is None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, NamedTuple

from operators.edits import edit_counts
from operators.text.spoken import evaluation_form, tokens, training_form

Z = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""
NO_ANSWER = "-"

_EVENT = re.compile(r"<event:[^>]*>")

Interval = tuple[float, float]


def reference_tokens(text: str, language: str | None = None) -> list[str]:
    """Return tokens as the paper scores them: Han simplified, Latin upper case, one per Han character or word.

    Events are left out. TouchASP, "Multilingual Speech Recognition". The rate over them is the character error rate of
    Chinese and the word error rate of English. A sign that is said and that this form would lose (A & B, example.com)
    is in words, as in the labels that the model was taught.
    """
    return tokens(evaluation_form(training_form(_EVENT.sub(" ", text), language)))


class ErrorRate(NamedTuple):
    """An ErrorRate counts edits of some clips, with sums of e², e·n, n² (e edits in n tokens) for the interval."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    clips: int = 0
    squared_edits: int = 0
    edits_by_reference: int = 0
    squared_reference: int = 0

    @classmethod
    def of(cls, reference: list[str], hypothesis: list[str]) -> ErrorRate:
        """Return the counts of one clip, as jiwer counts them."""
        edits = edit_counts(reference, hypothesis)
        e, n = edits.total, edits.reference_length
        return cls(edits.substitutions, edits.deletions, edits.insertions, n, 1, e * e, e * n, n * n)

    def plus(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def percent(self) -> float | None:
        return 100 * self.errors / self.reference if self.reference else None

    @property
    def interval(self) -> Interval | None:
        """Return the interval of a ratio of two sums over clips that are independent of one another.

        Cochran 1977, section 6.3. Clips of one speaker are not, so a set of few speakers deserves a wider one. None
        below two clips. Without any error nothing varies between clips: the upper bound is then Wilson's over tokens.
        """
        if self.clips < 2 or not self.reference:
            return None
        if not self.errors:
            return Proportion(0, self.reference).interval
        rate = self.errors / self.reference
        residuals = self.squared_edits - 2 * rate * self.edits_by_reference + rate * rate * self.squared_reference
        spread = sqrt(max(residuals, 0.0) * self.clips / (self.clips - 1)) / self.reference
        return 100 * max(0.0, rate - Z * spread), 100 * (rate + Z * spread)


class Proportion(NamedTuple):
    right: int
    total: int

    @property
    def percent(self) -> float | None:
        return 100 * self.right / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """Return Wilson's interval of 1927: sound for few clips and for rates near 0 and 100."""
        if not self.total:
            return None
        share, n = self.right / self.total, self.total
        centre = share + Z * Z / (2 * n)
        spread = Z * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
        low, high = ((centre + sign * spread) / (1 + Z * Z / n) for sign in (-1, 1))
        # Rounding must not push the bounds past what they bound.
        return 100 * max(0.0, min(low, share)), 100 * min(1.0, max(high, share))


def f1(true_positives: int, false_positives: int, false_negatives: int) -> float | None:
    """Return F1 in percent; None where the label neither occurs nor is given."""
    weight = 2 * true_positives + false_positives + false_negatives
    return 200 * true_positives / weight if weight else None


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """LabelCounts say how often each true label got each answer; where the model gave none, NO_ANSWER: wrong."""

    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def plus(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(_sum(self.counts, other.counts))

    @property
    def accuracy(self) -> Proportion:
        right = sum(count for (truth, answer), count in self.counts.items() if truth == answer)
        return Proportion(right, sum(self.counts.values()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels that occur in the truth."""
        return tuple(sorted({truth for truth, _ in self.counts}))

    def f1(self, label: str) -> float | None:
        hits = self.counts.get((label, label), 0)
        given = sum(count for (_, answer), count in self.counts.items() if answer == label)
        there = sum(count for (truth, _), count in self.counts.items() if truth == label)
        return f1(hits, given - hits, there - hits)


@dataclass(frozen=True, slots=True)
class EventCounts:
    """EventCounts are of clips whose events are known; `found`, `false` and `missed` count by event."""

    exact: int = 0
    """clips with events, all of them found and no other."""
    with_events: int = 0
    quiet: int = 0
    """clips without an event, none given."""
    without_events: int = 0
    found: Mapping[str, int] = field(default_factory=dict)
    false: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, truth: Iterable[str], answer: Iterable[str]) -> EventCounts:
        """Return the counts of one clip."""
        truth, answer = set(truth), set(answer)
        return cls(
            exact=int(bool(truth) and truth == answer),
            with_events=int(bool(truth)),
            quiet=int(not truth and not answer),
            without_events=int(not truth),
            found=dict.fromkeys(sorted(truth & answer), 1),
            false=dict.fromkeys(sorted(answer - truth), 1),
            missed=dict.fromkeys(sorted(truth - answer), 1),
        )

    def plus(self, other: EventCounts) -> EventCounts:
        return EventCounts(
            self.exact + other.exact,
            self.with_events + other.with_events,
            self.quiet + other.quiet,
            self.without_events + other.without_events,
            _sum(self.found, other.found),
            _sum(self.false, other.false),
            _sum(self.missed, other.missed),
        )

    @property
    def accuracy(self) -> Proportion:
        """Return the accuracy over the clips that have an event; with one event per clip, that of ESC-50."""
        return Proportion(self.exact, self.with_events)

    @property
    def false_alarms(self) -> Proportion:
        """Return how many of the clips without an event were given one."""
        return Proportion(self.without_events - self.quiet, self.without_events)

    @property
    def events(self) -> tuple[str, ...]:
        return tuple(sorted({*self.found, *self.false, *self.missed}))

    def f1(self, event: str) -> float | None:
        return f1(self.found.get(event, 0), self.false.get(event, 0), self.missed.get(event, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores hold all that is counted of some clips."""

    clips: int = 0
    seconds: float = 0.0
    tokens: ErrorRate = field(default_factory=ErrorRate)
    """Over `reference_tokens`, of clips with a transcript."""
    characters: ErrorRate = field(default_factory=ErrorRate)
    """The same texts letter by letter, spaces left out."""
    attributes: Mapping[str, LabelCounts] = field(default_factory=dict)
    """language, age, gender, emotion: over clips where it is known and was asked for."""
    events: EventCounts = field(default_factory=EventCounts)

    def plus(self, other: Scores) -> Scores:
        attributes = dict(self.attributes)
        for kind, counts in other.attributes.items():
            attributes[kind] = attributes.get(kind, LabelCounts()).plus(counts)
        return Scores(
            clips=self.clips + other.clips,
            seconds=self.seconds + other.seconds,
            tokens=self.tokens.plus(other.tokens),
            characters=self.characters.plus(other.characters),
            attributes=attributes,
            events=self.events.plus(other.events),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return counts, and the rates and intervals that follow from them."""
        return {
            "clips": self.clips,
            "seconds": round(self.seconds, 3),
            "tokens": _rate_dict(self.tokens),
            "characters": _rate_dict(self.characters),
            "attributes": {
                kind: {
                    "counts": [[truth, answer, count] for (truth, answer), count in sorted(counts.counts.items())],
                    "accuracy": _proportion_dict(counts.accuracy),
                    "f1": {label: counts.f1(label) for label in counts.labels},
                }
                for kind, counts in sorted(self.attributes.items())
            },
            "events": {
                "exact": self.events.exact,
                "with_events": self.events.with_events,
                "quiet": self.events.quiet,
                "without_events": self.events.without_events,
                "found": dict(sorted(self.events.found.items())),
                "false": dict(sorted(self.events.false.items())),
                "missed": dict(sorted(self.events.missed.items())),
                "accuracy": _proportion_dict(self.events.accuracy),
                "false_alarms": _proportion_dict(self.events.false_alarms),
                "f1": {event: self.events.f1(event) for event in self.events.events},
            },
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Scores:
        """Return the scores from the counts alone. Raises KeyError or TypeError when they are not all there."""
        events = plain["events"]
        return cls(
            clips=plain["clips"],
            seconds=plain["seconds"],
            tokens=ErrorRate(**{name: plain["tokens"][name] for name in ErrorRate._fields}),
            characters=ErrorRate(**{name: plain["characters"][name] for name in ErrorRate._fields}),
            attributes={
                kind: LabelCounts({(truth, answer): count for truth, answer, count in counts["counts"]})
                for kind, counts in plain["attributes"].items()
            },
            events=EventCounts(**{name: events[name] for name in EventCounts.__dataclass_fields__}),
        )


def _rate_dict(rate: ErrorRate) -> dict[str, Any]:
    return rate._asdict() | {"percent": rate.percent, "interval": rate.interval and list(rate.interval)}


def _proportion_dict(share: Proportion) -> dict[str, Any]:
    return share._asdict() | {"percent": share.percent, "interval": share.interval and list(share.interval)}


def _sum(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return dict(Counter(one) + Counter(other))
