"""One finished shard, proven to be as its ledger says, and what the hand-off takes from it.

    ledger ──page checksums──> kept rows ─┐
    tar ──size, SHA-256, members──────────┴──agree──> KeptUnit(rows, mel sums)
                                          └──do not─> Damage: which shard, and what is wrong with it

Ledgers of older versions lack a checksum of the tar, or the filterbank's sums: then the clips themselves are decoded,
each compared with the hash of its content, and summed.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from operators.errors import UserError
from operators.filterbank import MelSums, filterbank
from operators.shard import CLIP_COLUMNS, content_hash, decode_member, feature_frames
from operators.storage.base import AccessRefused, Store, StoreUnavailable
from pipeline import ledger
from stages.write_shard import shard_keys

_CHUNK_BYTES = 8 << 20
_THREADS = 4

COLUMNS = (*CLIP_COLUMNS.values(), "agreed_language", "uri", "start", "end", "content_hash", "provenance")
"""What of a kept row the hand-off uses."""

_OF_EVERY_CLIP = tuple(CLIP_COLUMNS[name] for name in ("clip_id", "recording_id", "domain", "label", "frames")) + tuple(
    CLIP_COLUMNS[name] for name in ("label_tokens", "offset", "size")
)
"""What no kept row lacks."""


@dataclass(frozen=True, slots=True)
class KeptUnit:
    """A KeptUnit holds the kept clips of one unit, in the order of its tar."""

    unit_id: str
    tar: str
    """URI."""
    rows: pa.Table
    """COLUMNS."""
    mel_sums: MelSums


@dataclass(frozen=True, slots=True)
class Damage:
    """A shard that is not as its ledger tells."""

    shard: str
    """URI of the tar, or of the ledger when that is at fault."""
    what: str


class _Damaged(Exception):
    """What is wrong with the tar at hand."""


def read_shards(store: Store, fingerprint: str, *, checksums: bool = True) -> Iterator[KeptUnit | Damage]:
    """Yield every finished shard of a run, in the order of unit names, some read ahead.

    Without `checksums` only sizes and counts are compared. Raises UserError when the run has no finished shard, or the
    store refuses.
    """
    tars = {key: size for key, size in store.list("shards/") if key.endswith(".tar")}
    names = sorted(ledger.done_units(store))
    if not names:
        raise UserError(
            f"no finished units in {store.root}: is this the output of a run? (expected shards/<domain>/*.parquet)"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[KeptUnit | Damage]] = deque()
        for name in names:
            waiting.append(pool.submit(_read_shard, store, name, tars, fingerprint, checksums))
            if len(waiting) == 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_shard(
    store: Store, unit_id: str, tars: Mapping[str, int], fingerprint: str, checksums: bool
) -> KeptUnit | Damage:
    tar_key, _, ledger_key = shard_keys(unit_id)
    try:
        table, metadata = ledger.read(store, unit_id)
    except (AccessRefused, StoreUnavailable):
        raise
    except UserError as error:
        return Damage(store.url(ledger_key), str(error))
    rows = table.filter(pc.equal(table["outcome"], "kept")).select(COLUMNS).combine_chunks()
    try:
        _check_ledger(rows, metadata, fingerprint)
        # Versions that wrote a tar of a unit that kept nothing said how large it was.
        has_tar = len(rows) > 0 or metadata.get("tar_bytes") != "0"
        if has_tar:
            _check_size(rows, metadata, tars.get(tar_key))
        decode = "mel_sums" not in metadata
        if checksums and has_tar:
            decode |= "tar_sha256" not in metadata
            _check_sum(store, tar_key, tars[tar_key], metadata.get("tar_sha256"))
        sums = _decode_all(store, tar_key, rows) if decode else MelSums.from_dict(json.loads(metadata["mel_sums"]))
    except FileNotFoundError:
        return Damage(store.url(tar_key), "the tar is missing")
    except _Damaged as error:
        return Damage(store.url(tar_key), str(error))
    return KeptUnit(unit_id, store.url(tar_key), rows, sums)


def _check_ledger(rows: pa.Table, metadata: Mapping[str, str], fingerprint: str) -> None:
    if metadata.get("fingerprint", fingerprint) != fingerprint:
        raise _Damaged("its ledger was written under other settings than the run's")
    if int(metadata.get("kept_clips", len(rows))) != len(rows):
        raise _Damaged(f"its ledger has {len(rows)} kept clips and says {metadata['kept_clips']}")
    for name in _OF_EVERY_CLIP:
        if rows[name].null_count:
            raise _Damaged(f"its ledger has kept clips without {name}")


def _check_size(rows: pa.Table, metadata: Mapping[str, str], size: int | None) -> None:
    if size is None:
        raise _Damaged("the tar is missing")
    if int(metadata.get("tar_bytes", size)) != size:
        raise _Damaged(f"it has {size:,} bytes, and {int(metadata['tar_bytes']):,} by its ledger")
    ends = pc.max(pc.add(rows["tar_offset"], rows["tar_size"])).as_py() if len(rows) else 0
    if ends > size:
        raise _Damaged(f"its clips end at byte {ends:,}, the tar at {size:,}")


def _check_sum(store: Store, key: str, size: int, expected: str | None) -> None:
    if expected is None:
        return
    digest = hashlib.sha256()
    for offset in range(0, size, _CHUNK_BYTES):
        digest.update(store.read_range(key, offset, _CHUNK_BYTES))
    if digest.hexdigest() != expected:
        raise _Damaged("its bytes are not those that were written (the SHA-256 differs)")


def _decode_all(store: Store, key: str, rows: pa.Table) -> MelSums:
    """Return the sums of the filterbank of every clip, each compared with the audio that was kept. Raises _Damaged."""
    sums = MelSums()
    for row in rows.select(["clip_id", "start", "end", "content_hash", "tar_offset", "tar_size"]).to_pylist():
        data = store.read_range(key, row["tar_offset"], row["tar_size"])
        try:
            pcm = decode_member(data)
        except ValueError as error:
            raise _Damaged(f"{row['clip_id']}: {error}") from error
        # A lossy codec gives other samples back than those that were hashed.
        changed = (
            data.startswith(b"fLaC") and row["content_hash"] is not None and content_hash(pcm) != row["content_hash"]
        )
        if changed or feature_frames(len(pcm)) != feature_frames(row["end"] - row["start"]):
            raise _Damaged(f"{row['clip_id']} is not the audio that its ledger describes")
        sums = sums.add(filterbank(pcm))
    return sums


def refuse(damages: Sequence[Damage]) -> None:
    """Raise a UserError that names what is damaged, when anything is."""
    if not damages:
        return
    named = "; ".join(f"{damage.shard}: {damage.what}" for damage in damages[:3])
    more = f"; and {len(damages) - 3} more" if len(damages) > 3 else ""
    raise UserError(
        f"{len(damages)} damaged shard{'s' if len(damages) > 1 else ''}: {named}{more}. "
        "Remove the tar and its ledger, and 'run' makes them again; or leave them out with --skip-damaged"
    )
