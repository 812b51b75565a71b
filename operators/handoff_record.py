"""handoff.json: what a hand-off says of itself, written by curation or by `model_training index`, read by the trainer.

    HandoffRecord ──to_json──> the last file written ──from_json──> HandoffRecord, or one line saying what is wrong

Every class is an object of the JSON, every field a key of it, in this order. Of the outermost, keys that are None are
left out. What a reader needs must be there; the rest, which is for people, may be missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from operators.errors import UserError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split has an index, relative to the record's folder unless absolute, and so much audio."""

    index: str
    clips: int = 0
    hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain is seen so often, and has so much audio in train."""

    weight: float = 1.0
    """how often an epoch shows a clip of it"""
    clips: int = 0
    hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratedRun:
    """A run gave this much, and of it so much is used: not repeated by another source."""

    root: str
    fingerprint: str
    units: int = 0
    units_missing: int = 0
    """of its plan: not finished, or damaged"""
    clips: int = 0
    hours: float = 0.0
    used_clips: int = 0
    used_hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledManifest:
    """A labelled set gave so much that is used."""

    manifest: str
    domain: str
    skipped_rows: int = 0
    used_clips: int = 0
    used_hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """The clips that were left out because they repeat another, and the file that names them."""

    file: str
    clips: int = 0
    hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRows:
    """SkippedRows are the rows of labelled sets that could not be used, and the file that names them."""

    file: str
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedShard:
    """A shard was left out, for this reason."""

    shard: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Choices are what the user chose of the split, the weights and the checks."""

    dev: float
    test: float
    alpha: float
    max_weight: float
    weights: dict[str, float]
    checksums: bool
    where: str = ""
    """the condition that clips had to meet; "": none"""
    balance: tuple[str, ...] = ()
    """kinds of attribute over which train is shown more evenly: its domains are strata by them"""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """An S3Place says how the S3 of the shards is reached; None: as boto3 is set up."""

    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffRecord:
    """The record names everything that a trainer needs, and says where it came from."""

    schema_version: int = SCHEMA_VERSION
    seed: int = 0
    splits: dict[str, Split]
    """by name; "train" is always there"""
    domains: dict[str, Domain] = field(default_factory=dict)
    cmvn: str = "cmvn.json"
    tokenizer: str = "tokenizer"
    attributes: dict[str, dict[str, int]] = field(default_factory=dict)
    """kind (language, age, gender, emotion, style, events) -> label -> clips of train"""
    runs: tuple[CuratedRun, ...] | None = None
    labelled: tuple[LabelledManifest, ...] | None = None
    duplicates: Duplicates | None = None
    left_out: int | None = None
    """clips that did not meet the condition of `settings`"""
    skipped: SkippedRows | None = None
    damaged: tuple[DamagedShard, ...] | None = None
    settings: Choices | None = None
    tars: tuple[str, ...] | None = None
    """of a hand-off made of tars from elsewhere"""
    storage: S3Place = S3Place()

    @property
    def held_out(self) -> str:
        """Return the split to evaluate a model on: test, or dev where a small hand-off has no test, else train."""
        return next((name for name in ("test", "dev") if name in self.splits and self.splits[name].clips), "train")

    def to_json(self) -> str:
        """Return the text of handoff.json."""
        record = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str | bytes, name: str) -> HandoffRecord:
        """Read handoff.json, whose path or URI is `name`. Unknown keys are passed over. Raises UserError."""
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"{name} is damaged: run the hand-off again") from None
        if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{name} is of another version than {SCHEMA_VERSION}: run the hand-off again")
        if not isinstance(record.get("splits"), dict) or "train" not in record["splits"]:
            raise UserError(f"{name} names no split 'train': run the hand-off again")
        try:
            return _parse(record | {"storage": record.get("storage") or {}}, HandoffRecord, ())
        except _WrongKind as wrong:
            raise UserError(f"{name}: {wrong}") from None


class _WrongKind(Exception):
    """A value in the JSON is not of the kind that it must be."""

    def __init__(self, keys: tuple[str, ...], value: Any) -> None:
        match keys:
            case ("domains", domain, "weight"):
                super().__init__(f"the weight of the domain {domain} is {value!r:.80}: give a number")
            case _:
                super().__init__(f"{'.'.join(keys)} is {value!r:.80}, which it cannot be: run the hand-off again")


def _parse(value: Any, kind: Any, keys: tuple[str, ...]) -> Any:
    """Return the JSON value that `keys` lead to as `kind`: a class above, a number, a text, or several of one kind.

    Raises _WrongKind.
    """
    arguments = get_args(kind)
    if get_origin(kind) is UnionType:
        inner = next(each for each in arguments if each is not NoneType)
        return None if value is None else _parse(value, inner, keys)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        needed = {each.name for each in fields(kind) if each.default is each.default_factory is MISSING}
        given = [name for name in hints if name in value or name in needed]
        return kind(**{name: _parse(value.get(name), hints[name], (*keys, name)) for name in given})
    if get_origin(kind) is dict and isinstance(value, dict):
        return {name: _parse(each, arguments[1], (*keys, name)) for name, each in value.items()}
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_parse(each, arguments[0], (*keys, str(number))) for number, each in enumerate(value))
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise _WrongKind(keys, value)
