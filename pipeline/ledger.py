"""Which units are done, and what their ledgers say.

plan - ledgers = to do        ledgers ──fold──> counts        Nothing else remembers progress, so nothing can disagree.
"""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa

from operators.clip import Piece, Unit
from operators.errors import UserError
from operators.shard import clean, read_ledger
from operators.storage.base import Store
from operators.storage.uri import is_s3
from pipeline.plan import Plan
from stages.write_shard import shard_keys

_SHARDS, _LEDGER, _TAR = "shards/", ".parquet", ".tar"


class UnitSet:
    """A UnitSet holds names of units, a byte for each name of the form that plans give: `<slug>-<six digits or more>`.

    As texts in a set the two million names of a million hours would take half a gigabyte.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._numbered: dict[str, bytearray] = {}
        self._others: set[str] = set()
        self._count = 0
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        slug, number = numbered(name)
        if number is None:
            self._others.add(name)
            return
        held = self._numbered.setdefault(slug, bytearray())
        if number >= len(held):
            held.extend(bytes(number + 1 - len(held)))
        self._count += not held[number]
        held[number] = 1

    def __contains__(self, name: object) -> bool:
        slug, number = numbered(str(name))
        if number is None:
            return name in self._others
        held = self._numbered.get(slug)
        return held is not None and number < len(held) and bool(held[number])

    def __len__(self) -> int:
        return self._count + len(self._others)

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in no particular order."""
        for slug, held in self._numbered.items():
            at = held.find(1)
            while at >= 0:
                yield f"{slug}-{at:06d}"
                at = held.find(1, at + 1)
        yield from self._others


_MOST_NUMBER = 1 << 25


def numbered(name: str) -> tuple[str, int | None]:
    """Return the slug and the number of a unit's name as plans give it; the name and None of any other."""
    slug, _, digits = name.rpartition("-")
    if len(digits) < 6 or not (digits.isascii() and digits.isdigit()) or (len(digits) > 6 and digits[0] == "0"):
        return name, None
    number = int(digits)
    return (slug, number) if number < _MOST_NUMBER else (name, None)


def done_units(store: Store, plan: Plan | None = None) -> UnitSet:
    """Return the names of the units whose ledger exists: listings of the run, never a request for each unit.

    With its plan a long run on S3 is listed in parts, many at once; units of no plan may be left out then.
    """
    parts = [""] if plan is None or not is_s3(store.root) else _parts(plan)
    keys = store.names(_SHARDS, parts)
    return UnitSet(key.rpartition("/")[2][: -len(_LEDGER)] for key in keys if key.endswith(_LEDGER))


def any_done(store: Store) -> bool:
    """Return whether any unit has a ledger."""
    return any(key.endswith(_LEDGER) for key in store.names(_SHARDS))


UNITS_OF_A_PART = 1000
"""Units whose names a listing in parts asks for at once."""


