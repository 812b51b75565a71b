"""Which units are done, and what their ledgers say.

plan - ledgers = to do        ledgers ──fold──> counts        Nothing else remembers progress, so nothing can disagree.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa

from operators.clip import Piece, Unit
from operators.errors import UserError
from operators.shard import clean, read_ledger
from operators.storage.base import Store
from stages.write_shard import shard_keys


def done_units(store: Store) -> set[str]:
    """Return the names of the units whose ledger exists: one listing of the run, whatever its size."""
    suffix = ".parquet"
    return {key.rpartition("/")[2][: -len(suffix)] for key, _ in store.list("shards/") if key.endswith(suffix)}


def to_do(units: list[Unit], store: Store) -> list[Unit]:
    """Return the units of a plan that have no ledger, in plan order."""
    done = done_units(store)
    return [unit for unit in units if unit.unit_id not in done]


def read(store: Store, unit_id: str) -> tuple[pa.Table, dict[str, str]]:
    """Return one unit's ledger rows and metadata. Raises UserError when they cannot be read."""
    key = shard_keys(unit_id)[2]
    data = store.read(key)
    with _damage_explained(store, key):
        return read_ledger(data)


def ledgers(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield every ledger of a run in the order of their names. Raises UserError when there is none, or a damaged one.

    `columns` leaves the others, texts among them, unread.
    """
    names = sorted(done_units(store))
    if not names:
        raise UserError(
            f"no finished units in {store.root}: is this the output of a run? (expected shards/<domain>/*.parquet)"
        )
    for key, data in _read_ahead(store, [shard_keys(name)[2] for name in names]):
        with _damage_explained(store, key):
            table, _ = read_ledger(data, columns)
        yield table


def _read_ahead(store: Store, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield objects in the order asked for, some read ahead: a million ledgers on S3, one by one, are half a day."""
    with ThreadPoolExecutor(_READS_AHEAD) as pool:
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        for key in keys:
            waiting.append((key, pool.submit(store.read, key)))
            if len(waiting) == _READS_AHEAD:
                oldest, future = waiting.popleft()
                yield oldest, future.result()
        for key, future in waiting:
            yield key, future.result()


_READS_AHEAD = 16


@contextmanager
def _damage_explained(store: Store, key: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        line = " ".join(str(error).split())[:100]
        raise UserError(
            f"the ledger {store.url(key)} cannot be read: remove it, and 'run' makes it again ({line})"
        ) from error


def good(unit: Unit) -> list[Piece]:
    """Return the pieces that were worked on: those that the plan refused may share a recording's id with a good one."""
    return [piece for piece in unit.pieces if piece.problem is None]


class TilingError(AssertionError):
    """TilingError says that a ledger's rows leave a gap or overlap: samples were lost or counted twice."""


def verify(units: list[Unit], store: Store, fingerprint: str) -> None:
    """Prove that every ledger is of this run and fits its tar, and that its rows tile the unit's pieces.

    Tiling holds within units and across the cuts between them. A recording must be in the ledger of each unit that owns
    a piece of it. Raises UserError for a file that is not as the run left it, TilingError naming the recording.
    """
    tars = {key.rpartition("/")[2][: -len(".tar")]: size for key, size in store.list("shards/") if key.endswith(".tar")}
    done = done_units(store)
    if strangers := sorted(done - {unit.unit_id for unit in units}):
        raise UserError(
            f"{store.url(shard_keys(strangers[0])[2])} is of no unit of the plan: move what is not of this run away"
        )
    edges: dict[str, list[tuple[int, int, bool]]] = {}
    pieces = Counter(clean(piece.recording.recording_id) for unit in units for piece in good(unit))
    finished = [unit for unit in units if unit.unit_id in done]
    contents = _read_ahead(store, [shard_keys(unit.unit_id)[2] for unit in finished])
    for unit, (key, data) in zip(finished, contents, strict=True):
        with _damage_explained(store, key):
            table, metadata = read_ledger(data)
        if metadata.get("fingerprint") != fingerprint:
            raise UserError(f"{store.url(key)} was written under other settings: remove it, and 'run' makes it again")
        if str(tars.get(unit.unit_id, 0)) != metadata.get("tar_bytes"):  # a unit that kept nothing has no tar
            raise UserError(
                f"the tar beside {store.url(key)} is another than its own: remove both, and 'run' makes them again"
            )
        spans: dict[str, list[tuple[int, int]]] = {}
        unreadable: set[str] = set()
        for row in table.select(["recording_id", "start", "end", "outcome"]).to_pylist():
            spans.setdefault(row["recording_id"], []).append((row["start"], row["end"]))
            if row["outcome"] == "unreadable":
                unreadable.add(row["recording_id"])
        for piece in good(unit):
            recording_id = clean(piece.recording.recording_id)
            found = spans.get(recording_id, [])
            # A row without length says that something is missing at a point; it takes part in no tiling.
            own = sorted(span for span in found if span[0] < span[1])
            if not found:
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
                edges.setdefault(recording_id, []).append(
                    (own[0][0], own[-1][1], len(own) == 1 and recording_id in unreadable)
                )
            elif own[0][0] != 0:
                raise TilingError(f"{unit.unit_id}: {recording_id} starts at sample {own[0][0]}")
    for recording_id, owned in edges.items():
        if len(owned) == pieces[recording_id]:
            for (_, end, lost_before), (start, _, lost_after) in itertools.pairwise(sorted(owned)):
                # A piece that became unreadable between two units knows only its nominal edge, not the quiet point
                # beside it.
                if end != start and not (lost_before or lost_after):
                    raise TilingError(f"{recording_id} has a gap or overlap between units at samples {end}..{start}")
