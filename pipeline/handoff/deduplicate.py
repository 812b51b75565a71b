"""Each clip once: which clips of a spool stay, and which repeat another.

content hashes, clip ids ──first wins──> kept, or the clip that it repeats
                                         └──> recordings that share audio, duplicates.parquet
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.names import first_places, keys
from pipeline.handoff.spool import Spool

CONTENT, NAME = 1, 2
REASONS = {CONTENT: "content", NAME: "clip_id"}
"""Why a clip is dropped: the same samples are there already, or the same stretch of a recording, decoded otherwise."""


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The outcome says what became of each of the spool's N clips."""

    repeats: np.ndarray
    """int64 [N]: the clip that it repeats; its own place when it stays."""
    reason: np.ndarray
    """int8 [N]: of REASONS, 0 when it stays."""

    @property
    def kept(self) -> np.ndarray:
        """Return bool [N]: whether the clip stays."""
        return self.reason == 0


def deduplicate(spool: Spool) -> Deduplicated:
    """Return which clips stay: of those with the same content, or the same name, the first in the order of sources."""
    ids, contents = [np.zeros((0, 2), np.uint64)], [np.zeros((0, 2), np.uint64)]
    for batch in spool.batches():
        own = keys(batch.column("clip_id").to_pylist())
        hashes = batch.column("content_hash")
        content = keys(text or "" for text in hashes.to_pylist())
        unknown = np.asarray(hashes.is_null())
        contents.append(np.where(unknown[:, None], own, content))
        ids.append(own)
    repeats = first_places(np.concatenate(contents))
    reason = np.where(repeats == np.arange(len(repeats)), 0, CONTENT).astype(np.int8)
    alive = np.flatnonzero(reason == 0)
    same_name = alive[first_places(np.concatenate(ids)[alive])]
    again = same_name != alive
    repeats[alive[again]] = same_name[again]
    reason[alive[again]] = NAME
    return Deduplicated(repeats, reason)


def repeated_audio(spool: Spool, found: Deduplicated) -> Iterator[tuple[int, int, int]]:
    """Yield (source, recording, recording) of recordings that share a clip, by their nodes."""
    dropped = np.flatnonzero(~found.kept)
    recording, source = spool.numbers("recording"), spool.numbers("source")
    triples = np.stack([source[dropped], recording[dropped], recording[found.repeats[dropped]]], axis=1)
    yield from map(tuple, np.unique(triples[triples[:, 1] != triples[:, 2]], axis=0).tolist())


def write_duplicates(path: Path, spool: Spool, found: Deduplicated, source_names: Sequence[str]) -> None:
    """Write a table of the dropped clips: each one, the clip that it repeats, where both are from, what is the same."""
    dropped = np.flatnonzero(~found.kept)
    first = found.repeats[dropped]
    distinct, place = np.unique(first, return_inverse=True)
    names = np.array(source_names, object)
    source = spool.numbers("source")
    columns = {
        "clip_id": spool.texts("clip_id", dropped),
        "dropped_run": names[source[dropped]].tolist(),
        "kept_clip_id": pa.array(spool.texts("clip_id", distinct), pa.string()).take(pa.array(place)),
        "kept_run": names[source[first]].tolist(),
        "same": [REASONS[reason] for reason in found.reason[dropped].tolist()],
    }
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
