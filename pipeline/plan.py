"""Plan: sources into units, a fixed order with fixed names, and plan.parquet that holds them.

    SourceFile + length ──sort by domain, uri──> pieces ──fill units of about 30 minutes──> Unit("podcast-000012")
                                   a recording longer than a unit: pieces with nominal edges at multiples of the unit's
                                   length

Names and contents of units depend on nothing but the sources and the plan's settings. Where a nominal edge really cuts
is found when the audio is read, at a quiet point of a window which both neighbours read.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate, groupby, islice

import pyarrow as pa
import pyarrow.parquet as pq

from operators.clip import SAMPLE_RATE, Piece, Recording, Rejection, Unit
from operators.errors import UserError
from operators.storage.base import Store
from pipeline.config import LEAST_UNIT_MINUTES, MOST_UNIT_MINUTES, PlanSettings
from pipeline.sources.files import SourceFile
from pipeline.sources.probe import Length

PLAN_KEY = "plan.parquet"
PLAN_VERSION = 1

UNKNOWN_SAMPLES = 60 * SAMPLE_RATE
"""What a recording that could not be probed counts for while units are filled."""
UNITS_OF_A_SHORT_RUN = 24
"""Units that sources are cut into at least, unless those were shorter than two minutes."""
LEAST_SAMPLES = SAMPLE_RATE
"""What every recording counts for at least: opening a file has its cost, and a unit stays bounded however short its
files are.
"""


def make_plan(files: Iterable[SourceFile], lengths: Sequence[Length], settings: PlanSettings) -> list[Unit]:
    """Return units of `unit_minutes` of raw audio, each of one domain.

    Args:
        files: every recording of the sources, those with a problem too: they travel in a unit of their domain and are
            counted.
        lengths: of each, as `probe_files` answers.
        settings: the unit's length, and how near to an edge the quiet point may lie.
    """
    files = list(files)
    unit_samples = round(unit_minutes(files, lengths, settings) * 60 * SAMPLE_RATE)
    radius = round(settings.edge_radius_seconds * SAMPLE_RATE)
    if not 0 <= 2 * radius < unit_samples:
        raise UserError(
            "plan.edge_radius_seconds must be less than half of plan.unit_minutes: neighbouring cuts would meet"
        )
    pairs = sorted(zip(files, lengths, strict=True), key=lambda pair: (pair[0].domain, pair[0].uri))
    slugs = domain_slugs(file.domain for file, _ in pairs)
    units: list[Unit] = []
    for domain, members in groupby(pairs, key=lambda pair: pair[0].domain):
        pieces = (piece for file, length in members for piece in _pieces(file, length, unit_samples, radius))
        for index, filled in enumerate(_fill(pieces, unit_samples)):
            units.append(Unit(unit_id=f"{slugs[domain]}-{index:06d}", domain=domain, pieces=filled))
    return units


def unit_minutes(files: Iterable[SourceFile], lengths: Sequence[Length], settings: PlanSettings) -> float:
    """Return how long units are: as set, else half an hour, less where that makes fewer than `UNITS_OF_A_SHORT_RUN`.

    A stage's worker has one unit at a time, so few units leave workers idle at the end. Under two minutes, though, the
    windows and batches inside a unit are no longer full.
    """
    if settings.unit_minutes is not None:
        return settings.unit_minutes
    total = sum(
        _samples(file.problem, length.declared, length.estimated) for file, length in zip(files, lengths, strict=True)
    )
    shared_out = total / SAMPLE_RATE / 60 / UNITS_OF_A_SHORT_RUN
    return min(max(shared_out, LEAST_UNIT_MINUTES), MOST_UNIT_MINUTES)


def _pieces(file: SourceFile, length: Length, unit_samples: int, radius: int) -> Iterator[Piece]:
    recording = file.recording()
    estimated = length.estimated if length.declared is None else None
    # A guess cuts nothing: an edge past the true end would be a piece of nothing.
    known = length.declared or (length.estimated if length.measured else None) or 0
    # The whole window of an edge lies inside the recording, so the last piece is a radius to a unit and a radius long.
    edges = range(unit_samples, known - radius, unit_samples)
    starts = [0, *edges]
    for start, end in zip(starts, [*edges, None], strict=True):
        yield Piece(
            recording=recording,
            start=start,
            end=end,
            declared_samples=length.declared,
            estimated_samples=estimated,
            member=file.member,
            problem=file.problem,
        )


def _fill(pieces: Iterable[Piece], unit_samples: int) -> Iterator[tuple[Piece, ...]]:
    """Yield pieces in their order, as many to a unit as fit; one that does not fit even alone is a unit."""
    filling: list[Piece] = []
    filled = 0
    for piece in pieces:
        weight = _weight(piece)
        if filling and filled + weight > unit_samples:
            yield tuple(filling)
            filling, filled = [], 0
        filling.append(piece)
        filled += weight
    if filling:
        yield tuple(filling)


def _weight(piece: Piece) -> int:
    return _samples(piece.problem, piece.end, piece.declared_samples, piece.estimated_samples, start=piece.start)


def _samples(problem: Rejection | None, *ends: int | None, start: int = 0) -> int:
    """What a file, or its part from `start`, counts for: to the first end that is known, a second where it is
    refused.
    """
    if problem is not None:
        return LEAST_SAMPLES
    return max(LEAST_SAMPLES, next((end for end in ends if end is not None), UNKNOWN_SAMPLES) - start)


def domain_slugs(domains: Iterable[str]) -> dict[str, str]:
    """Return a name for each domain that is safe in a path and as an S3 key, and belongs to no other of these domains.

    Letters and digits of every script stay (访谈 is 访谈), in lower case as some disks cannot tell "A" from "a"; the
    rest becomes "-". Where two domains would share a slug, the one that is spelled like it keeps it; the others get a
    hash.
    """
    distinct = sorted(set(domains))
    sharing: dict[str, list[str]] = defaultdict(list)
    for domain in distinct:
        sharing[_slug(domain)].append(domain)
    slugs = {domain: slug for slug, group in sharing.items() for domain in group if group == [domain] or domain == slug}
    taken = set(slugs.values())
    for domain in distinct:
        if domain not in slugs:
            digest = hashlib.sha256(domain.encode()).hexdigest()
            slug = next(name for length in range(8, 65) if (name := f"{_slug(domain)}-{digest[:length]}") not in taken)
            slugs[domain] = slug
            taken.add(slug)
    return slugs


def _slug(domain: str) -> str:
    kept = [c if _is_word(c) else "-" for c in unicodedata.normalize("NFKC", domain[:1000]).lower()]
    words = [word for word in "".join(kept).split("-") if word]
    return "-".join(words)[:32].strip("-") or "domain"


def _is_word(character: str) -> bool:
    # Marks are letters' vowels in many scripts.
    return character == "_" or unicodedata.category(character)[0] in "LMN"


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


def save_plan(units: Sequence[Unit], store: Store, fingerprint: str = "") -> None:
    """Write plan.parquet, one row per unit; the same units give the same bytes. `fingerprint` may name what they came
    from.
    """
    metadata = {"touchasp.plan_version": str(PLAN_VERSION), "touchasp.fingerprint": fingerprint}
    estimated = any(piece.estimated_samples is not None for unit in units for piece in unit.pieces)
    columns = _ESTIMATED_PIECE if estimated else _PIECE
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, _schema(columns).with_metadata(metadata), compression="zstd") as writer:
        for start in range(0, len(units), _UNITS_TOGETHER):
            writer.write_table(_table(units[start : start + _UNITS_TOGETHER], columns))
    store.put(PLAN_KEY, sink.getvalue())


_UNITS_TOGETHER = 2048


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


def load_plan(store: Store) -> list[Unit]:
    """Return the units of a run's plan.parquet. Raises UserError when there is none, or none that can be read."""
    with _open_plan(store) as file, _damage_explained(store):
        return [unit for group in range(file.num_row_groups) for unit in _units(file.read_row_group(group))]


