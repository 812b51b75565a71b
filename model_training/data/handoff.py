"""The hand-off directory, the trainer's only data argument: what a curation handed over, local or s3://.

DIR/handoff.json ──> splits (indexes of clips), weights of domains, cmvn.json, tokenizer/
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from model_training.config import endpoint_url
from model_training.data.features import Cmvn
from model_training.data.index import Index
from model_training.storage import Storage, StoreRefused, resolve
from model_training.text.tokenizer import FILE, Tokenizer
from operators.errors import UserError
from operators.handoff_record import HandoffRecord


@dataclass(frozen=True)
class Handoff:
    uri: str
    record: HandoffRecord
    storage: Storage

    @classmethod
    def open(cls, uri: str) -> Handoff:
        """Raises UserError when there is none, or it is of another version."""
        uri = uri.rstrip("/").removesuffix("/handoff.json")
        name = f"{uri}/handoff.json"
        try:
            record = HandoffRecord.from_json(_read_first(name), name)
        except FileNotFoundError:
            raise UserError(
                f"no {name}: give the directory that 'python -m pipeline handoff' or 'python -m model_training "
                "index' wrote"
            ) from None
        where = record.storage
        storage = Storage(endpoint_url(asdict(where)), where.region, where.addressing_style)
        return cls(uri, record, storage)

    def has(self, split: str) -> bool:
        return split in self.record.splits

    def index(self, split: str) -> Index:
        """Raises UserError when there is no such split."""
        if not self.has(split):
            raise UserError(f"{self.uri} has no split '{split}': it has {', '.join(self.record.splits)}")
        return Index.open(resolve(self.uri, self.record.splits[split].index), self.storage)

    def tokenizer(self) -> Tokenizer:
        name = resolve(self.uri, self.record.tokenizer)
        return Tokenizer.from_bytes(self._read(name if name.endswith(".json") else f"{name}/{FILE}"))

    def cmvn(self) -> Cmvn:
        return Cmvn.from_dict(self._cmvn_record)

    @property
    def cmvn_text(self) -> str:
        """The content of cmvn.json, as a checkpoint keeps it."""
        return json.dumps(self._cmvn_record)

    def domain_weights(self) -> dict[str, float]:
        """Return how often a clip of each domain is seen in an epoch."""
        return {name: domain.weight for name, domain in self.record.domains.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Of what batches depend on: indexes by their content, weights, normalisation."""
        digest = hashlib.sha256(json.dumps([self.domain_weights(), self._cmvn_record], sort_keys=True).encode())
        path = self.storage.fetch(resolve(self.uri, self.record.splits["train"].index))
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def _cmvn_record(self) -> dict[str, Any]:
        name = resolve(self.uri, self.record.cmvn)
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
