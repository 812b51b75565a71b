"""The hand-off directory, the trainer's only data argument: what a curation handed over, local or s3://.

DIR/handoff.json ──> splits (indexes of clips), weights of domains, cmvn.json, tokenizer/
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from model_training.config import s3_settings
from model_training.data.features import Cmvn
from model_training.data.index import Index
from model_training.text.tokenizer import FILE, Tokenizer
from operators.errors import UserError
from operators.storage.base import S3Settings, StoreRefused
from operators.storage.fetch import local_copy, locate
from operators.storage.uri import resolve

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Handoff:
    uri: str
    record: dict[str, Any]  # handoff.json
    s3: S3Settings
    """how the store of indexes and shards is reached"""

    @classmethod
    def open(cls, uri: str) -> Handoff:
        """Return the hand-off in a directory. Raises UserError when there is none, or it is of another version."""
        uri = uri.rstrip("/").removesuffix("/handoff.json")
        name = f"{uri}/handoff.json"
        try:
            data, s3 = _read_first(name)
            record = json.loads(data)
        except FileNotFoundError:
            raise UserError(
                f"no {name}: give the directory that 'python -m pipeline handoff' or 'python -m model_training "
                "index' wrote"
            ) from None
        except ValueError:
            raise UserError(f"{name} is damaged: run the hand-off again") from None
        if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{name} is of another version than {SCHEMA_VERSION}: run the hand-off again")
        if not isinstance(record.get("splits"), dict) or "train" not in record["splits"]:
            raise UserError(f"{name} names no split 'train': run the hand-off again")
        _check(name, record)
        return cls(uri, record, s3_settings({"addressing_style": s3.addressing_style} | _said(record)))

    def has(self, split: str) -> bool:
        return split in self.record["splits"]

    def index(self, split: str) -> Index:
        """Return the index of a split. Raises UserError when there is no such split."""
        if not self.has(split):
            raise UserError(f"{self.uri} has no split '{split}': it has {', '.join(self.record['splits'])}")
        return Index.open(resolve(self.uri, self.record["splits"][split]["index"]), self.s3)

    def tokenizer(self) -> Tokenizer:
        name = resolve(self.uri, self.record.get("tokenizer", "tokenizer"))
        return Tokenizer.from_bytes(self._read(name if name.endswith(".json") else f"{name}/{FILE}"))

    def cmvn(self) -> Cmvn:
        return Cmvn.from_dict(self._cmvn_record)

    @property
    def cmvn_text(self) -> str:
        """Return the content of cmvn.json, as a checkpoint keeps it."""
        return json.dumps(self._cmvn_record)

    def domain_weights(self) -> dict[str, float]:
        """Return, by domain, how often each of its clips is seen in an epoch."""
        return {name: float(domain.get("weight", 1.0)) for name, domain in self.record.get("domains", {}).items()}

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of what batches depend on: the index's content, weights, normalisation."""
        digest = hashlib.sha256(json.dumps([self.domain_weights(), self._cmvn_record], sort_keys=True).encode())
        path = local_copy(resolve(self.uri, self.record["splits"]["train"]["index"]), self.s3)
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def _cmvn_record(self) -> dict[str, Any]:
        name = resolve(self.uri, self.record.get("cmvn", "cmvn.json"))
        try:
            record = json.loads(self._read(name))
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{name} is damaged: run the hand-off again")
        return record

    def _read(self, uri: str) -> bytes:
        try:
            return _read(uri, self.s3)
        except FileNotFoundError:
            raise UserError(f"{uri} is missing from the hand-off: run it again") from None


def _read(uri: str, s3: S3Settings) -> bytes:
    store, key = locate(uri, s3)
    return store.read(key)


def _read_first(name: str) -> tuple[bytes, S3Settings]:
    """Return handoff.json, which says how its store wants to be addressed, and how it was reached before that was
    known.
    """
    s3 = s3_settings()
    try:
        return _read(name, s3), s3
    except StoreRefused as refused:
        # boto3 puts the bucket into the path of any endpoint but Amazon's; some stores take it in the host's name only.
        s3 = replace(s3, addressing_style="virtual")
        try:
            return _read(name, s3), s3
        except UserError:
            raise refused from None


def _said(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a hand-off says of its store."""
    return {name: value for name, value in (record.get("storage") or {}).items() if value is not None}


def _check(name: str, record: dict[str, Any]) -> None:
    """Check the kinds of what handoff.json says, perhaps by hand. Raises UserError naming what is of the wrong one."""
    domains, storage = record.get("domains", {}), record.get("storage") or {}
    kinds = [
        *((f"splits.{key}", value, dict) for key, value in record["splits"].items()),
        *(
            (f"splits.{key}.index", value.get("index"), str)
            for key, value in record["splits"].items()
            if isinstance(value, dict)
        ),
        ("domains", domains, dict),
        *((f"domains.{key}", value, dict) for key, value in (domains.items() if isinstance(domains, dict) else ())),
        ("tokenizer", record.get("tokenizer", ""), str),
        ("cmvn", record.get("cmvn", ""), str),
        ("storage", storage, dict),
        *(
            (f"storage.{key}", storage.get(key) or "", str)
            for key in ("endpoint_url", "region", "addressing_style")
            if isinstance(storage, dict)
        ),
    ]
    for key, value, kind in kinds:
        if not isinstance(value, kind):
            raise UserError(f"{name}: {key} is {value!r:.80}, which it cannot be: run the hand-off again")
    for key, domain in domains.items():
        weight = domain.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UserError(f"{name}: the weight of the domain {key} is {weight!r:.80}: give a number")