def plan_fingerprint(store: Store) -> str:
    """Return the fingerprint that `save_plan` was given. Raises as `load_plan`."""
    with _open_plan(store) as file:
        return (file.schema_arrow.metadata or {}).get(b"touchasp.fingerprint", b"").decode()


def _open_plan(store: Store) -> pq.ParquetFile:
    try:
        content = store.read(PLAN_KEY)
    except FileNotFoundError:
        raise UserError(f"{store.root} holds no plan: run 'plan' or 'run' with its settings first") from None
    with _damage_explained(store):
        file = pq.ParquetFile(pa.BufferReader(content))
    version = (file.schema_arrow.metadata or {}).get(b"touchasp.plan_version", b"none").decode()
    if version != str(PLAN_VERSION):
        raise UserError(
            f"{store.url(PLAN_KEY)} has plan version {version}, this program reads {PLAN_VERSION}: plan again"
        )
    return file


@contextmanager
def _damage_explained(store: Store) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        line = " ".join(str(error).split())[:100]
        raise UserError(
            f"{store.url(PLAN_KEY)} is damaged: put back a copy of it, or choose another output ({line})"
        ) from error


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


def declared_seconds(units: Iterable[Unit]) -> float:
    """Return the declared length of the audio in some units; what declares none counts as nothing."""
    return sum(_planned(piece, piece.declared_samples) for unit in units for piece in unit.pieces) / SAMPLE_RATE


def expected_seconds(units: Sequence[Unit]) -> float:
    """Return `declared_seconds`, and an estimate for what declares none."""
    pieces = (piece for unit in units for piece in unit.pieces if piece.problem is None)
    undeclared = (piece for piece in pieces if piece.declared_samples is None)
    return declared_seconds(units) + sum(_planned(piece, piece.estimated_samples) for piece in undeclared) / SAMPLE_RATE


def _planned(piece: Piece, samples: int | None) -> int:
    """Return the samples of a piece of a recording of so many; 0 where that is not known."""
    return 0 if samples is None else max(0, (samples if piece.end is None else piece.end) - piece.start)
