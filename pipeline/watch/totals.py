"""Totals of a run, folded from ledgers: what metrics count, and what the bounds of `execution.stop_when` are held to.

    ledger of a unit ──add, each unit once──> Totals ──> seconds and clips by domain, outcome and reason; recordings

A unit is counted when its ledger is there, by what it says, and never twice. So a run that was killed and goes on has
the totals of one that was left in peace, whichever process adds them up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from operators.clip import SAMPLE_RATE
from pipeline.ledger import UnitSet, numbered

WATCH_COLUMNS = ("recording_id", "start", "end", "outcome", "stage", "reason")
"""What `Totals.add` needs of a ledger."""

FIRST_UNITS = 10
"""Units of a domain, by their numbers in the plan, whose retention later ones are compared with."""

OTHERS = "(others)"
"""The domain of all that are too many to be told apart: every one costs Prometheus some series."""

Account = tuple[str, str, str, str]
"""(domain, outcome, stage, reason); the last two are "" where nothing was dropped."""


@dataclass
class Totals:
    """Totals are sums over the ledgers of a run. A domain goes by its slug, as in the names of its units."""

    domains: frozenset[str] | None = None
    """those that are told apart; None: all."""
    units: Counter[str] = field(default_factory=Counter)
    """done, by domain."""
    samples: Counter[Account] = field(default_factory=Counter)
    clips: Counter[Account] = field(default_factory=Counter)
    recordings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """by domain and "read" or "quarantined" (a line of it is in quarantine); one that several units share counts in
    each.
    """
    first: Counter[tuple[str, str]] = field(default_factory=Counter)
    """samples of the first units of each domain, by domain and "input" or "kept"."""
    _added: UnitSet = field(default_factory=UnitSet)

    def __contains__(self, unit_id: object) -> bool:
        return unit_id in self._added

    def add(self, unit_id: str, table: pa.Table) -> None:
        """Take in the ledger of a unit, its WATCH_COLUMNS at least; nothing where the unit is in already."""
        if unit_id in self._added:
            return
        self._added.add(unit_id)
        slug, number = numbered(unit_id)
        domain = slug if self.domains is None or slug in self.domains else OTHERS
        self.units[domain] += 1
        self.samples[domain, "kept", "", ""] += 0  # a domain that keeps nothing says so, where an alert divides by it
        input_samples = kept = 0
        table = table.append_column("samples", pc.subtract(table["end"], table["start"]))
        sums = table.group_by(["outcome", "stage", "reason"], use_threads=False).aggregate(
            [("samples", "sum"), ("samples", "count")]
        )
        for row in sums.to_pylist():
            account = (domain, row["outcome"], row["stage"] or "", row["reason"] or "")
            self.samples[account] += row["samples_sum"]
            input_samples += row["samples_sum"]
            if row["outcome"] in ("kept", "rejected"):
                self.clips[account] += row["samples_count"]
            kept += row["samples_sum"] if row["outcome"] == "kept" else 0
        # A file that the plan refused may bear the name of one that was read: its row is a recording of its own.
        refused = pc.fill_null(pc.equal(table["stage"], "plan"), False)
        self.recordings[domain, "quarantined"] += pc.sum(refused).as_py() or 0
        rest = table.filter(pc.invert(refused))
        lost = pc.unique(rest.filter(pc.equal(rest["outcome"], "unreadable"))["recording_id"])
        self.recordings[domain, "quarantined"] += len(lost)
        self.recordings[domain, "read"] += len(pc.unique(rest["recording_id"])) - len(lost)
        if number is not None and number < FIRST_UNITS:
            self.first[domain, "input"] += input_samples
            self.first[domain, "kept"] += kept

    def input_seconds(self) -> float:
        return sum(self.samples.values()) / SAMPLE_RATE

    def retention(self) -> float | None:
        """Return the time kept in percent of the input, None without any."""
        kept = sum(samples for account, samples in self.samples.items() if account[1] == "kept")
        return 100 * kept / whole if (whole := sum(self.samples.values())) else None

    def quarantine(self) -> float | None:
        """Return the recordings with a line in quarantine in percent of all, None without any."""
        lost = sum(count for (_, outcome), count in self.recordings.items() if outcome == "quarantined")
        return 100 * lost / whole if (whole := sum(self.recordings.values())) else None

    def first_retention(self) -> dict[str, float]:
        """Return the share kept, 0-1, of the first units of each domain that has any done."""
        return {
            domain: self.first[domain, "kept"] / samples
            for (domain, what), samples in self.first.items()
            if what == "input" and samples
        }
