"""What a comparison of runs holds: the runs, and what changed from each to the next; as JSON and in words.

comparison.json, schema 1. Samples are at 16 kHz, percents null without input.

    schema_version
    runs[]       {"name", "root", "fingerprint", "domains": [{"domain", "input", "kept" (samples), "retention_percent",
                 "clips" (kept), "reasons": [{"stage", "reason", "samples"}], most first}], "total": the same}
    changes[]    from each run to the next: {"before", "after" (names), "settings" and "versions": [{"key", "before",
                 "after"}], "clips": {"shared", "same", "relabelled" (kept in both, with another label), "only_before",
                 "only_after", "moves": [{"before", "after" (outcomes), "clips", "samples"}]}}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from operators.storage.base import Store
from pipeline.display.words import human_percent
from pipeline.report.retention import Retention, Tally

SCHEMA_VERSION = 1
_SHOWN_REASONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A ComparedRun is one of the runs that are compared, with all that a comparison shows of it."""

    name: str
    root: str
    store: Store
    fingerprint: str
    settings: dict[str, Any]
    """that decide the output, by dotted key"""
    versions: dict[str, str]
    retention: Retention

    def tally(self, domain: str) -> Tally:
        """Return the account of a domain, an empty one where the run does not have it."""
        return self.retention.domains.get(domain, Tally())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "root": self.root,
            "fingerprint": self.fingerprint,
            "total": _tally_json(self.retention.total),
            "domains": [
                {"domain": name} | _tally_json(tally) for name, tally in sorted(self.retention.domains.items())
            ],
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """A Difference is a setting or a version that two runs do not share."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Move:
    """A Move counts clips that both runs have, with another outcome: "kept", or "stage: reason"."""

    before: str
    after: str
    clips: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A Change holds what is different in the second of two runs.

    Clips are the same when their ids are: recording, start and end.
    """

    before: str
    after: str
    settings: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    shared: int
    same: int
    relabelled: int
    only_before: int
    only_after: int
    moves: tuple[Move, ...]

    def to_json(self) -> dict[str, Any]:
        clips = ("shared", "same", "relabelled", "only_before", "only_after")
        return {
            "before": self.before,
            "after": self.after,
            "settings": [asdict(found) for found in self.settings],
            "versions": [asdict(found) for found in self.versions],
            "clips": {name: getattr(self, name) for name in clips} | {"moves": [asdict(move) for move in self.moves]},
        }


def to_json(runs: Sequence[ComparedRun], changes: Sequence[Change]) -> bytes:
    """Return comparison.json."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "runs": [run.to_json() for run in runs],
        "changes": [change.to_json() for change in changes],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    return (text + "\n").encode("utf-8", "backslashreplace")


def _tally_json(tally: Tally) -> dict[str, Any]:
    return {
        "input": tally.input,
        "kept": tally.kept.samples,
        "clips": tally.kept.clips,
        "retention_percent": tally.retention,
        "reasons": [
            {"stage": stage, "reason": reason, "samples": samples} for stage, reason, samples in reasons(tally)
        ],
    }


def domains(runs: Sequence[ComparedRun]) -> list[str]:
    """Return every domain of any run, sorted."""
    return sorted({name for run in runs for name in run.retention.domains})


def reasons(tally: Tally) -> list[tuple[str, str, int]]:
    """Return (stage, reason, samples) that were lost, most first; what is not speech is no loss."""
    lost = [(stage, reason, amount.samples) for (stage, reason), amount in tally.rejected.items()]
    return sorted(lost, key=lambda each: (-each[2], each[0], each[1]))


def main_reasons(tally: Tally) -> str:
    """Return the largest losses in words, in percent of the input."""
    shown = [
        f"{reason} {human_percent(100 * samples / tally.input)}"
        for _, reason, samples in reasons(tally)[:_SHOWN_REASONS]
        if samples and tally.input
    ]
    return ", ".join(shown) or "–"


def points(before: Tally, after: Tally) -> str:
    """Return the change of the share kept, in percentage points."""
    if before.retention is None or after.retention is None:
        return "–"
    return f"{after.retention - before.retention:+.1f}"


def shown_value(value: Any) -> str:
    """Return a setting's value as one line of at most 120 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 120 else text[:119] + "…"
