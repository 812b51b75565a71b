"""WriteShard: the unit's tar, its quarantine lines, then its ledger, whose presence is "done".

    Unit ──> shards/<domain>/<unit>.tar, of kept clips if any
         ──> quarantine/<unit>.jsonl, of what is unreadable if anything is
         ──> shards/<domain>/<unit>.parquet, the ledger: the commit
         └─filterbank of every kept clip──> sums, for the global mean and variance ──> the ledger's metadata

A unit that kept nothing has no tar: one without samples stops readers, webdataset's among them.

Every put is atomic and every byte is a function of the unit and the settings, so a worker that dies between any two
steps leaves an orphan that the next attempt overwrites with the same bytes. Audio does not travel further than here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from operators.audio.decode import encode_flac, encode_opus
from operators.clip import Unit
from operators.filterbank import MelSums, filterbank
from operators.shard import LedgerRow, decode_member, ledger_bytes, unit_rows, write_tar
from operators.text.spoken import RULES_VERSION, Normaliser, tokens
from stages.base import Resources, Store, clip_seconds


def shard_keys(unit_id: str) -> tuple[str, str, str]:
    """Return where a unit's tar, quarantine lines and ledger lie in a run directory."""
    domain = unit_id.rpartition("-")[0]
    stem = f"shards/{domain}/{unit_id}"
    return f"{stem}.tar", f"quarantine/{unit_id}.jsonl", f"{stem}.parquet"


@dataclass(frozen=True, kw_only=True)
class ShardFormat:
    """A ShardFormat says how clips are encoded, and the settings fingerprint that a ledger carries."""

    codec: str = "flac"
    opus_kbps: int = 32
    fingerprint: str = ""

    @property
    def extension(self) -> str:
        return self.codec

    def encoder(self) -> Callable[[np.ndarray], bytes]:
        return encode_flac if self.codec == "flac" else partial(encode_opus, bitrate=self.opus_kbps * 1000)


@dataclass(kw_only=True)
class WriteShard:
    store: Store
    format: ShardFormat = field(default_factory=ShardFormat)
    resources: Resources = field(default_factory=Resources)
    name: str = "WriteShard"

    def open(self) -> None:
        self._encode = self.format.encoder()
        # Libraries of tars and tables take over a second to import: now, not while the first unit waits.
        write_tar([], lambda _: b"", self.format.extension, label_length)
        ledger_bytes([], {})

    def close(self) -> None:
        pass

    def process(self, unit: Unit) -> Unit:
        audio = dict(zip((clip.clip_id for clip in unit.clips), unit.clip_audio(), strict=True))
        commit(self.store, unit.unit_id, unit_rows(unit), lambda row: self._encode(audio[row["clip_id"]]), self.format)
        return replace(unit, audio=np.zeros(0, np.int16))

    def heard_seconds(self, unit: Unit) -> float:
        return clip_seconds(unit)


def commit(
    store: Store, unit_id: str, rows: list[LedgerRow], audio: Callable[[LedgerRow], bytes], shard_format: ShardFormat
) -> None:
    """Write a unit's tar, if it kept anything, its quarantine lines and, last, its ledger. `audio(row)` gives the
    encoded audio of a kept row.
    """
    mel_sums = MelSums()

    def heard(row: LedgerRow) -> bytes:
        nonlocal mel_sums
        encoded = audio(row)
        # Of what the shard holds, not of what was cut: a trainer reads that, and `redecide` copies it.
        mel_sums = mel_sums.add(filterbank(decode_member(encoded)))
        return encoded

    tar, placed = write_tar(rows, heard, shard_format.extension, label_length)
    kept_clips = sum(row["outcome"] == "kept" for row in placed)
    if not kept_clips:
        tar = b""
    metadata = {
        "unit_id": unit_id,
        "fingerprint": shard_format.fingerprint,
        "text_rules": str(RULES_VERSION),
        "tar_bytes": str(len(tar)),
        "tar_sha256": hashlib.sha256(tar).hexdigest(),
        "kept_clips": str(kept_clips),
        "mel_sums": json.dumps(mel_sums.to_dict()),
    }
    tar_key, quarantine_key, ledger_key = shard_keys(unit_id)
    if kept_clips:
        store.put(tar_key, tar)
    elif store.exists(tar_key):  # an orphan, of a version that wrote empty tars
        store.delete(tar_key)
    lines = quarantine_lines(placed)
    if lines:
        store.put(quarantine_key, lines)
    store.put(ledger_key, ledger_bytes(placed, metadata))


_spoken = Normaliser()


def label_length(label: str, language: str | None) -> int:
    """Return how many tokens a label has as spoken: one per Han character, one per word in other scripts."""
    return len(tokens(_spoken.spoken(label, language)))


def quarantine_lines(rows: list[LedgerRow]) -> bytes:
    """Return one JSON line for each recording, or stretch of one, that could not be read."""
    names = ("uri", "recording_id", "domain", "unit_id", "start", "end", "stage", "reason", "detail")
    chosen = [{name: row[name] for name in names} for row in rows if row["outcome"] == "unreadable"]
    return "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in chosen).encode("utf-8")
