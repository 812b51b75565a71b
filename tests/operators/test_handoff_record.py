"""handoff.json: what is written is read back, and what was changed by hand is named."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from operators.errors import UserError
from operators.handoff_record import (
    Choices,
    CuratedRun,
    DamagedShard,
    Domain,
    Duplicates,
    HandoffRecord,
    LabelledManifest,
    S3Place,
    SkippedRows,
    Split,
)

CURATED = HandoffRecord(
    seed=3,
    splits={"train": Split(index="train.arrow", clips=9, hours=1 / 3), "dev": Split(index="dev.arrow", clips=1)},
    domains={"live": Domain(weight=1.25, clips=9, hours=1 / 3), "新闻": Domain(weight=0.0)},
    attributes={"language": {"zh": 9}, "events": {}},
    runs=(
        CuratedRun(root="/runs/a", fingerprint="f", units=2, units_missing=1, clips=9, used_clips=8, used_hours=0.1),
    ),
    labelled=(LabelledManifest(manifest="x.jsonl", domain="read", skipped_rows=1, used_clips=2, used_hours=0.5),),
    duplicates=Duplicates(file="duplicates.parquet", clips=1, hours=0.25),
    skipped=SkippedRows(file="skipped.jsonl", rows=1),
    damaged=(DamagedShard(shard="/runs/a/shards/live/u.tar", what="the tar is missing"),),
    left_out=4,
    settings=Choices(dev=0.01, test=0.02, alpha=0.7, max_weight=4.0, weights={"live": 1.25}, checksums=True),
    storage=S3Place(endpoint_url="http://store:9000"),
)
OF_TARS = HandoffRecord(
    splits={"train": Split(index="train.arrow", clips=2, hours=0.5)},
    domains={"songs": Domain(clips=2, hours=0.5)},
    tars=("s3://bucket/x.tar",),
)


@pytest.mark.parametrize("record", [CURATED, OF_TARS], ids=["curated", "of tars"])
def test_a_record_comes_back_as_written(record: HandoffRecord) -> None:
    text = record.to_json()
    assert HandoffRecord.from_json(text, "handoff.json") == record
    assert HandoffRecord.from_json(text.encode(), "handoff.json").to_json() == text


def test_keys_stand_in_one_order_and_those_of_another_kind_of_hand_off_are_left_out() -> None:
    names = [each.name for each in fields(HandoffRecord)]
    assert list(json.loads(CURATED.to_json())) == [name for name in names if name != "tars"]
    of_runs = {"runs", "labelled", "duplicates", "left_out", "skipped", "damaged", "settings"}
    assert list(json.loads(OF_TARS.to_json())) == [name for name in names if name not in of_runs]
    storage = json.loads(OF_TARS.to_json())["storage"]
    assert storage == {"endpoint_url": None, "region": None, "addressing_style": None}


def test_what_a_reader_does_not_need_may_be_missing_or_more_than_is_known() -> None:
    record = HandoffRecord.from_json('{"schema_version": 1, "splits": {"train": {"index": "t", "of": 1}}, "x": 2}', "x")
    assert record == HandoffRecord(splits={"train": Split(index="t")})
    whole = json.loads(CURATED.to_json())
    assert HandoffRecord.from_json(json.dumps(whole | {"storage": None}), "x") == replace(CURATED, storage=S3Place())


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("schema_version",), 2, "is of another version than 1"),
        (("schema_version",), None, "is of another version than 1"),
        (("splits",), [], "names no split 'train'"),
        (("splits",), {"dev": {"index": "dev.arrow"}}, "names no split 'train'"),
        (("splits", "dev"), None, "splits.dev is None, which it cannot be"),
        (("splits", "train"), {}, "splits.train.index is None, which it cannot be"),
        (("splits", "train", "clips"), "9", "splits.train.clips is '9'"),
        (("domains",), [], "domains is []"),
        (("domains", "live"), 1.0, "domains.live is 1.0"),
        (("domains", "live", "weight"), "2x", "the weight of the domain live is '2x': give a number"),
        (("domains", "live", "weight"), True, "the weight of the domain live is True: give a number"),
        (("domains", "live", "weight"), float("nan"), "the weight of the domain live is nan: give a number"),
        (("domains", "live", "weight"), 10**400, "the weight of the domain live is 1000"),
        (("cmvn",), None, "cmvn is None"),
        (("tokenizer",), 5, "tokenizer is 5"),
        (("attributes", "language"), {"zh": "nine"}, "attributes.language.zh is 'nine'"),
        (("runs",), {}, "runs is {}"),
        (("runs",), [[]], "runs.0 is []"),
        (("damaged",), [{"shard": "x"}], "damaged.0.what is None"),
        (("storage",), [1], "storage is [1]"),
        (("storage",), {"region": 7}, "storage.region is 7"),
    ],
)
def test_what_was_changed_by_hand_is_named_in_one_line(keys: tuple[str, ...], value: Any, words: str) -> None:
    record = json.loads(CURATED.to_json())
    part = record
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    with pytest.raises(UserError) as caught:
        HandoffRecord.from_json(json.dumps(record), "s3://b/handoff.json")
    line = str(caught.value)
    assert line.startswith("s3://b/handoff.json")
    assert words in line
    assert "\n" not in line
    assert len(line) < 250


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff\xfe"])
def test_no_json_is_damage(text: str | bytes) -> None:
    with pytest.raises(UserError, match=r"^x is damaged: run the hand-off again$"):
        HandoffRecord.from_json(text, "x")


@pytest.mark.parametrize(
    ("clips", "held_out"),
    [
        ({"train": 9, "dev": 2, "test": 1}, "test"),
        ({"train": 9, "dev": 2, "test": 0}, "dev"),
        ({"train": 9, "dev": 0, "test": 0}, "train"),
        ({"train": 9}, "train"),
        ({"train": 0, "test": 3}, "test"),
    ],
)
def test_a_model_is_evaluated_on_what_was_held_out(clips: dict[str, int], held_out: str) -> None:
    record = HandoffRecord(splits={name: Split(index=f"{name}.arrow", clips=count) for name, count in clips.items()})
    assert record.held_out == held_out
