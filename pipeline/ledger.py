"""Which units are done, and what their ledgers say.

    plan - ledgers = to do        ledgers ──fold──> counts        Nothing else remembers progress, so nothing can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from operators.clip import Unit
from operators.errors import UserError
from operators.shard import read_ledger
from pipeline.storage import Store
from stages.write_shard import shard_keys


def done_units(store: Store) -> set[str]:
    """Names of the units whose ledger exists: one listing of the run, whatever its size."""
    suffix = ".parquet"
    return {key.rpartition("/")[2][: -len(suffix)] for key, _ in store.list("shards/") if key.endswith(suffix)}


def to_do(units: list[Unit], store: Store) -> list[Unit]:
    """The units of a plan that have no ledger, in plan order."""
    done = done_units(store)
    return [unit for unit in units if unit.unit_id not in done]


def read(store: Store, unit_id: str) -> tuple[pa.Table, dict[str, str]]:
    """One unit's ledger rows and metadata."""
    return read_ledger(store.read(shard_keys(unit_id)[2]))


def ledgers(store: Store) -> Iterator[pa.Table]:
    """Every ledger of a run, one at a time, in the order of their names. Raises UserError when there is none."""
    names = sorted(done_units(store))
    if not names:
        raise UserError(f"no finished units in {store.root}: is this the output of a run? (expected shards/<domain>/*.parquet)")
    for name in names:
        yield read(store, name)[0]
