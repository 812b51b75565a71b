"""The retention report of a run: report.json, and report.html to read and listen to.

    ledgers ──fold──> Retention ─┬─> report.json
    speed/*.json ────> Speeds ───┤
    tars, sources ──> examples ──┴─> report.html

The terminal's table is in pipeline/report/terminal.py.

report.json, schema 1. A *time* is {"samples": int at 16 kHz, "seconds": float}; samples are exact.

    schema_version, sample_rate, ledgers
    thresholds          {"max_wer", "max_per" (percent), "drop_when": "either" | "both",
                        "numbers": "strict" | "counted"}
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
from dataclasses import asdict
from typing import Any

from operators.agreement import AgreementRule
from pipeline.report.examples import Audio, RunStore, shortlist
from pipeline.report.page import render_html, shown_domains
from pipeline.report.retention import Retention
from pipeline.report.speeds import fold_speeds

SCHEMA_VERSION = 1


def write_report(
    run_store: RunStore,
    retention: Retention,
    speeds: Iterable[Mapping[str, Any]] = (),
    examples_audio: Audio | None = None,
    *,
    rule: AgreementRule | None = None,
    title: str = "Retention report",
    planned: int | None = None,
) -> None:
    """Write report.json and report.html into a run directory; the same run gives the same bytes.

    `speeds` are the parsed speed/*.json; `examples_audio` cuts a rejected clip again, given its ledger row; `rule` is
    the run's; `planned` are the units of its plan, which the page names where some are not done. Raises
    ConservationError before anything is written when the account does not add up.
    """
    retention.assert_conserved()
    rule = rule or AgreementRule()
    measured = fold_speeds(speeds)
    shortlists = [
        shortlist(retention.examples, name, {cause: amount.samples for cause, amount in tally.rejected.items()})
        for name, tally in shown_domains(retention)
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "thresholds": {name: getattr(rule, name) for name in ("max_wer", "max_per", "drop_when", "numbers")},
        **retention.to_json(),
        "speeds": measured.to_json() if measured else None,
        "examples": [asdict(example) for shown in shortlists for example in shown],
    }
    page = render_html(
        run_store, retention, measured, shortlists, examples_audio, rule=rule, title=title, planned=planned
    )
    run_store.put("report.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    run_store.put("report.html", page)
