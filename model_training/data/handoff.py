"""The hand-off directory, the trainer's only data argument: what a curation handed over, local or s3://.

DIR/handoff.json ──> splits (indexes of clips), weights of domains, cmvn.json, tokenizer/
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from model_training.config import endpoint_url
from model_training.data.features import Cmvn
from model_training.data.index import Index
from model_training.storage import Storage, StoreRefused, resolve
from model_training.text.tokenizer import FILE, Tokenizer
from operators.errors import UserError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Handoff:
    uri: str
    record: dict[str, Any]  # handoff.json
    storage: Storage

    @classmethod
    def open(cls, uri: str) -> Handoff:
        """Raises UserError when there is none, or it is of another version."""
        uri = uri.rstrip("/").removesuffix("/handoff.json")
        name = f"{uri}/handoff.json"
        try:
            record = json.loads(_read_first(name))
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
        where = record.get("storage") or {}
        return cls(uri, record, Storage(endpoint_url(where), where.get("region"), where.get("addressing_style")))

    def has(self, split: str) -> bool:
        return split in self.record["splits"]

    def index(self, split: str) -> Index:
        """Raises UserError when there is no such split."""
        if not self.has(split):
            raise UserError(f"{self.uri} has no split '{split}': it has {', '.join(self.record['splits'])}")
        return Index.open(resolve(self.uri, self.record["splits"][split]["index"]), self.storage)

    def tokenizer(self) -> Tokenizer:
        name = resolve(self.uri, self.record.get("tokenizer", "tokenizer"))
        return Tokenizer.from_bytes(self._read(name if name.endswith(".json") else f"{name}/{FILE}"))

    def cmvn(self) -> Cmvn:
        return Cmvn.from_dict(self._cmvn_record)

    @property
    def cmvn_text(self) -> str:
        """The content of cmvn.json, as a checkpoint keeps it."""
        return json.dumps(self._cmvn_record)

    def domain_weights(self) -> dict[str, float]:
        """How often a clip of the domain is seen in an epoch."""
        return {name: float(domain.get("weight", 1.0)) for name, domain in self.record.get("domains", {}).items()}

    @cached_property
    def fingerprint(self) -> str:
        """Of what batches depend on: indexes by their content, weights, normalisation."""
        digest = hashlib.sha256(json.dumps([self.domain_weights(), self._cmvn_record], sort_keys=True).encode())
        path = self.storage.fetch(resolve(self.uri, self.record["splits"]["train"]["index"]))
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
            return self.storage.read(uri)
        except FileNotFoundError:
            raise UserError(f"{uri} is missing from the hand-off: run it again") from None


def _read_first(name: str) -> bytes:
    """handoff.json, which says how its store wants to be addressed, and must be read before that is known."""
    try:
        return Storage(endpoint_url({})).read(name)
    except StoreRefused as refused:
        # boto3 puts the bucket into the path of any endpoint but Amazon's; some stores take it in the host's name only.
        try:
            return Storage(endpoint_url({}), addressing_style="virtual").read(name)
        except UserError:
            raise refused from None


def _check(name: str, record: dict[str, Any]) -> None:
    """Raises UserError where something in handoff.json is of the wrong kind, perhaps by hand."""
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
