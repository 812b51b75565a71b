"""What an export tells of each clip, whether it comes from a hand-off or straight from runs.

    HANDOFF: handoff.json, its indexes ──row by row──┐        ledger beside the tar: samples, licence, source
    RUN...:  ledgers, kept rows ─────────────────────┴──> ExportedClip ...      tar of others: names, headers

A clip lies in a member of a tar or is a stretch of a plain file. Only what every loader can read as it stands is
exported: the rest is counted under a reason in `LeftOut`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.annotate.manifest import known_labels
from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.handoff_record import HandoffRecord
from operators.index import CLIP_SCHEMA, Row, row_of
from operators.labelled.splits import known_split
from operators.shard import CLIP_COLUMNS, read_ledger
from operators.split import SPLITS
from operators.storage.base import S3Settings
from operators.storage.fetch import RangedFile, local_copy, locate
from operators.storage.uri import is_s3, resolve
from pipeline import ledger
from pipeline.handoff.runs import Run
from stages.write_shard import shard_keys

_LEDGER_COLUMNS = (*CLIP_COLUMNS.values(), "agreed_language", "uri", "start", "end", "provenance", "outcome")
_LICENCE_KEYS = ("license", "licence")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedClip:
    """An ExportedClip says where a clip's audio lies, what is said in it, and what else is known of it."""

    row: Row
    """as an index has it; of a clip from a run `shard` is its tar"""
    split: str
    member: str | None
    """name inside the tar; None: `row.shard` is a plain audio file"""
    samples: int
    """of the clip, at `sample_rate`"""
    sample_rate: int
    file_samples: int
    """of the member or file that holds the clip; more than `samples` where the clip is a stretch of it"""
    license: str | None
    source_url: str | None

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def start_seconds(self) -> float:
        """Return where the clip starts inside its member or file."""
        return (self.row.start_sample or 0) / SAMPLE_RATE

    @property
    def text(self) -> str:
        """Return the label on one line."""
        return " ".join(self.row.label.split())


@dataclass(slots=True)
class LeftOut:
    """LeftOut counts what could not be exported, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Ledger:
    """What the ledger of a tar adds to the index: by clip id, the samples, the domain and what the manifest said."""

    samples: Mapping[str, int]
    domains: Mapping[str, str]
    provenance: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class _Sound:
    """What the header of an audio file says."""

    sample_rate: int
    samples: int


class Sources:
    """Sources answer what an index does not say: a few tars' ledgers and names are kept at hand."""

    def __init__(self, s3: S3Settings) -> None:
        self.s3 = s3
        self.ledger_of = lru_cache(16)(self._ledger_of)
        self.names_of = lru_cache(16)(self._names_of)
        self.extension_of = lru_cache(64)(self._extension_of)
        self.plain_sound = lru_cache(64)(lambda uri, size: self._sound(uri, 0, size))

    def clip(self, row: Row, split: str, left_out: LeftOut) -> ExportedClip | None:
        """Return a row as a clip, or None, counted, where the loaders of others cannot read it. Raises UserError."""
        is_tar = row.shard.lower().endswith(".tar")
        known = self.ledger_of(row.shard) if is_tar else None
        if known is not None and row.clip_id in known.samples:
            samples = known.samples[row.clip_id]
            # A hand-off that balances names strata of train in place of domains.
            row = replace(row, domain=known.domains[row.clip_id])
            said = _provenance(known.provenance[row.clip_id])
            return ExportedClip(
                row=row,
                split=split,
                member=f"{row.clip_id}.{self.extension_of(row.shard, row.offset)}",
                samples=samples,
                sample_rate=SAMPLE_RATE,
                file_samples=samples,
                license=said[0],
                source_url=said[1],
            )
        member = self.names_of(row.shard).get(row.offset) if is_tar else None
        if is_tar and member is None:
            left_out.reasons["its tar has no member at the place that the index says"] += 1
            return None
        sound = self._sound(row.shard, row.offset, row.size) if is_tar else self.plain_sound(row.shard, row.size)
        if isinstance(sound, str):
            left_out.reasons[sound] += 1
            return None
        samples = sound.samples
        if row.end_sample is not None:
            samples = (row.end_sample - (row.start_sample or 0)) * sound.sample_rate // SAMPLE_RATE
        return ExportedClip(
            row=row,
            split=split,
            member=member,
            samples=samples,
            sample_rate=sound.sample_rate,
            file_samples=sound.samples,
            license=None,
            source_url=None,
        )

    def _ledger_of(self, tar: str) -> _Ledger | None:
        store, key = locate(tar[: -len(".tar")] + ".parquet", self.s3)
        try:
            data = store.read(key)
        except FileNotFoundError:
            return None
        try:
            table, _ = read_ledger(data, ("clip_id", "start", "end", "domain", "provenance", "outcome"))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise UserError(f"{store.url(key)} cannot be read ({error}): hand the run off again") from None
        kept = table.filter(pc.equal(table["outcome"], "kept"))
        ids = kept["clip_id"].to_pylist()
        samples = pc.subtract(kept["end"], kept["start"]).to_pylist()
        return _Ledger(
            dict(zip(ids, samples)),
            dict(zip(ids, kept["domain"].to_pylist())),
            dict(zip(ids, kept["provenance"].to_pylist())),
        )

    def _names_of(self, tar: str) -> dict[int, str]:
        store, key = locate(tar, self.s3)
        try:
            file = RangedFile(store, key, 0, store.size(key))
            with tarfile.open(fileobj=file, mode="r:") as members:
                return {member.offset_data: member.name for member in members if member.isfile()}
        except (tarfile.TarError, FileNotFoundError) as error:
            raise UserError(f"{tar} cannot be read ({error}): put it back, or hand off again without it") from None

    def _extension_of(self, tar: str, offset: int) -> str:
        # All clips of a tar of ours have one codec: the first that is asked for tells.
        store, key = locate(tar, self.s3)
        try:
            begin = store.read_range(key, offset, 4)
        except FileNotFoundError:
            raise UserError(f"{tar} is missing: put it back, or hand off again without it") from None
        return "flac" if begin == b"fLaC" else "opus"

    def _sound(self, uri: str, offset: int, size: int) -> _Sound | str:
        """Return what the header of a file, or of a member of a tar, says, or why others cannot read it."""
        import soundfile

        store, key = locate(uri, self.s3)
        try:
            info = soundfile.info(io.BytesIO(store.read_range(key, offset, size)))
        except FileNotFoundError:
            return "its audio is missing"
        except (soundfile.LibsndfileError, RuntimeError):
            return "its audio is no WAV, FLAC, Ogg or MP3, which is what the loaders read"
        if info.channels != 1:
            return "its audio has more than one channel, which the loaders would mix otherwise than we do"
        return _Sound(info.samplerate, info.frames)


