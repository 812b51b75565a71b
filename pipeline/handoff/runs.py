"""The runs of a hand-off, opened before anything of them is read.

root ──its config, plan, listing of ledgers──> Run, or UserError        runs on S3 ──must agree──> S3Settings
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from operators.errors import UserError
from operators.shard import clean
from operators.storage.base import S3Settings, Store
from operators.storage.uri import is_s3
from pipeline import ledger
from pipeline.config import Settings, load
from pipeline.plan import load_plan
from pipeline.run_directory import existing_run, stored_config
from stages.write_shard import shard_keys


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is handed off."""

    store: Store
    settings: Settings
    fingerprint: str
    units: int
    """of its plan"""
    domains: frozenset[str]
    """of its plan"""


def open_runs(roots: Sequence[str], overrides: list[str]) -> list[Run]:
    """Return the runs in these directories, each given once. `overrides` are s3.* settings. Raises UserError."""
    runs = [_open_run(root, overrides) for root in roots]
    places = [run.store.root for run in runs]
    if repeated := sorted({place for place in places if places.count(place) > 1}):
        raise UserError(f"{repeated[0]} is given twice: name each run once")
    return runs


def _open_run(root: str, overrides: list[str]) -> Run:
    settings, store = existing_run(root, overrides)
    try:
        store.root.encode()
    except UnicodeEncodeError:
        raise UserError(f"{root!r} is no valid text, so no index can name its shards: rename the folder") from None
    plan = load_plan(store)
    if stranger := ledger.stranger(ledger.done_units(store), plan):
        key = shard_keys(stranger)[2]
        raise UserError(f"{store.url(key)} is of no unit of the plan: move what is not of this run away")
    domains = frozenset(clean(domain) for domain in plan.domains())
    return Run(store, settings, str(stored_config(store)["fingerprint"]), len(plan), domains)


def one_s3(runs: Sequence[Run], overrides: list[str]) -> S3Settings:
    """Return how S3 is reached: as the command line says, else as the runs on S3 say.

    Raises UserError when these disagree.
    """
    of_runs = [run.settings.s3 for run in runs if is_s3(run.store.root)]
    if overrides or not of_runs:
        return load(None, overrides).s3
    if any(each.endpoint_url != of_runs[0].endpoint_url for each in of_runs):
        raise UserError(
            "the runs lie in different S3 stores, and a trainer reads from one: copy one of them, or hand off each"
        )
    return of_runs[0]
