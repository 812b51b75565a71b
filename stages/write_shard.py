"""WriteShard: the unit's tar, its quarantine lines, then its ledger, whose presence is "done".

    Unit ──> shards/<domain>/<unit>.tar ──> quarantine/<unit>.jsonl (if any) ──> shards/<domain>/<unit>.parquet   the commit

Every put is atomic and every byte is a function of the unit and the settings, so a worker that dies between any two steps
leaves an orphan that the next attempt overwrites with the same bytes. Audio does not travel further than here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from operators.audio import encode_flac, encode_opus
from operators.clip import Unit
from operators.shard import clean, ledger_bytes, ledger_table, write_tar
from operators.text import Normaliser, tokens
from stages.base import Resources, Store


def shard_keys(unit_id: str) -> tuple[str, str, str]:
    """Where a unit's tar, quarantine lines and ledger lie in a run directory."""
    domain = unit_id.rpartition("-")[0]
    stem = f"shards/{domain}/{unit_id}"
    return f"{stem}.tar", f"quarantine/{unit_id}.jsonl", f"{stem}.parquet"


@dataclass(kw_only=True)
class WriteShard:
    store: Store
    codec: str = "flac"
    opus_kbps: int = 32
    fingerprint: str = ""
    """of the settings that decide the output, kept in the ledger's metadata."""
    resources: Resources = field(default_factory=Resources)
    name: str = "WriteShard"

    def open(self) -> None:
        self._encode = encode_flac if self.codec == "flac" else partial(encode_opus, bitrate=self.opus_kbps * 1000)
        self._normaliser = Normaliser()

    def close(self) -> None:
        pass

    def process(self, unit: Unit) -> Unit:
        tar, places = write_tar(unit, self._encode, "flac" if self.codec == "flac" else "opus")
        table = ledger_table(unit, places, self._count_tokens)
        metadata = {
            "unit_id": unit.unit_id,
            "fingerprint": self.fingerprint,
            "tar_bytes": str(len(tar)),
            "tar_sha256": hashlib.sha256(tar).hexdigest(),
            "kept_clips": str(len(places)),
        }
        tar_key, quarantine_key, ledger_key = shard_keys(unit.unit_id)
        self.store.put(tar_key, tar)
        lines = quarantine_lines(unit)
        if lines:
            self.store.put(quarantine_key, lines)
        self.store.put(ledger_key, ledger_bytes(table, metadata))
        return replace(unit, audio=np.zeros(0, np.int16))

    def _count_tokens(self, label: str, language: str | None) -> int:
        return len(tokens(self._normaliser.spoken(label, language)))


def quarantine_lines(unit: Unit) -> bytes:
    """One JSON line for each recording, or stretch of one, that could not be read."""
    recordings = {piece.recording.recording_id: piece.recording for piece in unit.pieces}
    lines = []
    for stretch in unit.stretches:
        if stretch.outcome == "unreadable" and stretch.rejection is not None:
            line = {
                "uri": recordings[stretch.recording_id].uri,
                "recording_id": stretch.recording_id,
                "domain": unit.domain,
                "unit_id": unit.unit_id,
                "start": stretch.span.start,
                "end": stretch.span.end,
                "stage": stretch.rejection.stage,
                "reason": stretch.rejection.reason,
                "detail": stretch.rejection.detail,
            }
            lines.append(clean(json.dumps(line, ensure_ascii=False, sort_keys=True)) + "\n")
    return "".join(lines).encode("utf-8")