def _provenance(text: str | None) -> tuple[str | None, str | None]:
    said = json.loads(text) if text else {}
    licence = next((str(said[key]) for key in _LICENCE_KEYS if said.get(key)), None)
    return licence, str(said["source_url"]) if said.get("source_url") else None


def clips_of_handoff(uri: str, record: HandoffRecord, sources: Sources, left_out: LeftOut) -> Iterator[ExportedClip]:
    """Yield the clips of every split of a hand-off, in the order of its indexes. Raises UserError."""
    for split in (name for name in SPLITS if name in record.splits):
        place = resolve(uri, record.splits[split].index)
        try:
            file = pa.memory_map(str(local_copy(place, sources.s3)))
            reader = pa.ipc.open_file(file)
        except (FileNotFoundError, pa.ArrowInvalid):
            raise UserError(f"{place} is missing or damaged: run the hand-off again") from None
        for number in range(reader.num_record_batches):
            for found in reader.get_batch(number).to_pylist():
                clip = sources.clip(row_of({key: found.get(key) for key in CLIP_SCHEMA.names}), split, left_out)
                if clip is not None:
                    yield clip


def clips_of_runs(runs: Sequence[Run], sources: Sources, left_out: LeftOut) -> Iterator[ExportedClip]:
    """Yield the kept clips of some runs, in the order of their units. Splits are those that manifests name, else train.

    A clip id that came before is left out. Raises UserError.
    """
    seen: set[str] = set()
    for run in runs:
        for table in ledger.ledgers(run.store, (*_LEDGER_COLUMNS, "unit_id")):
            for found in table.filter(pc.equal(table["outcome"], "kept")).to_pylist():
                if found["clip_id"] in seen:
                    left_out.reasons["another clip has its name: hand the runs off to have duplicates settled"] += 1
                    continue
                seen.add(found["clip_id"])
                clip = sources.clip(*_row_of_ledger(found, run), left_out)
                if clip is not None:
                    yield clip


def _row_of_ledger(found: Mapping[str, Any], run: Run) -> tuple[Row, str]:
    said = json.loads(found["provenance"]) if found["provenance"] else {}
    known = known_labels(said)
    columns = {own: found[name] for own, name in CLIP_COLUMNS.items()}
    for name in ("age", "gender", "emotion", "style", "events", "speaker"):
        columns[name] = known.get(name) if columns[name] is None else columns[name]
    columns["language"] = found["agreed_language"] or found["language"]
    columns["shard"] = run.store.url(shard_keys(found["unit_id"])[0])
    return row_of(columns), known_split(said.get("split")) or "train"


def refuse_s3(clip: ExportedClip, reader: str) -> None:
    """Raise UserError for a clip on S3, where a reader takes stretches of local files only."""
    if is_s3(clip.row.shard):
        raise UserError(
            f"{reader} reads stretches of local files only, and {clip.row.shard} is on S3: copy the shards to a disk "
            "and hand off from there, or take nemo, wenet or hf, which read S3"
        )
