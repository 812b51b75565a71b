"""The retention report of a run: a table for the terminal, report.json, and report.html to read and listen to.

    ledgers ──fold──> Retention ─┬─> render_terminal
    speed/*.json ────> Speeds ───┼─> report.json
    tars, sources ──> examples ──┴─> report.html

report.json, schema 1. A *time* is {"samples": int at 16 kHz, "seconds": float}; samples are exact.

    schema_version, sample_rate, ledgers
    thresholds          {"max_wer", "max_per" (percent), "drop_when": "either" | "both"}
    total, domains[]    one account each; those of `domains` have "domain" as well:
        recordings          files, the unreadable included
        unreadable_files    files with something unreadable
        input, speech, clips_2_30_s, non_speech    times; speech counts all clips, clips_2_30_s all but the too short
        kept                time + "clips", "voiced_samples" (what the VAD called speech)
        retention_percent, retention_of_clips_percent    kept in percent of input, of clips_2_30_s; null without any
        rejected[]          {"stage", "reason", "clips"} + time
        unreadable[]        {"stage", "reason", "files"} + time, where a length is known
        identity            samples: input = kept + rejected + non_speech + unreadable, and their "difference", 0
        distributions       {"wer", "per", "rate", "duration"}: {"edges", "kept" and "rejected": {"clips"[],
        "samples"[]}}
                            (bins: pipeline/report/histograms.py) and "wer_per": {"edges", "cells": [[wer bin, per bin,
                            samples]]}
    languages[]         {"language" (null: not known), "distributions"}
    speeds              null, or sums over sessions (pipeline/report/speeds.py)
    examples[]          where the clips that the page plays lie: unit, recording, span, outcome
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, human_time, printable
from pipeline.report.examples import Audio, RunStore, shortlist
from pipeline.report.page import render_html, shown_domains
from pipeline.report.retention import Cause, Retention, Tally
from pipeline.report.speeds import fold_speeds

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The agreement rule of the run, as in operators.agreement.AgreementRule: percent, and how both combine."""

    max_wer: float = 10.0
    max_per: float = 5.0
    drop_when: str = "either"


def write_report(
    run_store: RunStore,
    retention: Retention,
    speeds: Iterable[Mapping[str, Any]] = (),
    examples_audio: Audio | None = None,
    *,
    thresholds: Thresholds | None = None,
    title: str = "Retention report",
) -> None:
    """Write report.json and report.html into a run directory; the same run gives the same bytes.

    `speeds` are the parsed speed/*.json; `examples_audio` cuts a rejected clip again, given its ledger row. Raises
    ConservationError before anything is written when the account does not add up.
    """
    retention.assert_conserved()
    rule = thresholds or Thresholds()
    measured = fold_speeds(speeds)
    shortlists = [
        shortlist(retention.examples, name, {cause: amount.samples for cause, amount in tally.rejected.items()})
        for name, tally in shown_domains(retention)
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "thresholds": asdict(rule),
        **retention.to_json(),
        "speeds": measured.to_json() if measured else None,
        "examples": [asdict(example) for shown in shortlists for example in shown],
    }
    page = render_html(run_store, retention, measured, shortlists, examples_audio, thresholds=rule, title=title)
    run_store.put("report.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    run_store.put("report.html", page)


def render_terminal(retention: Retention) -> RenderableType:
    """Retention per domain, then time lost per reason: rich tables, sorted by the share that was kept."""
    rows = sorted(retention.domains.items(), key=lambda item: (-(item[1].retention or 0), item[0]))
    total = retention.total
    parts: list[RenderableType] = [_identity(total), _domains(rows, total)]
    causes = sorted(total.rejected, key=lambda cause: (-total.rejected[cause].samples, cause))
    if causes:
        parts += [Text(), _lost(rows, total, causes)]
    if total.unreadable_files:
        parts += [Text(), _unreadable(total)]
    return Group(*parts)


def _identity(total: Tally) -> Text:
    line = Text()
    line.append(f"{human_time(total.input)} in", style="bold")
    line.append(" = ")
    line.append(f"{human_time(total.kept.samples)} kept ({human_percent(total.retention)})", style="bold green")
    line.append(f" + {human_time(total.rejected_total.samples)} rejected + {human_time(total.non_speech)} non-speech")
    line.append(f" + {human_time(total.unreadable_total)} unreadable")
    if total.difference:
        line.append(f"   {total.difference:,} samples do not add up", style="bold red")
    return line


def _domains(rows: list[tuple[str, Tally]], total: Tally) -> WideTable:
    table = WideTable("Retention per domain", "domain", "all")
    columns = ["files", "unreadable", "in", "speech", "2-30 s clips", "kept", "clips", "retention"]
    for header, footer in zip(columns, _numbers(total), strict=True):
        table.add_column(header, footer=footer)
    table.add_column("", spare=True)
    for name, tally in rows:
        table.add_row(printable(name), *_numbers(tally), _bar(tally))
    return table


def _numbers(tally: Tally) -> list[str]:
    times = [human_time(samples) for samples in (tally.input, tally.speech, tally.clipped, tally.kept.samples)]
    counts = [f"{count:,}" for count in (tally.recordings, tally.unreadable_files_total, tally.kept.clips)]
    return [*counts[:2], *times, counts[2], human_percent(tally.retention)]


def _bar(tally: Tally, width: int = 20) -> Text:
    filled = round((tally.retention or 0) / 100 * width)
    return Text.assemble(("█" * filled, "green"), ("░" * (width - filled), "bright_black"))


def _lost(rows: list[tuple[str, Tally]], total: Tally, causes: list[Cause]) -> WideTable:
    table = WideTable("Time lost per reason", "domain", "all")
    for cause in causes:
        table.add_column(
            f"{printable(cause[0])}\n{printable(cause[1])}", footer=human_time(total.rejected[cause].samples)
        )
    for name, tally in rows:
        lost = [human_time(tally.rejected[cause].samples) if cause in tally.rejected else "–" for cause in causes]
        table.add_row(printable(name), *lost)
    return table


def _unreadable(total: Tally) -> WideTable:
    table = WideTable("Unreadable", "reason")
    for header in ("files", "time, where known"):
        table.add_column(header)
    for cause, files in total.unreadable_files.items():
        table.add_row(printable(f"{cause[0]}: {cause[1]}"), f"{files:,}", human_time(total.unreadable.get(cause, 0)))
    return table