def _parts(plan: Plan) -> list[str]:
    """Return what follows "shards/" in the keys of about `UNITS_OF_A_PART` units each."""
    slugs = plan.slugs()
    if len(plan) <= UNITS_OF_A_PART or len(slugs) * 100 > len(plan):  # so many domains would be as many requests
        return [""]
    parts: list[str] = []
    for slug, count in sorted(slugs.items()):
        if count <= UNITS_OF_A_PART:
            parts.append(f"{slug}/")
        else:  # the first three digits, of six or more
            most = min(1000, -(-count // UNITS_OF_A_PART))
            parts += [f"{slug}/{slug}-{first:03d}" for first in range(most)]
    return parts


def stranger(done: UnitSet, plan: Plan) -> str | None:
    """Return the first unit, by name, that has a ledger and is not of the plan."""
    planned = UnitSet(plan.unit_ids())
    return min((unit_id for unit_id in done if unit_id not in planned), default=None)


def to_do(plan: Plan, store: Store) -> Plan:
    """Return the units of a plan that have no ledger, in plan order."""
    return plan.without(done_units(store, plan))


def read(store: Store, unit_id: str) -> tuple[pa.Table, dict[str, str]]:
    """Return one unit's ledger rows and metadata. Raises UserError when they cannot be read."""
    key = shard_keys(unit_id)[2]
    data = store.read(key)
    with _damage_explained(store, key):
        return read_ledger(data)


def columns(store: Store, unit_id: str, names: Sequence[str]) -> pa.Table:
    """Return some columns of one unit's ledger. Raises UserError when it cannot be read."""
    key = shard_keys(unit_id)[2]
    with _damage_explained(store, key):
        return read_ledger(store.read(key), names)[0]


def ledgers(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield every ledger of a run in the order of their names. Raises UserError when there is none, or a damaged one.

    `columns` leaves the others, texts among them, unread.
    """
    names = sorted(done_units(store))
    if not names:
        raise UserError(
            f"no finished units in {store.root}: is this the output of a run? (expected shards/<domain>/*.parquet)"
        )
    for key, data in _read_ahead(store, (shard_keys(name)[2] for name in names)):
        with _damage_explained(store, key):
            table, _ = read_ledger(data, columns)
        yield table


def _read_ahead(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
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


def verify(plan: Plan, store: Store, fingerprint: str) -> None:
    """Prove that every ledger is of this run and fits its tar, and that its rows tile the unit's pieces.

    Tiling holds within units and across the cuts between them. A recording must be in the ledger of each unit that owns
    a piece of it. Raises UserError for a file that is not as the run left it, TilingError naming the recording.
    """
    listed = _Listing(store)
    if name := stranger(listed.ledgers, plan):
        raise UserError(
            f"{store.url(shard_keys(name)[2])} is of no unit of the plan: move what is not of this run away"
        )
    finished = (shard_keys(unit_id)[2] for unit_id in plan.unit_ids() if unit_id in listed.ledgers)
    contents = _read_ahead(store, finished)
    cut = _CutRecording()
    for unit in plan:
        if unit.unit_id not in listed.ledgers:
            for piece in good(unit):
                cut.owns(piece)
            continue
        key, data = next(contents)
        with _damage_explained(store, key):
            table, metadata = read_ledger(data)
        if metadata.get("fingerprint") != fingerprint:
            raise UserError(f"{store.url(key)} was written under other settings: remove it, and 'run' makes it again")
        if str(listed.tar_bytes(unit.unit_id)) != metadata.get("tar_bytes"):  # a unit that kept nothing has no tar
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
            # A piece past the true end of a recording whose header promised more holds nothing.
            if not found and piece.start == 0:
                raise TilingError(f"{unit.unit_id}: nothing in the ledger of {recording_id}")
            for (_, end), (start, _) in itertools.pairwise(own):
                if end != start:
                    raise TilingError(f"{unit.unit_id}: {recording_id} has a gap or overlap at samples {end}..{start}")
            if piece.start or piece.end is not None:
                cut.owns(piece, own and (own[0][0], own[-1][1], len(own) == 1 and recording_id in unreadable))
            elif own and own[0][0] != 0:
                raise TilingError(f"{unit.unit_id}: {recording_id} starts at sample {own[0][0]}")


class _Listing:
    """What lies in a run's shards: which units have a ledger, and the sizes of tars, 9 bytes a unit."""

    def __init__(self, store: Store) -> None:
        self.ledgers = UnitSet()
        self._numbered: dict[str, array[int]] = {}
        self._others: dict[str, int] = {}
        for key, size in store.list(_SHARDS):
            name = key.rpartition("/")[2]
            if name.endswith(_LEDGER):
                self.ledgers.add(name[: -len(_LEDGER)])
            elif name.endswith(_TAR):
                self._add(name[: -len(_TAR)], size)

    def _add(self, unit_id: str, size: int) -> None:
        slug, number = numbered(unit_id)
        if number is None:
            self._others[unit_id] = size
            return
        sizes = self._numbered.setdefault(slug, array("q"))
        if number >= len(sizes):
            sizes.extend(itertools.repeat(0, number + 1 - len(sizes)))
        sizes[number] = size

    def tar_bytes(self, unit_id: str) -> int:
        """Return the size of a unit's tar, 0 where it has none."""
        slug, number = numbered(unit_id)
        if number is None:
            return self._others.get(unit_id, 0)
        sizes = self._numbered.get(slug, ())
        return sizes[number] if number < len(sizes) else 0


class _CutRecording:
    """The pieces so far of the recording that is cut between units at the moment: a plan has them in a row."""

    def __init__(self) -> None:
        self._id, self._pieces = "", 0
        self._owned: list[tuple[int, int, bool]] = []

    def owns(self, piece: Piece, found: tuple[int, int, bool] | Sequence[object] = ()) -> None:
        """Take in what a unit's ledger holds of its piece: first sample, last, and whether it is one that cannot be
        read. Raises TilingError after the last piece.
        """
        if piece.start == 0 and piece.end is None:
            return
        recording_id = clean(piece.recording.recording_id)
        if recording_id != self._id:
            self._id, self._pieces, self._owned = recording_id, 0, []
        self._pieces += 1
        if found:
            self._owned.append(found)  # type: ignore[arg-type]
        if piece.end is None and len(self._owned) == self._pieces:
            for (_, end, lost_before), (start, _, lost_after) in itertools.pairwise(sorted(self._owned)):
                # A piece that became unreadable between two units knows only its nominal edge, not the quiet point
                # beside it.
                if end != start and not (lost_before or lost_after):
                    raise TilingError(f"{recording_id} has a gap or overlap between units at samples {end}..{start}")
