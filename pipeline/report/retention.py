"""Retention: where every sample of the input went, folded from ledgers.

    ledgers ──a few at a time──> numbers of that batch ──merge──> Retention ──> report.json, terminal, report.html

A ledger's rows tile the input, so accounting is a sum over rows and merging is addition: folds of disjoint sets of
ledgers may run anywhere and meet in any order. All work on rows is columnar. What is held does not grow with the rows:
counts, histograms on fixed edges, and a few *addresses* of example clips per domain and reason, chosen by hash. It does
grow by 8-byte hashes, one per partly or wholly unreadable file, because a recording cut over several units must still
count as one file.

Only `FOLD_COLUMNS` of a ledger are read, of an annotated run `ANNOTATION_COLUMNS` too; texts stay on disk until an
example is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.agreement import AgreementRule
from operators.clip import SAMPLE_RATE
from operators.shard import OUTCOMES
from pipeline.report.annotations import ANNOTATION_COLUMNS, Annotations, annotations_by
from pipeline.report.columns import codes
from pipeline.report.examples import Example, candidates, choose, name_hash
from pipeline.report.histograms import ClipColumns, Distributions, distributions_by

FOLD_COLUMNS = (
    "unit_id", "domain", "recording_id", "uri", "start", "end", "outcome", "stage", "reason", "speech_samples",
    "language", "wer", "per", "tokens_per_second", "numbers_agree",
)  # fmt: skip
"""What `fold` needs of a ledger: read no more, and a million hours is gigabytes instead of terabytes."""

TOO_SHORT = "too_short"
THRESHOLD_REASONS = ("wer", "per", "wer_and_per")
"""Reasons that a change of the two thresholds can undo."""
AGREEMENT_REASONS = (*THRESHOLD_REASONS, "numbers")
"""Reasons why two transcripts disagree."""

_BATCH_ROWS = 1 << 15


class ConservationError(AssertionError):
    """Samples were lost or counted twice: input differs from kept + rejected + non-speech + unreadable."""


class Amount(NamedTuple):
    """An Amount is samples at 16 kHz, clips (or stretches), and the samples that the VAD called speech."""

    samples: int = 0
    clips: int = 0
    voiced: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.samples + other.samples, self.clips + other.clips, self.voiced + other.voiced)


Cause = tuple[str, str]
"""(stage, reason) of a rejection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """A Tally is the account of one domain, or of all. Amounts of time are integer samples at 16 kHz.

    `input` is measured apart from the outcomes: the stretch that each recording spans in each ledger, first start to
    last end. A gap or an overlap between rows therefore shows as a `difference`.
    """

    input: int = 0
    kept: Amount = field(default_factory=Amount)
    rejected: Mapping[Cause, Amount] = field(default_factory=dict)
    non_speech: int = 0
    unreadable: Mapping[Cause, int] = field(default_factory=dict)
    recordings: int = 0
    unread_in_plan: Mapping[Cause, int] = field(default_factory=dict)
    """files the plan already refused; one row each, however often the same name comes."""
    unread_hashes: Mapping[Cause, frozenset[int]] = field(default_factory=dict)
    """of the other files that could not be read, in part or whole."""
    distributions: Distributions | None = None
    """None where no clip was found."""

    @property
    def rejected_total(self) -> Amount:
        return reduce(Amount.plus, self.rejected.values(), Amount())

    @property
    def unreadable_total(self) -> int:
        return sum(self.unreadable.values())

    @property
    def speech(self) -> int:
        """Return the samples of all clips, those too short included."""
        return self.kept.samples + self.rejected_total.samples

    @property
    def clipped(self) -> int:
        """Return the samples of clips of 2-30 s: what the recognisers could hear."""
        return self.speech - sum(amount.samples for (_, reason), amount in self.rejected.items() if reason == TOO_SHORT)

    @property
    def difference(self) -> int:
        """Return input - accounted: positive when samples were lost, negative when some were counted twice."""
        return self.input - self.kept.samples - self.rejected_total.samples - self.non_speech - self.unreadable_total

    @property
    def retention(self) -> float | None:
        """Return the time kept in percent of the input; None without input."""
        return 100 * self.kept.samples / self.input if self.input else None

    @property
    def unreadable_files(self) -> dict[Cause, int]:
        """Return the number of files by cause; a file that fails for two causes is in both."""
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
            distributions=_both(self.distributions, other.distributions),
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
            "distributions": (self.distributions or Distributions()).to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Retention is the account of a run: per domain, in all, and the distributions per language."""

    ledgers: int = 0
    domains: Mapping[str, Tally] = field(default_factory=dict)
    languages: Mapping[str, Distributions] = field(default_factory=dict)
    """by language of the clip; "" for clips rejected before a language was known."""
    annotations: Mapping[str, Annotations] = field(default_factory=dict)
    """by domain; empty where nothing was annotated, or where its columns were not read."""
    examples: tuple[Example, ...] = ()
    """up to EXAMPLES_PER_REASON for each domain and outcome and, of rejected clips, cause."""

    @property
    def total(self) -> Tally:
        return reduce(Tally.plus, self.domains.values(), Tally())

    @property
    def annotated(self) -> Annotations:
        """Return the annotations of all domains together."""
        return reduce(Annotations.plus, self.annotations.values(), Annotations())

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
        """Return the numbers as plain JSON values; the schema is in pipeline/report/write.py."""
        return {
            "sample_rate": SAMPLE_RATE,
            "ledgers": self.ledgers,
            "total": self.total.to_json(),
            "domains": [{"domain": name} | tally.to_json() for name, tally in sorted(self.domains.items())],
            "languages": [
                {"language": name or None, "distributions": found.to_json()}
                for name, found in sorted(self.languages.items())
            ],
            "annotations": {
                "total": self.annotated.to_json(),
                "domains": [{"domain": name} | found.to_json() for name, found in sorted(self.annotations.items())],
            }
            if self.annotations
            else None,
        }


def merge(a: Retention, b: Retention) -> Retention:
    """Return the account of two disjoint sets of ledgers; associative and commutative."""
    return Retention(
        ledgers=a.ledgers + b.ledgers,
        domains=_add(a.domains, b.domains, Tally.plus),
        languages=_add(a.languages, b.languages, Distributions.plus),
        annotations=_add(a.annotations, b.annotations, Annotations.plus),
        examples=choose([*a.examples, *b.examples]),
    )


def fold(tables: Iterable[pa.Table], rule: AgreementRule | None = None) -> Retention:
    """Return the account of a stream of ledgers (LEDGER_SCHEMA, or only its FOLD_COLUMNS), each table one whole ledger.

    Attributes and quality are in it where ANNOTATION_COLUMNS are there.

    `rule` is the run's: where its numbers are strict no limit brings back a clip whose transcripts hold different ones.
    Raises ValueError for a row that no honest writer makes: an outcome outside the list, a negative length, no reason.
    """
    strict = (rule or AgreementRule()).numbers == "strict"
    return reduce(merge, (_fold_batch(batch, strict) for batch in _batches(tables)), Retention())


def _batches(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    # A ledger has some hundred rows: folding a few dozen at once shares the fixed cost of every columnar call.
    batch: list[pa.Table] = []
    rows = 0
    for table in tables:
        more = [name for name in ANNOTATION_COLUMNS if name in table.column_names]
        batch.append(table.select([*FOLD_COLUMNS, *more]))
        rows += table.num_rows
        if rows >= _BATCH_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _fold_batch(ledgers: list[pa.Table], strict: bool) -> Retention:
    table = _plain(pa.concat_tables(ledgers))
    outcome = table["outcome"]
    refused = pc.and_(pc.equal(outcome, "unreadable"), pc.equal(table["stage"], "plan"))
    accounts = [
        *_inputs(table.filter(pc.invert(refused))),
        *_refusals(table.filter(refused)),
        *_unread(table.filter(pc.and_not(pc.equal(outcome, "unreadable"), refused))),
        *_outcomes(table),
    ]
    domains: dict[str, Tally] = {}
    for domain, account in accounts:
        domains[domain] = domains[domain].plus(account) if domain in domains else account
    clips = table.filter(pc.is_in(outcome, pa.array(["kept", "rejected"])))
    by_domain, by_language = (_distributions(clips, by, strict) for by in ("domain", "language"))
    return Retention(
        ledgers=len(ledgers),
        domains={domain: replace(tally, distributions=by_domain.get(domain)) for domain, tally in domains.items()},
        languages=by_language,
        annotations=annotations_by(clips, "domain") if "opinions" in clips.column_names else {},
        examples=choose(candidates(clips)),
    )


def _plain(table: pa.Table) -> pa.Table:
    """Return the table in one chunk, texts as plain strings with null as "", with a column `samples`.

    Raises ValueError when it lies.
    """
    texts = ("unit_id", "domain", "recording_id", "uri", "outcome", "stage", "reason", "language")
    for name in texts:
        column = pc.fill_null(pc.cast(table[name], pa.string()), "")
        table = table.set_column(table.schema.get_field_index(name), name, column)
    table = table.append_column("samples", pc.subtract(table["end"], table["start"])).combine_chunks()
    unknown = pc.invert(pc.is_in(table["outcome"], pa.array(OUTCOMES)))
    backward = pc.or_(pc.less(table["samples"], 0), pc.less(table["start"], 0))
    dropped = pc.is_in(table["outcome"], pa.array(["rejected", "unreadable"]))
    silent = pc.and_(dropped, pc.equal(table["reason"], ""))
    for wrong, what in ((unknown, "an unknown outcome"), (backward, "a backward span"), (silent, "no reason")):
        if pc.any(wrong).as_py():
            row = table.filter(wrong).slice(0, 1).to_pylist()[0]
            raise ValueError(f"ledger of unit {row['unit_id']!r} has a row with {what}: {row}")
    return table


def _rows(table: pa.Table, keys: list[str], sums: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return table.group_by(keys, use_threads=False).aggregate(sums).to_pylist()


def _inputs(table: pa.Table) -> Iterator[tuple[str, Tally]]:
    """Yield input per domain as the extent of each recording in each ledger, measured apart from the outcomes."""
    extents = table.group_by(["unit_id", "domain", "recording_id", "uri"], use_threads=False).aggregate(
        [("start", "min"), ("end", "max")]
    )
    extents = extents.append_column("samples", pc.subtract(extents["end_max"], extents["start_min"]))
    # A recording is cut into pieces of several units; it counts where its first sample is.
    extents = extents.append_column("first", pc.cast(pc.equal(extents["start_min"], 0), pa.int64()))
    for row in _rows(extents, ["domain"], [("samples", "sum"), ("first", "sum")]):
        yield row["domain"], Tally(input=row["samples_sum"], recordings=row["first_sum"])


def _refusals(table: pa.Table) -> Iterator[tuple[str, Tally]]:
    """Yield files that the plan refused: a row is a file, whose name may be one that is already taken (a duplicate)."""
    table = table.append_column("first", pc.cast(pc.equal(table["start"], 0), pa.int64()))
    for row in _rows(table, ["domain", "stage", "reason"], [("samples", "sum"), ("first", "sum")]):
        files = row["first_sum"]
        refused = {(row["stage"], row["reason"]): files}
        yield row["domain"], Tally(input=row["samples_sum"], recordings=files, unread_in_plan=refused)


def _unread(table: pa.Table) -> Iterator[tuple[str, Tally]]:
    for row in _rows(table, ["domain", "stage", "reason", "recording_id", "uri"], []):
        name = name_hash(row["domain"], row["recording_id"], row["uri"])
        yield row["domain"], Tally(unread_hashes={(row["stage"], row["reason"]): frozenset([name])})


def _outcomes(table: pa.Table) -> Iterator[tuple[str, Tally]]:
    keys = ["domain", "outcome", "stage", "reason"]
    for row in _rows(table, keys, [("samples", "sum"), ("samples", "count"), ("speech_samples", "sum")]):
        amount = Amount(row["samples_sum"], row["samples_count"], row["speech_samples_sum"] or 0)
        cause = (row["stage"], row["reason"])
        match row["outcome"]:
            case "kept":
                yield row["domain"], Tally(kept=amount)
            case "rejected":
                yield row["domain"], Tally(rejected={cause: amount})
            case "non_speech":
                yield row["domain"], Tally(non_speech=amount.samples)
            case "unreadable":
                yield row["domain"], Tally(unreadable={cause: amount.samples})


def _distributions(clips: pa.Table, by: str, strict: bool) -> dict[str, Distributions]:
    group, names = codes(clips[by])
    other_numbers = _flags(pc.equal(pc.fill_null(clips["numbers_agree"], True), False))
    columns = ClipColumns(
        samples=clips["samples"].to_numpy(),
        rejected=_flags(pc.equal(clips["outcome"], "rejected")),
        rule_decides=_flags(pc.equal(clips["outcome"], "kept"))
        | (_flags(pc.is_in(clips["reason"], pa.array(THRESHOLD_REASONS))) & ~(strict & other_numbers)),
        wer=_rates(clips["wer"]),
        per=_rates(clips["per"]),
        rate=_rates(clips["tokens_per_second"]),
    )
    return dict(zip(names, distributions_by(group, len(names), columns), strict=True))


def _flags(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(column, dtype=bool)


def _rates(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(column, float("nan")).to_numpy()


def _add(a: Mapping[Any, Any], b: Mapping[Any, Any], plus: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    return {key: plus(a[key], b[key]) if key in a and key in b else a.get(key, b.get(key)) for key in sorted({*a, *b})}


def _both(a: Distributions | None, b: Distributions | None) -> Distributions | None:
    return a.plus(b) if a and b else a or b


def _time(samples: int) -> dict[str, int | float]:
    return {"samples": samples, "seconds": samples / SAMPLE_RATE}
