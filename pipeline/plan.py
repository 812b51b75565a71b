"""plan.parquet: the units of a run, a row each, written and read some thousands at a time.

    Unit ... ──save_plan──> plan.parquet ──load_plan──> Plan ──iterated──> Unit ...
                                                         └─without(done)──> Plan of what is left

A plan of a million hours has ten million pieces, which as objects would fill 8 GB. A Plan holds a bit for each unit and
makes the objects of a few thousand units at a time; its sums are taken from columns, without making any.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.clip import SAMPLE_RATE, Piece, Recording, Rejection, Unit
from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import local_copy
from operators.storage.scratch import scratch_file

PLAN_KEY = "plan.parquet"
PLAN_VERSION = 1

_PROBLEM = pa.struct([("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
_PIECE = pa.struct(
    [
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("language", pa.string()),
        ("provenance", pa.string()),  # JSON object
        ("start", pa.int64()),  # samples at 16 kHz
        ("end", pa.int64()),  # null: to the end of the recording
        ("declared_samples", pa.int64()),
        ("member_offset", pa.int64()),  # bytes in the tar
        ("member_size", pa.int64()),
        ("problem", _PROBLEM),
    ]
)
_ESTIMATED_PIECE = pa.struct([*_PIECE, ("estimated_samples", pa.int64())])
"""With the last column only where a recording declares no length: every other plan is as it was before there were
estimates.
"""


def _schema(piece: pa.StructType) -> pa.Schema:
    return pa.schema([("unit_id", pa.string()), ("domain", pa.string()), ("pieces", pa.list_(piece))])


def save_plan(
    units: Iterable[Unit],
    store: Store,
    fingerprint: str = "",
    *,
    estimated: bool | None = None,
    scratch: str | None = None,
) -> None:
    """Write plan.parquet, one row per unit; the same units give the same bytes.

    Args:
        units: in their order, as many as there are: a few thousand are held at a time.
        store: the run's.
        fingerprint: may name what they came from.
        estimated: whether any piece has an estimated length. None: `units` can be iterated twice, and is looked at.
        scratch: folder for the file until it is whole.
    """
    if estimated is None:
        estimated = (
            units.estimated
            if isinstance(units, Plan)
            else any(piece.estimated_samples is not None for unit in units for piece in unit.pieces)
        )
    metadata = {"touchasp.plan_version": str(PLAN_VERSION), "touchasp.fingerprint": fingerprint}
    columns = _ESTIMATED_PIECE if estimated else _PIECE
    with scratch_file(scratch) as (path, file):
        waiting = iter(units)
        with pq.ParquetWriter(file, _schema(columns).with_metadata(metadata), compression="zstd") as writer:
            while together := list(islice(waiting, UNITS_TOGETHER)):
                writer.write_table(_table(together, columns))
        file.flush()
        store.put(PLAN_KEY, Path(path))


UNITS_TOGETHER = 2048
"""Units of one part of the file: as many are held at a time."""


def _table(units: Sequence[Unit], piece_columns: pa.StructType) -> pa.Table:
    pieces = [piece for unit in units for piece in unit.pieces]
    columns = {
        "recording_id": [piece.recording.recording_id for piece in pieces],
        "uri": [piece.recording.uri for piece in pieces],
        "language": [piece.recording.language for piece in pieces],
        "provenance": [_to_json(piece.recording) for piece in pieces],
        "start": [piece.start for piece in pieces],
        "end": [piece.end for piece in pieces],
        "declared_samples": [piece.declared_samples for piece in pieces],
        "member_offset": [piece.member and piece.member[0] for piece in pieces],
        "member_size": [piece.member and piece.member[1] for piece in pieces],
        "problem": [piece.problem and asdict(piece.problem) for piece in pieces],
        "estimated_samples": [piece.estimated_samples for piece in pieces],
    }
    arrays = [pa.array(columns[column.name], column.type) for column in piece_columns]
    offsets = list(accumulate((len(unit.pieces) for unit in units), initial=0))
    structs = pa.StructArray.from_arrays(arrays, fields=list(piece_columns))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)
    unit_ids, domains = [unit.unit_id for unit in units], [unit.domain for unit in units]
    return pa.Table.from_arrays([pa.array(unit_ids), pa.array(domains), lists], schema=_schema(piece_columns))


def load_plan(store: Store) -> Plan:
    """Return the units of a run's plan.parquet. Raises UserError when there is none, or none that can be read."""
    try:
        # One request, where a read of each part of it on S3 would be thousands.
        path = local_copy(store.url(PLAN_KEY), getattr(store, "s3", None))
    except FileNotFoundError:
        raise UserError(f"{store.root} holds no plan: run 'plan' or 'run' with its settings first") from None
    plan = Plan(path, store.url(PLAN_KEY))
    if plan.version != str(PLAN_VERSION):
        raise UserError(f"{plan.url} has plan version {plan.version}, this program reads {PLAN_VERSION}: plan again")
    return plan


