"""Retention: where every sample of the input went, folded from ledgers.

    ledgers ──a few at a time──> numbers of that batch ──merge──> Retention ──> report.json, terminal, report.html

A ledger's rows tile the input, so accounting is a sum over rows and merging is addition: folds of disjoint sets of ledgers may
run anywhere and meet in any order. All work on rows is columnar. What is held does not grow with the rows: counts, histograms on
fixed edges, and a few *addresses* of example clips per domain and reason, chosen by hash. It does grow by 8-byte hashes, one per
partly or wholly unreadable file, because a recording cut over several units must still count as one file.

Only `FOLD_COLUMNS` of a ledger are read; texts stay on disk until an example is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.clip import SAMPLE_RATE
from operators.shard import OUTCOMES
from pipeline.histograms import Distributions, distributions_by

FOLD_COLUMNS = (
    "unit_id", "domain", "recording_id", "uri", "start", "end", "outcome", "stage", "reason", "speech_samples", "language",
    "wer", "per", "tokens_per_second",
)  # fmt: skip
"""What `fold` needs of a ledger: read no more, and a million hours is gigabytes instead of terabytes."""

TOO_SHORT = "too_short"
AGREEMENT_REASONS = ("wer", "per", "wer_and_per")
"""Reasons that a change of the two thresholds can undo."""

EXAMPLES_PER_REASON = 4
EASY_LISTENING_SECONDS = 12
_BATCH_ROWS = 1 << 15


class ConservationError(AssertionError):
    """Samples were lost or counted twice: input differs from kept + rejected + non-speech + unreadable."""


class Amount(NamedTuple):
    """How much: samples at 16 kHz, clips (or stretches), and the samples that the VAD called speech."""

    samples: int = 0
    clips: int = 0
    voiced: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.samples + other.samples, self.clips + other.clips, self.voiced + other.voiced)


Cause = tuple[str, str]
"""(stage, reason) of a rejection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Where an example clip is found again: its ledger and its span. Ordered by rank, a hash of recording and start."""

    rank: int
    unit_id: str
    domain: str
    recording_id: str
    start: int
    end: int
    outcome: str
    stage: str = ""
    reason: str = ""

    @property
    def order(self) -> tuple[int, str, int]:
        return self.rank, self.recording_id, self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The account of one domain, or of all. Amounts of time are integer samples at 16 kHz.

    `input` is measured apart from the outcomes: the stretch that each recording spans in each ledger, first start to last end.
    A gap or an overlap between rows therefore shows as a `difference`.
    """

    input: int = 0
    kept: Amount = Amount()
    rejected: Mapping[Cause, Amount] = field(default_factory=dict)
    non_speech: int = 0
    unreadable: Mapping[Cause, int] = field(default_factory=dict)
    recordings: int = 0
    unread_in_plan: Mapping[Cause, int] = field(default_factory=dict)
    """files the plan already refused; one row each, however often the same name comes."""
    unread_hashes: Mapping[Cause, frozenset[int]] = field(default_factory=dict)
    """of the other files that could not be read, in part or whole."""
    distributions: Distributions = field(default_factory=Distributions)

    @property
    def rejected_total(self) -> Amount:
        return reduce(Amount.plus, self.rejected.values(), Amount())

    @property
    def unreadable_total(self) -> int:
        return sum(self.unreadable.values())

    @property
    def speech(self) -> int:
        """Samples of all clips, those too short included."""
        return self.kept.samples + self.rejected_total.samples

    @property
    def clipped(self) -> int:
        """Samples of clips of 2-30 s: what the recognisers could hear."""
        return self.speech - sum(amount.samples for (_, reason), amount in self.rejected.items() if reason == TOO_SHORT)

    @property
    def difference(self) -> int:
        """input - accounted: positive when samples were lost, negative when some were counted twice."""
        return self.input - self.kept.samples - self.rejected_total.samples - self.non_speech - self.unreadable_total

    @property
    def retention(self) -> float | None:
        """Kept time in percent of the input; None without input."""
        return 100 * self.kept.samples / self.input if self.input else None

    @property
    def unreadable_files(self) -> dict[Cause, int]:
        """Files by cause; a file that fails for two causes is in both."""
        causes = sorted({*self.unread_in_plan, *self.unread_hashes})
        return {cause: self.unread_in_plan.get(cause, 0) + len(self.unread_hashes.get(cause, ())) for cause in causes}

    @property
    def unreadable_files_total(self) -> int:
        return sum(self.unread_in_plan.values()) + len(frozenset().union(*self.unread_hashes.values()))

    def plus(self, other: Tally) -> Tally:
        return Tally(
            input=self.input + other.input,
            kept=self.kept.plus(other.kept),
            rejected=_add(self.rejected, other.rejected, Amount.plus),
            non_speech=self.non_speech + other.non_speech,
            unreadable=_add(self.unreadable, other.unreadable, int.__add__),
            recordings=self.recordings + other.recordings,
            unread_in_plan=_add(self.unread_in_plan, other.unread_in_plan, int.__add__),
            unread_hashes=_add(self.unread_hashes, other.unread_hashes, frozenset.union),
            distributions=self.distributions.plus(other.distributions),
        )

    def to_json(self) -> dict[str, Any]:
        files = self.unreadable_files
        return {
            "recordings": self.recordings,
            "input": _time(self.input),
            "speech": _time(self.speech),
            "clips_2_30_s": _time(self.clipped),
            "kept": _time(self.kept.samples) | {"clips": self.kept.clips, "voiced_samples": self.kept.voiced},
            "retention_percent": self.retention,
            "retention_of_clips_percent": 100 * self.kept.samples / self.clipped if self.clipped else None,
            "rejected": [
                {"stage": stage, "reason": reason, "clips": amount.clips} | _time(amount.samples)
                for (stage, reason), amount in sorted(self.rejected.items())
            ],
            "non_speech": _time(self.non_speech),
            "unreadable": [
                {"stage": stage, "reason": reason, "files": count} | _time(self.unreadable.get((stage, reason), 0))
                for (stage, reason), count in files.items()
            ],
            "unreadable_files": self.unreadable_files_total,
            "identity": {
                "input": self.input,
                "kept": self.kept.samples,
                "rejected": self.rejected_total.samples,
                "non_speech": self.non_speech,
                "unreadable": self.unreadable_total,
                "difference": self.difference,
            },
            "distributions": self.distributions.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The account of a run: per domain, in all, and the distributions per language."""

    ledgers: int = 0
    domains: Mapping[str, Tally] = field(default_factory=dict)
    languages: Mapping[str, Distributions] = field(default_factory=dict)
    """by language of the clip; "" for clips rejected before a language was known."""
    examples: tuple[Example, ...] = ()
    """up to EXAMPLES_PER_REASON per domain, kept or by cause of rejection; clips of at most 12 s are preferred."""

    @property
    def total(self) -> Tally:
        return reduce(Tally.plus, self.domains.values(), Tally())

    def assert_conserved(self) -> None:
        """Raise ConservationError naming the domain and the difference unless every sample is accounted for once."""
        for domain, tally in sorted(self.domains.items()):
            if tally.difference:
                what = "unaccounted for" if tally.difference > 0 else "counted twice"
                raise ConservationError(
                    f"domain {domain!r}: {abs(tally.difference)} samples {what} "
                    f"(input {tally.input}, kept {tally.kept.samples}, rejected {tally.rejected_total.samples}, "
                    f"non-speech {tally.non_speech}, unreadable {tally.unreadable_total})"
                )

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values; the schema is in pipeline/report.py."""
        return {
            "sample_rate": SAMPLE_RATE,
            "ledgers": self.ledgers,
            "total": self.total.to_json(),
            "domains": [{"domain": name} | tally.to_json() for name, tally in sorted(self.domains.items())],
            "languages": [
                {"language": name or None, "distributions": found.to_json()} for name, found in sorted(self.languages.items())
            ],
        }


def merge(a: Retention, b: Retention) -> Retention:
    """The account of two disjoint sets of ledgers; associative and commutative."""
    return Retention(
        ledgers=a.ledgers + b.ledgers,
        domains=_add(a.domains, b.domains, Tally.plus),
        languages=_add(a.languages, b.languages, Distributions.plus),
        examples=_choose([*a.examples, *b.examples]),
    )


def fold(tables: Iterable[pa.Table]) -> Retention:
    """The account of a stream of ledgers (LEDGER_SCHEMA, or only its FOLD_COLUMNS), each table one whole ledger.

    Raises ValueError for a row that no honest writer makes: an outcome outside the list, a negative length, no reason.
    """
    return reduce(merge, map(_fold_batch, _batches(tables)), Retention())


def _batches(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    # A ledger has some hundred rows: folding a few dozen at once shares the fixed cost of every columnar call.
    batch: list[pa.Table] = []
    rows = 0
    for table in tables:
        batch.append(table.select(FOLD_COLUMNS))
        rows += table.num_rows
        if rows >= _BATCH_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _fold_batch(ledgers: list[pa.Table]) -> Retention:
    table = pa.concat_tables(ledgers).combine_chunks()
    _check(table)
    table = table.append_column("samples", pc.subtract(table["end"], table["start"]))
    refused = pc.and_(pc.equal(table["outcome"], "unreadable"), pc.equal(pc.fill_null(table["stage"], ""), "plan"))
    tallies: dict[str, Tally] = {}

    def count(domain: str | None, **changes: Any) -> None:
        tallies[domain or ""] = tallies.get(domain or "", Tally()).plus(Tally(**changes))

    # Extents, not sums: input is measured apart from the outcomes. A file refused in the plan may carry a name already taken.
    for row in _groups(table.filter(pc.invert(refused)), "unit_id", "domain", "recording_id", "uri").extents():
        count(row["domain"], **row["changes"])
    for row in _rows(table.filter(refused), ["domain", "stage", "reason"], [("samples", "sum"), ("start", "count")]):
        cause = (row["stage"], row["reason"])
        count(row["domain"], input=row["samples_sum"], recordings=row["start_count"], unread_in_plan={cause: row["start_count"]})
    return Retention()
