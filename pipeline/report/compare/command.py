"""`report RUN RUN ...`: domains of several runs side by side, and what changed from each run to the next.

ledgers ──fold──> Retention per run ─┬─> side by side
ledgers ──clip ids, outcomes──> join ┴─> Change per neighbours: settings, domains, clips that went elsewhere
                                          ──> terminal, comparison.json, comparison.html
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from rich.console import Console

from operators.errors import UserError
from operators.storage.fetch import open_store
from pipeline import config, ledger
from pipeline.display.words import printable
from pipeline.report.compare.changes import find_change
from pipeline.report.compare.page import render_page
from pipeline.report.compare.records import ComparedRun, to_json
from pipeline.report.compare.terminal import render_terminal
from pipeline.report.retention import FOLD_COLUMNS, fold
from pipeline.run_directory import existing_run, stored_config


def compare(roots: Sequence[str], overrides: list[str], out: str | None, console: Console) -> None:
    """Compare runs; print that, and write comparison.json and comparison.html into `out`, or the last run.

    Raises UserError.
    """
    if repeated := sorted({root for root in roots if roots.count(root) > 1}):
        raise UserError(f"{repeated[0]} is given twice: name each run once")
    runs = [_open(root, name, overrides) for root, name in zip(roots, _names(roots), strict=True)]
    changes = [find_change(before, after) for before, after in itertools.pairwise(runs)]
    store = runs[-1].store if out is None else open_store(out, config.load(None, overrides).s3)
    store.put("comparison.json", to_json(runs, changes))
    store.put("comparison.html", render_page(runs, changes))
    console.print(render_terminal(runs, changes))
    where = printable(store.url("comparison.html"))
    console.print(f"\ncomparison: {where}", markup=False, highlight=False, soft_wrap=True)


def _names(roots: Sequence[str]) -> list[str]:
    """Return the last part of each path where these differ, else the paths."""
    short = [os.path.basename(root.rstrip("/")) or root for root in roots]
    return short if len(set(short)) == len(short) else list(roots)


def _open(root: str, name: str, overrides: list[str]) -> ComparedRun:
    settings, store = existing_run(root, overrides)
    stored = stored_config(store)
    versions = stored.get("versions")
    retention = fold(ledger.ledgers(store, FOLD_COLUMNS), settings.rover)
    retention.assert_conserved()
    return ComparedRun(
        name=name,
        root=store.root,
        store=store,
        fingerprint=str(stored["fingerprint"]),
        settings=config.output_settings(settings),
        versions={str(key): str(value) for key, value in versions.items()} if isinstance(versions, dict) else {},
        retention=retention,
    )
