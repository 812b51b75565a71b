"""What is on record of a run that its clips do not say: retention, settings, and the score where it has one.

ledgers ──fold──┐
config.yaml ────┼──> RunFacts
score.json ─────┘
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from operators.storage.base import Store
from pipeline import ledger
from pipeline.config import Settings
from pipeline.plan import load_plan
from pipeline.report.retention import FOLD_COLUMNS, Retention, fold


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """RunFacts are of one run."""

    root: str
    settings: Settings
    retention: Retention
    units: int
    units_left: int
    """of the plan: without a ledger"""
    score: str | None
    """the headline of score.json; None: there is none of these ledgers"""


def facts(store: Store, settings: Settings) -> RunFacts:
    """Return what is on record of a run. Raises UserError where it has no ledger, or a damaged one."""
    plan = load_plan(store)
    retention = fold(ledger.ledgers(store, FOLD_COLUMNS), settings.rover)
    return RunFacts(
        root=store.root,
        settings=settings,
        retention=retention,
        units=len(plan),
        units_left=len(ledger.to_do(plan, store)),
        score=_score(store, retention.ledgers),
    )


def _score(store: Store, ledgers: int) -> str | None:
    """Return the headline of the score, unless the run has gone on since."""
    if not store.exists("score.json"):
        return None
    try:
        found = json.loads(store.read("score.json"))
        return str(found["headline"]) if found["ledgers"] == ledgers else None
    except (ValueError, KeyError, TypeError):
        return None  # damaged, or of another version: `score` writes it again
