"""What an evaluation counts: edits, right and wrong labels, events found and missed; rates and intervals follow from
counts.

    Answer ──by recording─┬─texts ──evaluation form──> tokens ──edits──> ErrorRate ──┐
                          ├─true label, answer ─────────────────────> LabelCounts ──┼──add──> of a set, of all sets
                          └─true events, answers ───────────────────> EventCounts ──┘

Counts add up over recordings and sets, so every average can be made again from them. All rates are percentages, and a
rate of nothing is None. All intervals are 95 %, over recordings, or speakers where they are known: clips of one voice
in one room are not independent of one another.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import sqrt
from typing import Any, NamedTuple, TypeVar

from model_training.evaluation.answers import Answer
from model_training.evaluation.intervals import Interval, Proportion, few, student, wilson
from operators.edits import edit_counts
from operators.text.spoken import evaluation_form, tokens, training_form

NO_ANSWER = "-"

_EVENT = re.compile(r"<event:[^>]*>")

_Key = TypeVar("_Key")


def reference_tokens(text: str, language: str | None = None) -> list[str]:
    """Return tokens as the paper scores them: Han simplified, Latin upper case, one per Han character or word.

    Events are left out. TouchASP, "Multilingual Speech Recognition". The rate over them is the character error rate of
    Chinese and the word error rate of English. A sign that is said and that this form would lose (A & B, example.com)
    is in words, as in the labels that the model was taught.
    """
    return list(_tokens(text, language))


@lru_cache(maxsize=1 << 17)
def _tokens(text: str, language: str | None) -> tuple[str, ...]:
    # A reference is asked for once a size, a method and a table.
    return tuple(tokens(evaluation_form(training_form(_EVENT.sub(" ", text), language))))


class ErrorRate(NamedTuple):
    """An ErrorRate counts edits of some recordings, with sums of e², e·n, n² (e edits in n tokens) for the interval."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    recordings: int = 0
    """Or speakers: what is independent of one another."""
    squared_edits: int = 0
    edits_by_reference: int = 0
    squared_reference: int = 0

    @classmethod
    def of(cls, reference: list[str], hypothesis: list[str]) -> ErrorRate:
        """Return the counts of one clip, as jiwer counts them."""
        edits = edit_counts(reference, hypothesis)
        return cls(edits.substitutions, edits.deletions, edits.insertions, edits.reference_length).as_one()

    def as_one(self) -> ErrorRate:
        """Return the same counts as those of one recording."""
        e, n = self.errors, self.reference
        return ErrorRate(self.substitutions, self.deletions, self.insertions, n, 1, e * e, e * n, n * n)

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
        """Return the interval of a ratio of two sums over recordings that are independent of one another.

        Cochran 1977, section 6.3, with Student's t, since recordings may be few. None below two. It is never narrower
        than if every token erred by itself, for two recordings may be alike by luck. Without any error nothing varies
        between them: the upper bound is then Wilson's over tokens.
        """
        if self.recordings < 2 or not self.reference:
            return None
        if not self.errors:
            return Proportion(0, self.reference).interval
        rate = self.errors / self.reference
        residuals = self.squared_edits - 2 * rate * self.edits_by_reference + rate * rate * self.squared_reference
        between = residuals * self.recordings / (self.recordings - 1) / self.reference**2
        spread = student(self.recordings - 1) * sqrt(max(between, rate * max(0.0, 1 - rate) / self.reference))
        return 100 * max(0.0, rate - spread), 100 * (rate + spread)


def f1(true_positives: int, false_positives: int, false_negatives: int) -> float | None:
    """Return F1 in percent; None where the label neither occurs nor is given."""
    weight = 2 * true_positives + false_positives + false_negatives
    return 200 * true_positives / weight if weight else None