class Plan:
    """A Plan is the units of a plan.parquet, or those of them that are left, made anew each time it is iterated.

    Every method raises UserError where the file is damaged.
    """

    def __init__(self, path: Path, url: str, left: np.ndarray | None = None) -> None:
        """`left` bool [units of the file] says which are in this plan; None: all. `url` is for messages."""
        self.url, self._path, self._left = url, path, left
        with self._open() as file:
            metadata = file.schema_arrow.metadata or {}
            self._rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self.estimated = _has_estimates(file)
        self.version = metadata.get(b"touchasp.plan_version", b"none").decode()
        self.fingerprint = metadata.get(b"touchasp.fingerprint", b"").decode()
        """what `save_plan` was given."""

    def __len__(self) -> int:
        return sum(self._rows) if self._left is None else int(self._left.sum())

    def __iter__(self) -> Iterator[Unit]:
        for table in self._tables():
            with _damage_explained(self.url):
                units = list(_units(table))
            yield from units
            del units, table  # before the next ones are made

    def unit_ids(self) -> Iterator[str]:
        """Yield the names of the units, without making these."""
        for table in self._tables(("unit_id",)):
            yield from table["unit_id"].to_pylist()

    def without(self, done: Container[str]) -> Plan:
        """Return the plan of the units that are not among the `done`."""
        left = np.zeros(sum(self._rows), bool) if self._left is None else self._left.copy()
        at = np.arange(len(left)) if self._left is None else np.flatnonzero(left)
        left[at] = np.fromiter((unit_id not in done for unit_id in self.unit_ids()), bool, len(at))
        return Plan(self._path, self.url, left)

    def take(self, places: np.ndarray) -> Plan:
        """Return the plan of the units at some places of this one, counted from 0."""
        left = np.zeros(sum(self._rows), bool)
        left[places if self._left is None else np.flatnonzero(self._left)[places]] = True
        return Plan(self._path, self.url, left)

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 [units] `expected_samples` and int64 [units] `read_samples`, summed over the pieces of each."""
        expected, read = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for table in self._tables(("uri", "start", "end", "declared_samples", "estimated_samples", "stage")):
            lists = table["pieces"].combine_chunks()
            pieces = lists.flatten()
            known = pieces.field("declared_samples")
            if self.estimated:
                known = pc.coalesce(known, pieces.field("estimated_samples"))
            good = pc.and_(pc.is_null(pieces.field("problem").field("stage")), pc.is_valid(known))
            stop = pc.if_else(good, pc.coalesce(pieces.field("end"), known), pieces.field("start"))
            own = pc.max_element_wise(pc.subtract(stop, pieces.field("start")), 0)
            seeks = pc.ends_with(pieces.field("uri"), _SEEKABLE, ignore_case=True)
            run_through = pc.if_else(pc.and_(good, pc.invert(seeks)), stop, own)
            ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))
            for sums, column in ((expected, own), (read, run_through)):
                upto = np.concatenate([[0], np.cumsum(column.to_numpy(zero_copy_only=False))])
                sums.append(np.diff(upto[ends], prepend=0).astype(np.int64))
        return np.concatenate(expected), np.concatenate(read)

    def slugs(self) -> Counter[str]:
        """Return the number of units of each domain, by its slug."""
        return Counter(unit_id.rpartition("-")[0] for unit_id in self.unit_ids())

    def domains(self) -> set[str]:
        """Return the domains of the units."""
        return {domain for table in self._tables(("domain",)) for domain in pc.unique(table["domain"]).to_pylist()}

    def find(self, unit_id: str) -> Unit | None:
        """Return the unit of that name; the statistics of the file say where it may be."""
        with self._open() as file:
            for group in range(file.num_row_groups):
                names = file.metadata.row_group(group).column(0).statistics
                if names is None or not names.has_min_max or names.min <= unit_id <= names.max:
                    table = file.read_row_group(group)
                    found = table.filter(pc.equal(table["unit_id"], unit_id))
                    if len(found):
                        return next(_units(found))
        return None

    def declared_seconds(self) -> float:
        """Return the declared length of the audio; what declares none counts as nothing."""
        return sum(declared for declared, _ in self._samples()) / SAMPLE_RATE

    def expected_seconds(self) -> float:
        """Return `declared_seconds`, and an estimate for what declares none."""
        return sum(declared + estimated for declared, estimated in self._samples()) / SAMPLE_RATE

    def _samples(self) -> Iterator[tuple[int, int]]:
        """Yield the declared and the estimated samples of some thousand units."""
        columns = ("start", "end", "declared_samples", "estimated_samples", "stage")
        for table in self._tables(columns):
            pieces = table["pieces"].combine_chunks().flatten()
            start, end, declared = (pieces.field(name) for name in ("start", "end", "declared_samples"))
            of_declared = _planned(start, end, declared)
            if not self.estimated:
                yield of_declared, 0
                continue
            good = pc.is_null(pieces.field("problem").field("stage"))
            undeclared = pc.and_(good, pc.is_null(declared))
            estimates = pc.if_else(undeclared, pieces.field("estimated_samples"), None)
            yield of_declared, _planned(start, end, estimates)

    def _tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows of each part of the file that has units of this plan; `columns` name leaves."""
        start = 0
        with self._open() as file:
            leaves = None
            if columns is not None:
                paths = [file.schema.column(at).path for at in range(len(file.schema.names))]
                leaves = [path for path in paths if path.rpartition(".")[2] in columns]
            for group, rows in enumerate(self._rows):
                left = None if self._left is None else self._left[start : start + rows]
                start += rows
                if left is not None and not left.any():
                    continue
                table = file.read_row_group(group, leaves)
                yield table if left is None or left.all() else table.filter(pa.array(left))

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with _damage_explained(self.url), pq.ParquetFile(self._path) as file:
            yield file


