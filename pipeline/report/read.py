"""A report read again: report.json as rows for a table, and the clips that its page plays, with their audio.

    report.json ──read_report──> Report ─┬─domain_rows, cause_rows──> a table
                                         └─examples ──tars, sources──example_clips──> ExampleClip, to listen to

examples/look_at_a_run.ipynb shows them at work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from operators.audio.decode import AudioError, encode_flac
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE, Piece, Span
from operators.errors import UserError
from operators.shard import clean
from operators.storage.base import Store
from operators.storage.fetch import Fetch
from pipeline import ledger, recipe
from pipeline.config import Settings
from pipeline.display.words import explain
from pipeline.plan import Plan, load_plan
from pipeline.report.examples import Audio, Example, ExampleClip, collect
from pipeline.report.write import SCHEMA_VERSION
from stages.segment import LastFetched, read_span

Report = Mapping[str, Any]
"""report.json as it was parsed; pipeline/report/write.py gives its fields."""


def read_report(store: Store) -> Report:
    """Return the report of a run. Raises UserError where there is none, or one that this version cannot read."""
    if not store.exists("report.json"):
        raise UserError(f"{store.root} has no report.json: python -m pipeline report {store.root}")
    try:
        found = json.loads(store.read("report.json"))
        version = found["schema_version"]
    except (ValueError, KeyError, TypeError):
        version = None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{store.url('report.json')} is damaged or of another version: python -m pipeline report {store.root}"
        )
    return found  # type: ignore[no-any-return]


def domain_rows(report: Report) -> list[dict[str, Any]]:
    """Return a row per domain, the one that keeps most of its input first: hours, clips and percent."""
    rows = [
        {
            "domain": each["domain"],
            "recordings": each["recordings"],
            "input_hours": _hours(each["input"]),
            "kept_hours": _hours(each["kept"]),
            "rejected_hours": sum(_hours(lost) for lost in each["rejected"]),
            "non_speech_hours": _hours(each["non_speech"]),
            "unreadable_hours": sum(_hours(lost) for lost in each["unreadable"]),
            "kept_clips": each["kept"]["clips"],
            "retention_percent": each["retention_percent"],
        }
        for each in report["domains"]
    ]
    return sorted(rows, key=lambda row: (-(row["retention_percent"] or 0), row["domain"]))


def cause_rows(report: Report) -> list[dict[str, Any]]:
    """Return a row per domain and cause why audio was not kept, the costliest first; `meaning` is in plain words."""
    rows = [
        {
            "domain": each["domain"],
            "stage": lost["stage"],
            "reason": lost["reason"],
            "hours": _hours(lost),
            "clips": lost.get("clips", 0),
            "files": lost.get("files", 0),
            "meaning": explain(lost["reason"]),
        }
        for each in report["domains"]
        for lost in (*each["rejected"], *each["unreadable"])
    ]
    return sorted(rows, key=lambda row: (-row["hours"], row["domain"], row["stage"], row["reason"]))


def _hours(time: Mapping[str, Any]) -> float:
    return float(time["samples"] / SAMPLE_RATE / 3600)


def example_clips(settings: Settings, store: Store, report: Report) -> list[ExampleClip]:
    """Return the kept and rejected clips that the report's page plays, each with its ledger row and its audio.

    A kept clip's audio is in its shard, a rejected one is cut from its source again: None where that is gone.
    """
    by_domain: dict[str, list[Example]] = {}
    for each in report["examples"]:
        by_domain.setdefault(each["domain"], []).append(Example(**each))
    with cutting(settings, load_plan(store)) as audio:
        return [clip for shown in collect(store, [*by_domain.values()], audio) for clip in shown]


@contextmanager
def cutting(settings: Settings, plan: Plan) -> Iterator[Audio]:
    """Yield what cuts a rejected clip from its source again, given its ledger row."""
    decoding = IsolatedDecoder(recipe.limits(settings.audio), timeout_seconds=settings.audio.decode_timeout_seconds)
    with decoding as decoder, closing(LastFetched(Fetch(settings.s3, settings.execution.scratch))) as fetch:

        def audio(row: Mapping[str, Any]) -> bytes | None:
            try:
                pcm = read_span(fetch, decoder, _piece_of(plan, row), Span(row["start"], row["end"]))
            except (AudioError, OSError, UserError):
                return None  # the source has moved on; the page says so
            return encode_flac(pcm)

        yield audio


def _piece_of(plan: Plan, row: Mapping[str, Any]) -> Piece:
    """Return the piece that a clip's row was cut from; of one that the plan refused nothing was cut."""
    unit = plan.find(row["unit_id"])
    pieces = ledger.good(unit) if unit else []
    return next(piece for piece in pieces if clean(piece.recording.recording_id) == row["recording_id"])