Confusion = tuple[tuple[str, str, int], ...]
"""Of one recording: (true label, answer, how often), sorted."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """LabelCounts say how often each true label got each answer; where none was given, NO_ANSWER: wrong."""

    recordings: Mapping[Confusion, int] = field(default_factory=dict)
    """What was answered in a recording, and how many recordings that holds of: rates and intervals follow from it."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> LabelCounts:
        """Return the counts of one recording from (true label, answer) of each of its clips."""
        counted = tuple((truth, answer, count) for (truth, answer), count in sorted(Counter(pairs).items()))
        return cls({counted: 1} if counted else {})

    def plus(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(_sum(self.recordings, other.recordings))

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Return how often each (true label, answer) came."""
        found: Counter[tuple[str, str]] = Counter()
        for confusion, recordings in self.recordings.items():
            for truth, answer, count in confusion:
                found[truth, answer] += count * recordings
        return dict(sorted(found.items()))

    @property
    def accuracy(self) -> Proportion:
        return Proportion.over(
            (
                sum(count for truth, answer, count in confusion if truth == answer),
                sum(count for *_, count in confusion),
                recordings,
            )
            for confusion, recordings in self.recordings.items()
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels that occur in the truth."""
        return tuple(sorted({truth for truth, _ in self.counts}))

    @property
    def balanced(self) -> Balanced:
        """Return the mean over the true labels of the share that was answered rightly, with its interval.

        One answer for everything has 1 / labels, whatever is most frequent. The interval is Wilson's for what the
        recordings are worth: the mean's variance between recordings, linearised (Cochran 1977, chapter 6).
        """
        there: Counter[str] = Counter()
        for (truth, _), count in self.counts.items():
            there[truth] += count
        if not there:
            return Balanced(None, None)
        recall = {label: self.counts.get((label, label), 0) / total for label, total in there.items()}
        mean = sum(recall.values()) / len(recall)
        recordings = sum(self.recordings.values())
        if recordings < 2:
            return Balanced(100 * mean, None)
        squares = 0.0
        for confusion, count in self.recordings.items():
            shift = sum(
                ((truth == answer) - recall[truth]) * times / there[truth] for truth, answer, times in confusion
            )
            squares += count * (shift / len(recall)) ** 2
        between = squares * recordings / (recordings - 1)
        worth = mean * (1 - mean) / between * few(recordings) if between else recordings
        worth = min(worth, sum(there.values()))
        return Balanced(100 * mean, wilson(mean, worth))

    @property
    def constant(self) -> tuple[str, Proportion]:
        """Return the true label that is most frequent, and how often answering nothing else would be right. Raises
        ValueError when nothing was counted.
        """
        there: Counter[str] = Counter()
        for (truth, _), count in self.counts.items():
            there[truth] += count
        label, right = min(there.items(), key=lambda item: (-item[1], item[0]))
        return label, Proportion(right, there.total())

    def f1(self, label: str) -> float | None:
        counts = self.counts
        hits = counts.get((label, label), 0)
        given = sum(count for (_, answer), count in counts.items() if answer == label)
        there = sum(count for (truth, _), count in counts.items() if truth == label)
        return f1(hits, given - hits, there - hits)


class Balanced(NamedTuple):
    percent: float | None
    interval: Interval | None


class EventClips(NamedTuple):
    """EventClips count clips whose events are known."""

    exact: int = 0
    """clips with events, all of them found and no other."""
    with_events: int = 0
    quiet: int = 0
    """clips without an event, none given."""
    without_events: int = 0


@dataclass(frozen=True, slots=True)
class EventCounts:
    """EventCounts are of clips whose events are known; `found`, `false` and `missed` count by event."""

    recordings: Mapping[EventClips, int] = field(default_factory=dict)
    """What was counted in a recording, and how many recordings that holds of."""
    found: Mapping[str, int] = field(default_factory=dict)
    false: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, clips: Iterable[tuple[Iterable[str], Iterable[str]]]) -> EventCounts:
        """Return the counts of one recording from (true events, answered events) of each of its clips."""
        pairs = [(set(truth), set(answer)) for truth, answer in clips]
        if not pairs:
            return cls()
        total = EventClips(
            exact=sum(bool(truth) and truth == answer for truth, answer in pairs),
            with_events=sum(bool(truth) for truth, _ in pairs),
            quiet=sum(not truth and not answer for truth, answer in pairs),
            without_events=sum(not truth for truth, _ in pairs),
        )
        return cls(
            {total: 1},
            found=_count(truth & answer for truth, answer in pairs),
            false=_count(answer - truth for truth, answer in pairs),
            missed=_count(truth - answer for truth, answer in pairs),
        )

    def plus(self, other: EventCounts) -> EventCounts:
        return EventCounts(
            _sum(self.recordings, other.recordings),
            _sum(self.found, other.found),
            _sum(self.false, other.false),
            _sum(self.missed, other.missed),
        )

    @property
    def accuracy(self) -> Proportion:
        """Return the accuracy over the clips that have an event; with one event per clip, that of ESC-50."""
        return Proportion.over((each.exact, each.with_events, count) for each, count in self.recordings.items())

    @property
    def false_alarms(self) -> Proportion:
        """Return how many of the clips without an event were given one."""
        return Proportion.over(
            (each.without_events - each.quiet, each.without_events, count) for each, count in self.recordings.items()
        )

    @property
    def events(self) -> tuple[str, ...]:
        return tuple(sorted({*self.found, *self.false, *self.missed}))

    def f1(self, event: str) -> float | None:
        return f1(self.found.get(event, 0), self.false.get(event, 0), self.missed.get(event, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores hold all that is counted of some clips. Sums of two are right where no recording is in both."""

    clips: int = 0
    seconds: float = 0.0
    tokens: ErrorRate = field(default_factory=ErrorRate)
    """Over `reference_tokens`, of clips with a transcript."""
    characters: ErrorRate = field(default_factory=ErrorRate)
    """The same texts letter by letter, spaces left out."""
    attributes: Mapping[str, LabelCounts] = field(default_factory=dict)
    """language, age, gender, emotion: over clips where it is known and was asked for."""
    events: EventCounts = field(default_factory=EventCounts)

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> Scores:
        """Return what is counted of some answers: text where the reference has a word in it, an attribute where its
        truth is given, events where the clip's list of them is.
        """
        by_recording: dict[str, list[Answer]] = defaultdict(list)
        for answer in answers:
            by_recording[answer.voice].append(answer)
        total = cls()
        labels: dict[str, Counter[Confusion]] = defaultdict(Counter)  # recordings may all differ: not added one by one
        for one in map(_of_recording, by_recording.values()):
            total = total.plus(replace(one, attributes={}))
            for kind, counts in one.attributes.items():
                labels[kind].update(counts.recordings)
        return replace(total, attributes={kind: LabelCounts(dict(counts)) for kind, counts in labels.items()})

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
                    "recordings": [[count, list(map(list, each))] for each, count in sorted(counts.recordings.items())],
                    "counts": [[truth, answer, count] for (truth, answer), count in counts.counts.items()],
                    "accuracy": _proportion_dict(counts.accuracy),
                    "balanced": {"percent": counts.balanced.percent, "interval": _listed(counts.balanced.interval)},
                    "constant": {"label": counts.constant[0], "percent": counts.constant[1].percent},
                    "f1": {label: counts.f1(label) for label in counts.labels},
                }
                for kind, counts in sorted(self.attributes.items())
            },
            "events": {
                "recordings": [[count, list(each)] for each, count in sorted(self.events.recordings.items())],
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
        """Return the scores from the counts alone. Raises KeyError, TypeError or ValueError when they are not all
        there.
        """
        events = plain["events"]
        return cls(
            clips=plain["clips"],
            seconds=plain["seconds"],
            tokens=ErrorRate(**{name: plain["tokens"][name] for name in ErrorRate._fields}),
            characters=ErrorRate(**{name: plain["characters"][name] for name in ErrorRate._fields}),
            attributes={
                kind: LabelCounts(
                    {tuple((truth, answer, n) for truth, answer, n in each): count for count, each in of["recordings"]}
                )
                for kind, of in plain["attributes"].items()
            },
            events=EventCounts(
                {EventClips(*each): count for count, each in events["recordings"]},
                **{name: events[name] for name in ("found", "false", "missed")},
            ),
        )


def _of_recording(answers: Sequence[Answer]) -> Scores:
    """Return what is counted of one recording's clips."""
    tokens = characters = ErrorRate()
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for answer in answers:
        reference = reference_tokens(answer.reference or "", answer.language)
        if reference:
            hypothesis = reference_tokens(answer.hypothesis, answer.language)
            tokens = tokens.plus(ErrorRate.of(reference, hypothesis))
            characters = characters.plus(ErrorRate.of(list("".join(reference)), list("".join(hypothesis))))
        for kind, truth in answer.truths.items():
            pairs[kind].append((truth, answer.labels.get(kind, NO_ANSWER)))
    return Scores(
        clips=len(answers),
        seconds=sum(answer.seconds for answer in answers),
        tokens=tokens.as_one() if tokens.reference else tokens,
        characters=characters.as_one() if characters.reference else characters,
        attributes={kind: LabelCounts.of(of) for kind, of in pairs.items()},
        events=EventCounts.of((each.true_events, each.events) for each in answers if each.true_events is not None),
    )


def _rate_dict(rate: ErrorRate) -> dict[str, Any]:
    return rate._asdict() | {"percent": rate.percent, "interval": _listed(rate.interval)}


def _proportion_dict(share: Proportion) -> dict[str, Any]:
    return share._asdict() | {"percent": share.percent, "interval": _listed(share.interval)}


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _count(sets: Iterable[set[str]]) -> dict[str, int]:
    return dict(Counter(event for each in sets for event in sorted(each)))


def _sum(one: Mapping[_Key, int], other: Mapping[_Key, int]) -> dict[_Key, int]:
    return dict(Counter(one) + Counter(other))
