"""A few clips per domain to listen to: chosen by hash while ledgers are folded, fetched when the page is written.

    clip rows ──rank by hash──> Example, an address ──read its ledger──> row ──tar, or cut again──> Sound, small enough
    to embed

Choosing by hash needs no memory of what came before and gives one choice for any order of ledgers.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.clip import SAMPLE_RATE
from operators.shard import read_ledger
from pipeline.report.annotations import ATTRIBUTE_COLUMN
from pipeline.report.columns import codes
from stages.write_shard import shard_keys

EXAMPLES_PER_REASON = 4
EASY_LISTENING_SECONDS = 12
"""Longer clips are chosen only where there are no others: they cost a page of many domains too much."""
KEPT_PER_DOMAIN, REJECTED_PER_DOMAIN, LABELLED_PER_DOMAIN = 3, 5, 12
"""Kept clips whoever speaks in them, rejected ones, and kept ones of an attribute each."""
AUDIO_BUDGET_BYTES = 5_000_000
"""Of all audio in a page, before base64 makes it a third longer."""
OPUS_BITRATE = 24_000

Audio = Callable[[Mapping[str, Any]], "bytes | None"]
"""Cuts a clip again from its source, given its ledger row; an audio file, or None when that cannot be done any more."""


class RunStore(Protocol):
    """A RunStore does what the report needs of a run directory."""

    def read(self, key: str) -> bytes: ...

    def read_range(self, key: str, offset: int, size: int) -> bytes: ...

    def put(self, key: str, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An Example says where a clip is found again: its ledger and its span in samples. Its rank is a hash."""

    rank: int
    unit_id: str
    domain: str
    recording_id: str
    start: int
    end: int
    outcome: str
    stage: str = ""
    reason: str = ""
    attribute: str = ""
    """"gender: male" where the clip is an example of that."""

    @property
    def order(self) -> tuple[int, str, int]:
        return self.rank, self.recording_id, self.start

    @property
    def kind(self) -> tuple[str, ...]:
        return self.domain, self.outcome, self.stage, self.reason, self.attribute

    @property
    def place(self) -> tuple[str, int, int]:
        """Return what tells the clip apart from every other of its domain."""
        return self.recording_id, self.start, self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleClip:
    """An ExampleClip is an example with its ledger row and its audio, an Ogg Opus, FLAC or WAV file.

    The audio is None where it was too large or is gone.
    """

    example: Example
    row: Mapping[str, Any]
    audio: bytes | None


def candidates(clips: pa.Table) -> list[Example]:
    """Return the clips of lowest rank of each domain and cause in some clip rows (texts not null), and of each domain
    and attribute where the clips are annotated.
    """
    if not clips.num_rows:
        return []
    rank = _ranks(clips)
    causes = pc.binary_join_element_wise(*(clips[name] for name in ("domain", "outcome", "stage", "reason")), "\0")
    found = _lowest(clips, rank, np.arange(len(clips)), causes, "")
    if "opinions" not in clips.column_names:
        return found
    kept = clips.append_column("at", pa.array(np.arange(len(clips)))).filter(pc.equal(clips["outcome"], "kept"))
    for kind, column in ATTRIBUTE_COLUMN.items():
        values = kept[column].combine_chunks()
        parents = pa.array(np.arange(len(values)))
        if kind == "events":
            parents, values = pc.list_parent_indices(values), pc.list_flatten(values)
        known = pc.is_valid(values)
        parents, values = parents.filter(known), values.filter(known)
        rows = kept["at"].take(parents).to_numpy()
        for label in pc.unique(values).to_pylist():
            of_label = rows[np.asarray(pc.equal(values, label), bool)]
            domains = clips["domain"].take(pa.array(of_label))
            found += _lowest(clips, rank, of_label, domains, f"{kind}: {label}")
    return found


