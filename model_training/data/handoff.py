"""The hand-off directory, the trainer's only data argument: what a curation handed over, local or s3://.

DIR/handoff.json ──> splits (indexes of clips), weights of domains, cmvn.json, tokenizer/
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from model_training.config import s3_settings
from model_training.data.features import Cmvn
from model_training.data.index import Index
from model_training.text.tokenizer import FILE, Tokenizer
from operators.errors import UserError
from operators.handoff_record import HandoffRecord, S3Place
from operators.storage.base import S3Settings, StoreRefused
from operators.storage.fetch import local_copy, locate
from operators.storage.uri import resolve


@dataclass(frozen=True)
class Handoff:
    uri: str
    record: HandoffRecord
    s3: S3Settings
    """how the store of indexes and shards is reached"""

    @classmethod
    def open(cls, uri: str) -> Handoff:
        """Return the hand-off in a directory. Raises UserError when there is none, or it is of another version."""
        uri = uri.rstrip("/").removesuffix("/handoff.json")
        name = f"{uri}/handoff.json"
        try:
            data, s3 = _read_first(name)
            record = HandoffRecord.from_json(data, name)
        except FileNotFoundError:
            raise UserError(
                f"no {name}: give the directory that 'python -m pipeline handoff' or 'python -m model_training "
                "index' wrote"
            ) from None
        return cls(uri, record, s3_settings({"addressing_style": s3.addressing_style} | _said(record.storage)))

    def has(self, split: str) -> bool:
        return split in self.record.splits

    def index(self, split: str) -> Index:
        """Return the index of a split. Raises UserError when there is no such split."""
        if not self.has(split):
            there = ", ".join(self.record.splits)
            raise UserError(
                f"{self.uri} has no split '{split}', but {there}: choose another split, or hand off with a larger share"
            )
        return Index.open(resolve(self.uri, self.record.splits[split].index), self.s3)

    def tokenizer(self) -> Tokenizer:
        name = resolve(self.uri, self.record.tokenizer)
        return Tokenizer.from_bytes(self._read(name if name.endswith(".json") else f"{name}/{FILE}"))

    def cmvn(self) -> Cmvn:
        return Cmvn.from_dict(self._cmvn_record)

    @property
    def cmvn_text(self) -> str:
        """Return the content of cmvn.json, as a checkpoint keeps it."""
        return json.dumps(self._cmvn_record)

    def domain_weights(self) -> dict[str, float]:
        """Return how often a clip of each domain is seen in an epoch."""
        return {name: domain.weight for name, domain in self.record.domains.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of what batches depend on: the index's content, weights, normalisation."""
        digest = hashlib.sha256(json.dumps([self.domain_weights(), self._cmvn_record], sort_keys=True).encode())
        path = local_copy(resolve(self.uri, self.record.splits["train"].index), self.s3)
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
            return _read(uri, self.s3)
        except FileNotFoundError:
            if not self.record.splits["train"].clips:
                raise UserError(f"{self.uri} holds nothing to train on: all of it is held out, for 'eval'") from None
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


def _said(place: S3Place) -> dict[str, Any]:
    """Return what a hand-off says of its store."""
    return {name: value for name, value in asdict(place).items() if value is not None}


def evaluated_on(data: str) -> str:
    """Return the arguments of an evaluation, for a shell, on what a hand-off holds out. Raises UserError."""
    held_out = Handoff.open(data).record.held_out
    return f"--data {shlex.quote(data)}" + ("" if held_out == "test" else f" --split {held_out}")
