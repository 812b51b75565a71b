"""The shard and its ledger: what one finished unit looks like on disk, and how to read it back.

    <unit>.tar       kept clips only, WebDataset form: <clip_id>.flac, <clip_id>.txt, <clip_id>.json
    <unit>.parquet   the ledger: every stretch of every piece of the unit, kept or not; its presence means "done"

The ledger's rows tile the pieces of the unit: each sample of input is in exactly one row, so accounting is a sum over rows.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

OUTCOMES = ("kept", "rejected", "non_speech", "unreadable")

_HYPOTHESIS = pa.struct(
    [
        ("engine", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("language_prob", pa.float64()),
        ("avg_logprob", pa.float64()),
    ]
)

LEDGER_SCHEMA = pa.schema(
    [
        ("unit_id", pa.string()),
        ("domain", pa.string()),
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("start", pa.int64()),  # samples at 16 kHz from the start of the recording, half-open
        ("end", pa.int64()),
        ("outcome", pa.string()),  # one of OUTCOMES
        ("stage", pa.string()),  # of a rejected or unreadable row: who decided ...
        ("reason", pa.string()),  # ... why, from a closed list ...
        ("detail", pa.string()),  # ... and more for a reader
        # the rest is set on clips only (kept and rejected rows)
        ("clip_id", pa.string()),
        ("speech_samples", pa.int64()),
        ("content_hash", pa.string()),  # of the clip's PCM
        ("language", pa.string()),
        ("hypotheses", pa.list_(_HYPOTHESIS)),  # the ASR first, then the copilots
        ("asr_norm", pa.string()),  # spoken forms that were compared
        ("copilot_norm", pa.string()),
        ("reference", pa.string()),  # "asr" or "copilot"
        ("wer", pa.float64()),  # percent
        ("per", pa.float64()),
        ("tokens_per_second", pa.float64()),
        # kept clips only
        ("label", pa.string()),
        ("tar_offset", pa.int64()),  # of the .flac member's data in the tar, in bytes
        ("tar_size", pa.int64()),
        ("frames", pa.int32()),  # 10 ms feature frames (25 ms windows that fit)
        ("label_tokens", pa.int32()),
        ("provenance", pa.string()),  # JSON object: the manifest's other columns, as given
    ]
)
