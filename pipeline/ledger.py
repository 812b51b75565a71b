"""Which units are done, and what their ledgers say.

plan - ledgers = to do        ledgers ──fold──> counts        Nothing else remembers progress, so nothing can disagree.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from operators.clip import Piece, Unit
from operators.errors import UserError
from operators.shard import clean, read_ledger
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


def ledgers(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Every ledger of a run, one at a time, in the order of their names. Raises UserError when there is none.

    `columns` leaves the others, texts among them, unread.
    """
    names = sorted(done_units(store))
    if not names:
        raise UserError(f"no finished units in {store.root}: is this the output of a run? (expected shards/<domain>/*.parquet)")
    for name in names:
        yield pq.read_table(pa.BufferReader(store.read(shard_keys(name)[2])), columns=None if columns is None else list(columns))


def good(unit: Unit) -> list[Piece]:
    """The pieces that were worked on: not those that the plan refused, which may share a recording's id with a good one."""
    return [piece for piece in unit.pieces if piece.problem is None]


class TilingError(AssertionError):
    """A ledger's rows leave a gap or overlap: samples were lost or counted twice."""


def verify_tiling(units: list[Unit], store: Store) -> None:
    """Proves that the rows of every finished unit tile its pieces, within units and across the cuts between them.

    Raises TilingError naming the recording. A recording must be in the ledger of each unit that owns a piece of it.
    """
    done = done_units(store)
    edges: dict[str, list[tuple[int, int]]] = {}
    pieces = Counter(clean(piece.recording.recording_id) for unit in units for piece in good(unit))
    for unit in units:
        if unit.unit_id not in done:
            continue
        rows = read(store, unit.unit_id)[0].select(["recording_id", "start", "end"]).to_pylist()
        spans: dict[str, list[tuple[int, int]]] = {}
        for row in rows:
            spans.setdefault(row["recording_id"], []).append((row["start"], row["end"]))
        for piece in good(unit):
            recording_id = clean(piece.recording.recording_id)
            told = spans.get(recording_id, [])
            # A row without length says that something is missing at a point; it takes part in no tiling.
            own = sorted(span for span in told if span[0] < span[1])
            if not told:
                # A piece past the true end of a recording whose header promised more holds nothing.
                if piece.start == 0:
                    raise TilingError(f"{unit.unit_id}: nothing in the ledger of {recording_id}")
                continue
            if not own:
                continue
            for (_, end), (start, _) in itertools.pairwise(own):
                if end != start:
                    raise TilingError(f"{unit.unit_id}: {recording_id} has a gap or overlap at samples {end}..{start}")
            if piece.start or piece.end is not None:
                edges.setdefault(recording_id, []).append((own[0][0], own[-1][1]))
            elif own[0][0] != 0:
                raise TilingError(f"{unit.unit_id}: {recording_id} starts at sample {own[0][0]}")
    for recording_id, owned in edges.items():
        if len(owned) == pieces[recording_id]:
            for (_, end), (start, _) in itertools.pairwise(sorted(owned)):
                if end != start:
                    raise TilingError(f"{recording_id} has a gap or overlap between units at samples {end}..{start}")