@contextmanager
def _damage_explained(url: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        line = " ".join(str(error).split())[:100]
        raise UserError(f"{url} is damaged: put back a copy of it, or choose another output ({line})") from error


def declared_samples(piece: Piece) -> int:
    """Return the declared length of a piece, 0 where its recording declares none."""
    known = piece.declared_samples
    return 0 if known is None else max(0, (known if piece.end is None else piece.end) - piece.start)


_SEEKABLE = ".wav"
"""The form in which a decoder goes straight to a place; in every other it starts at the beginning."""


def expected_samples(piece: Piece) -> int:
    """Return the length of a piece, declared or else estimated; 0 where it is unknown, or the piece is refused."""
    known = piece.declared_samples if piece.declared_samples is not None else piece.estimated_samples
    if piece.problem is not None or known is None:
        return 0
    return max(0, (known if piece.end is None else piece.end) - piece.start)


def read_samples(piece: Piece) -> int:
    """Return about how many samples a decoder runs through to give a piece."""
    own = expected_samples(piece)
    return own + (piece.start if own and not piece.recording.uri.lower().endswith(_SEEKABLE) else 0)


def _planned(start: pa.Array, end: pa.Array, samples: pa.Array) -> int:
    """Return the samples of some pieces, each of a recording of so many; nothing where that is null."""
    stop = pc.if_else(pc.is_valid(samples), pc.coalesce(end, samples), None)
    return pc.sum(pc.max_element_wise(pc.subtract(stop, start), 0, skip_nulls=False)).as_py() or 0


def _has_estimates(file: pq.ParquetFile) -> bool:
    return file.schema_arrow.field("pieces").type.value_type.get_field_index("estimated_samples") >= 0


def _units(table: pa.Table) -> Iterator[Unit]:
    lists = table["pieces"].combine_chunks()
    flat = lists.flatten()
    counts, domains = lists.value_lengths().to_pylist(), table["domain"].to_pylist()
    domain_of_piece = [domain for domain, count in zip(domains, counts) for _ in range(count)]
    columns = _ESTIMATED_PIECE if flat.type.get_field_index("estimated_samples") >= 0 else _PIECE
    pieces = map(_piece, domain_of_piece, *(flat.field(column.name).to_pylist() for column in columns))
    for unit_id, domain, count in zip(table["unit_id"].to_pylist(), domains, counts, strict=True):
        yield Unit(unit_id=unit_id, domain=domain, pieces=tuple(islice(pieces, count)))


def _piece(
    domain: str,
    recording_id: str,
    uri: str,
    language: str | None,
    provenance: str,
    start: int,
    end: int | None,
    declared_samples: int | None,
    member_offset: int | None,
    member_size: int | None,
    problem: dict[str, str] | None,
    estimated_samples: int | None = None,
) -> Piece:
    recording = Recording(
        recording_id=recording_id, uri=uri, domain=domain, language=language, provenance=json.loads(provenance)
    )
    return Piece(
        recording=recording,
        start=start,
        end=end,
        declared_samples=declared_samples,
        estimated_samples=estimated_samples,
        member=None if member_offset is None or member_size is None else (member_offset, member_size),
        problem=None if problem is None else Rejection(**problem),
    )


def _to_json(recording: Recording) -> str:
    return (
        json.dumps(recording.provenance, ensure_ascii=False, allow_nan=False, sort_keys=True)
        if recording.provenance
        else "{}"
    )