def _lowest(
    clips: pa.Table, rank: np.ndarray, rows: np.ndarray, kinds: pa.ChunkedArray, attribute: str
) -> list[Example]:
    """Return the EXAMPLES_PER_REASON of lowest rank of each kind among some rows; `kinds` says what each row is."""
    kind, _ = codes(kinds)
    order = np.lexsort((rank[rows], kind))
    begins = np.flatnonzero(np.diff(kind[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    chosen = rows[order[place < EXAMPLES_PER_REASON]]
    columns = ["unit_id", "domain", "recording_id", "start", "end", "outcome", "stage", "reason"]
    taken = clips.select(columns).take(pa.array(chosen)).to_pylist()
    return [Example(rank=int(rank[at]), attribute=attribute, **row) for at, row in zip(chosen, taken, strict=True)]


def choose(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Return the EXAMPLES_PER_REASON of lowest rank of each kind, in order of rank."""
    taken: dict[tuple[str, ...], int] = defaultdict(int)
    chosen = []
    for example in sorted(examples, key=lambda example: example.order):
        taken[example.kind] += 1
        if taken[example.kind] <= EXAMPLES_PER_REASON:
            chosen.append(example)
    return tuple(chosen)


def shortlist(examples: Iterable[Example], domain: str, lost: Mapping[tuple[str, str], int]) -> list[Example]:
    """Return what a page shows of one domain: kept clips, then rejected ones, one of each cause before a second of any.

    `lost` gives the samples lost to each (stage, reason): the costliest cause comes first.
    Of an annotated run, kept clips of each attribute are among them.
    """
    everything = [example for example in examples if example.domain == domain]
    mine = [example for example in everything if not example.attribute]
    kept = [example for example in mine if example.outcome == "kept"][:KEPT_PER_DOMAIN]
    kept += _of_each_attribute(everything, {example.place for example in kept})
    rounds: list[tuple[int, int, str, Example]] = []
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for example in mine:
        if example.outcome == "rejected":
            cause = (example.stage, example.reason)
            rounds.append((seen[cause], -lost.get(cause, 0), example.reason, example))
            seen[cause] += 1
    rejected = [example for *_, example in sorted(rounds, key=lambda entry: entry[:3])[:REJECTED_PER_DOMAIN]]
    return kept + sorted(rejected, key=lambda example: (-lost.get((example.stage, example.reason), 0), example.reason))


def _of_each_attribute(examples: Iterable[Example], shown: set[tuple[str, int, int]]) -> list[Example]:
    """Return an example of each attribute in turn, then a second of each, none of a clip that is shown already."""
    turns: dict[str, int] = defaultdict(int)
    rounds = []
    for example in examples:
        if example.attribute:
            rounds.append((turns[example.attribute], example.attribute, example))
            turns[example.attribute] += 1
    chosen: list[Example] = []
    for _, _, example in sorted(rounds, key=lambda entry: entry[:2]):
        if example.place not in shown and len(chosen) < LABELLED_PER_DOMAIN:
            shown.add(example.place)
            chosen.append(example)
    return chosen


def collect(store: RunStore, shortlists: list[list[Example]], audio: Audio | None) -> list[list[ExampleClip]]:
    """Return the examples of each domain with rows and audio.

    When the budget of bytes runs out, every domain has had its first ones.
    """
    rows = _find_rows(store, [example for shown in shortlists for example in shown])
    sounds: dict[Example, bytes | None] = {}
    left = AUDIO_BUDGET_BYTES
    turns = max(map(len, shortlists), default=0)
    for turn in range(turns):
        for shown in shortlists:
            # Kept and rejected by turns, so that a tight budget does not silence all of one kind.
            order = sorted(
                range(len(shown)), key=lambda at: at if shown[at].outcome == "kept" else at - _kept(shown) + 0.5
            )
            if turn < len(shown) and left > 0:
                example = shown[order[turn]]
                sound = _audio(store, rows[example], audio)
                if sound is not None and len(sound) <= left:
                    sounds[example] = sound
                    left -= len(sound)
    return [[ExampleClip(example=e, row=rows[e], audio=sounds.get(e)) for e in shown] for shown in shortlists]


def _kept(shown: list[Example]) -> int:
    return sum(example.outcome == "kept" for example in shown)


def _find_rows(store: RunStore, examples: list[Example]) -> dict[Example, dict[str, Any]]:
    by_unit: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_unit[example.unit_id].append(example)
    found = {}
    for unit_id, wanted in sorted(by_unit.items()):
        table, _ = read_ledger(store.read(shard_keys(unit_id)[2]))
        table = table.filter(pc.is_in(table["start"], pa.array([example.start for example in wanted], pa.int64())))
        rows = {(row["recording_id"], row["start"], row["end"], row["outcome"]): row for row in table.to_pylist()}
        for example in wanted:
            found[example] = rows[(example.recording_id, example.start, example.end, example.outcome)]
    return found


def _audio(store: RunStore, row: Mapping[str, Any], cut_again: Audio | None) -> bytes | None:
    if row["tar_offset"] is not None:
        data: bytes | None = store.read_range(shard_keys(row["unit_id"])[0], row["tar_offset"], row["tar_size"])
    else:
        data = cut_again(row) if cut_again else None
    return _small(data) if data else None


def _small(data: bytes) -> bytes:
    """Return the same sound as Ogg Opus, which is a sixth of FLAC; Opus stays as it is."""
    if data.startswith(b"OggS"):
        return data
    import soundfile  # loads a shared library; only a report with audio needs it

    from operators.audio.decode import encode_opus

    pcm, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    return encode_opus(np.ascontiguousarray(pcm[:, 0]), bitrate=OPUS_BITRATE) if rate == SAMPLE_RATE else data


def _ranks(clips: pa.Table) -> np.ndarray:
    """Return uint64 [clips]: a hash of recording and start, its top bit set for long clips so that they come last."""
    recording, names = codes(clips["recording_id"])
    mixed = np.array([name_hash(name) for name in names], np.uint64)[recording]
    mixed = mixed ^ (clips["start"].to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    # The finaliser of splitmix64 (Steele, Lea, Flood 2014): neighbouring starts get unrelated ranks.
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)
    long = clips["samples"].to_numpy() > EASY_LISTENING_SECONDS * SAMPLE_RATE
    return mixed | (long.astype(np.uint64) << np.uint64(63))


def name_hash(*parts: str) -> int:
    """Return 64 bits of a name, the same on every machine."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")
