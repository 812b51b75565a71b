"""Shards are plain WebDataset, ledgers tile the input, and the same unit gives the same bytes."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset

from operators.audio.decode import encode_flac
from operators.clip import Clip, Hypothesis, Piece, Recording, Rejection, Span, Stretch, Unit, Verdict, clip_id
from operators.index import CLIP_SCHEMA
from operators.shard import (
    ANNOTATED,
    CLIP_COLUMNS,
    LEDGER_SCHEMA,
    content_hash,
    feature_frames,
    ledger_bytes,
    read_ledger,
    unit_rows,
    write_tar,
)

ODD = "talk #1 \U0001f399️ \udce9 ../../etc <b>"


def unit() -> Unit:
    recording = Recording(
        recording_id=ODD, uri=f"crawl/{ODD}.mp3", domain="talk", provenance={"license": "CC0", "year": 2020}
    )
    spans = [Span(8_000, 48_000), Span(48_000, 96_000), Span(100_000, 110_000)]
    verdicts = [
        Verdict(label="hello world"),
        Verdict(rejection=Rejection(stage="rover", reason="wer", detail="WER 50 %")),
        Verdict(rejection=Rejection(stage="segment", reason="too_short")),
    ]
    heard = Hypothesis(engine="whisperx", text="Hello, world", language="en", language_prob=0.9, avg_logprob=-0.1)
    clips = tuple(
        Clip(
            clip_id=clip_id(ODD, span),
            recording_id=ODD,
            span=span,
            speech_samples=9,
            hypotheses=(heard,),
            verdict=verdict,
        )
        for span, verdict in zip(spans, verdicts, strict=True)
    )
    stretches = (
        Stretch(recording_id=ODD, span=Span(0, 8_000), outcome="non_speech"),
        Stretch(
            recording_id=ODD,
            span=Span(96_000, 100_000),
            outcome="unreadable",
            rejection=Rejection(stage="decode", reason="gap"),
        ),
    )
    pcm = (np.random.default_rng(0).standard_normal(98_000) * 3000).astype(np.int16)
    return Unit(
        unit_id="talk-000000",
        domain="talk",
        pieces=(Piece(recording=recording),),
        clips=clips,
        stretches=stretches,
        audio=pcm,
    )


def shard() -> tuple[bytes, list[dict[str, object]], Unit]:
    made = unit()
    audio = dict(zip((clip.clip_id for clip in made.clips), made.clip_audio(), strict=True))
    tar, rows = write_tar(
        unit_rows(made), lambda row: encode_flac(audio[row["clip_id"]]), "flac", lambda text, _: len(text.split())
    )
    return tar, rows, made


def test_webdataset_reads_the_shard(tmp_path: Path) -> None:
    tar, _, made = shard()
    path = tmp_path / "talk-000000.tar"
    path.write_bytes(tar)
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [made.clips[0].clip_id]
    pcm, rate = soundfile.read(io.BytesIO(samples[0]["flac"]), dtype="int16")
    assert rate == 16_000
    assert np.array_equal(pcm, made.clip_audio()[0])
    assert samples[0]["txt"].decode() == "hello world"
    record = json.loads(samples[0]["json"])
    assert json.loads(record["provenance"]) == {"license": "CC0", "year": 2020}
    assert (record["start"], record["end"], record["duration"]) == (8_000, 48_000, 2.5)
    assert not {"age", "gender", "emotion", "events"} & record.keys(), "an unknown attribute is absent, never guessed"


def test_ledger_says_where_the_audio_lies() -> None:
    tar, rows, made = shard()
    kept = next(row for row in rows if row["outcome"] == "kept")
    member = tar[kept["tar_offset"] : kept["tar_offset"] + kept["tar_size"]]  # type: ignore[operator]
    assert np.array_equal(soundfile.read(io.BytesIO(member), dtype="int16")[0], made.clip_audio()[0])
    assert kept["label_tokens"] == 2
    assert kept["frames"] == feature_frames(40_000) == 248


def test_ledger_rows_tile_the_input_in_order() -> None:
    _, rows, _ = shard()
    assert [(row["start"], row["end"], row["outcome"], row["reason"]) for row in rows] == [
        (0, 8_000, "non_speech", None),
        (8_000, 48_000, "kept", None),
        (48_000, 96_000, "rejected", "wer"),
        (96_000, 100_000, "unreadable", "gap"),
        (100_000, 110_000, "rejected", "too_short"),
    ]


@pytest.mark.parametrize("first", ["good", "duplicate"])
def test_a_clip_has_the_uri_and_licence_of_the_recording_that_was_read(first: str) -> None:
    """Of two recordings with one id the plan refuses one, which may come first in the unit."""
    made = unit()
    refusal = Rejection(stage="plan", reason="duplicate", detail="the recording_id came before")
    other = Recording(recording_id=ODD, uri="crawl/a.mp3", domain="talk", provenance={"license": "PROPRIETARY"})
    pieces = [*made.pieces, Piece(recording=other, problem=refusal)]
    stretch = Stretch(recording_id=ODD, span=Span(0, 0), outcome="unreadable", rejection=refusal, uri=other.uri)
    made = replace(
        made, pieces=tuple(pieces if first == "good" else pieces[::-1]), stretches=(*made.stretches, stretch)
    )
    tar, rows = write_tar(unit_rows(made), lambda _: b"audio", "flac", lambda text, _: 1)
    told = [(row["reason"], row["uri"].endswith("a.mp3"), json.loads(row["provenance"])["license"]) for row in rows]
    assert [line for line in told if line[0] == "duplicate"] == [("duplicate", True, "PROPRIETARY")]
    assert {line[1:] for line in told if line[0] != "duplicate"} == {(False, "CC0")}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        (record,) = [json.load(opened.extractfile(name)) for name in opened.getnames() if name.endswith(".json")]  # type: ignore[arg-type]
    assert json.loads(record["provenance"]) == {"license": "CC0", "year": 2020}
    assert not record["uri"].endswith("a.mp3")


def test_same_unit_same_bytes_and_round_trip() -> None:
    first, second = shard(), shard()
    assert first[0] == second[0]
    data = ledger_bytes(first[1], {"unit_id": "talk-000000"})
    assert data == ledger_bytes(second[1], {"unit_id": "talk-000000"})
    table, metadata = read_ledger(data)
    assert table.schema.equals(LEDGER_SCHEMA)
    assert metadata["unit_id"] == "talk-000000"
    assert table.to_pylist()[1]["hypotheses"][0]["text"] == "Hello, world"


def test_a_ledger_from_before_a_column_was_added_is_read_with_nulls_in_it() -> None:
    """The first ledgers of this schema said neither how a clip was heard nor whether the numbers agree."""
    table, _ = read_ledger(ledger_bytes(shard()[1], {"unit_id": "talk-000000"}))
    heard = LEDGER_SCHEMA.field("hypotheses").type.value_type
    then = pa.list_(pa.struct([each for each in heard if each.name not in ("window", "retaken")]))
    fields = [each.with_type(then) if each.name == "hypotheses" else each for each in table.schema]
    first = pa.Table.from_pylist(
        table.to_pylist(), schema=pa.schema([each for each in fields if each.name != "numbers_agree"])
    )
    sink = io.BytesIO()
    pq.write_table(first, sink)
    found, _ = read_ledger(sink.getvalue())
    assert found.schema.equals(LEDGER_SCHEMA)
    assert [row["numbers_agree"] for row in found.to_pylist()] == [None] * len(table)
    hypothesis = found.to_pylist()[1]["hypotheses"][0]
    assert (hypothesis["text"], hypothesis["window"], hypothesis["retaken"]) == ("Hello, world", None, None)
    assert read_ledger(sink.getvalue(), ["numbers_agree", "label"])[0].column_names == ["numbers_agree", "label"]


def test_a_column_that_every_ledger_has_is_not_made_up() -> None:
    table, _ = read_ledger(ledger_bytes(shard()[1], {"unit_id": "talk-000000"}))
    stranger = io.BytesIO()
    pq.write_table(table.drop_columns(["start"]), stranger)
    with pytest.raises(ValueError, match="start"):
        read_ledger(stranger.getvalue())


@pytest.mark.parametrize(("extension", "order"), [("flac", ["flac", "json", "txt"]), ("opus", ["json", "opus", "txt"])])
def test_members_have_a_fixed_order_and_neither_time_nor_owner(extension: str, order: list[str]) -> None:
    tar, rows = write_tar(unit_rows(unit()), lambda _: b"audio", extension, lambda text, _: 1)
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        members = opened.getmembers()
    assert [member.name.rpartition(".")[2] for member in members] == order
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.mode == 0o644
        assert member.offset_data - member.offset == tarfile.BLOCKSIZE, "one header each, that any reader of tars knows"
    (kept,) = [row for row in rows if row["outcome"] == "kept"]
    assert tar[kept["tar_offset"] : kept["tar_offset"] + kept["tar_size"]] == b"audio"


def test_a_ledger_of_schema_1_is_read_with_nulls_for_what_came_later() -> None:
    _, rows, _ = shard()
    table, metadata = read_ledger(ledger_bytes(rows, {"unit_id": "u"}))
    older = table.drop_columns(["numbers_agree"])
    heard = pa.struct([each for each in older.schema.field("hypotheses").type.value_type if each.name not in LATER])
    older = older.set_column(
        older.schema.get_field_index("hypotheses"), "hypotheses", older["hypotheses"].cast(pa.list_(heard))
    )
    sink = io.BytesIO()
    pq.write_table(older.replace_schema_metadata({"touchasp.schema_version": "1"}), sink)
    for columns in (None, ["wer", "numbers_agree"], ["hypotheses"]):
        found, said = read_ledger(sink.getvalue(), columns)
        wanted = table.select(columns or table.column_names)
        assert found.schema.equals(wanted.schema)
        assert said["schema_version"] == "1"
        assert metadata["schema_version"] == "3"
        if "wer" in found.column_names:
            assert found["wer"].equals(table["wer"])
            assert found["numbers_agree"].null_count == len(found)


LATER = ("window", "retaken")
"""What schema 1 did not say of a hypothesis."""


def test_a_ledger_of_schema_2_is_read_with_nulls_for_what_annotate_finds() -> None:
    table, _ = read_ledger(ledger_bytes(shard()[1], {"unit_id": "u"}))
    heard = pa.struct([each for each in table.schema.field("hypotheses").type.value_type if each.name != "tags"])
    older = table.drop_columns([*ANNOTATED])
    older = older.set_column(
        older.schema.get_field_index("hypotheses"), "hypotheses", older["hypotheses"].cast(pa.list_(heard))
    )
    sink = io.BytesIO()
    pq.write_table(older.replace_schema_metadata({"touchasp.schema_version": "2"}), sink)
    found, _ = read_ledger(sink.getvalue())
    assert found.equals(table)
    for name in ANNOTATED:
        assert found[name].null_count == len(found)
    assert read_ledger(sink.getvalue(), ["snr_db", "wer"])[0].column_names == ["snr_db", "wer"]


def test_a_unit_without_kept_clips_has_an_empty_shard() -> None:
    made = replace(unit(), clips=(), stretches=(Stretch(recording_id=ODD, span=Span(0, 98_000), outcome="non_speech"),))
    tar, rows = write_tar(unit_rows(made), lambda _: b"audio", "flac", lambda text, _: 1)
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        assert opened.getnames() == []
    assert [row["tar_offset"] for row in rows] == [None]


def test_a_clip_without_verdict_is_a_bug() -> None:
    made = unit()
    undecided = Clip(clip_id="x", recording_id=ODD, span=Span(0, 98_000))
    with pytest.raises(ValueError, match="without a verdict"):
        unit_rows(Unit(unit_id="u", domain="talk", pieces=made.pieces, clips=(undecided,), audio=made.audio))


def test_clip_ids_are_safe_and_tell_recordings_apart() -> None:
    span = Span(0, 32_000)
    names = [clip_id(name, span) for name in (ODD, "a/b", "a-b", "a b", "", "." * 300, "日本語")]
    assert len(set(names)) == len(names)
    for name in names:
        assert "." not in name
        assert "/" not in name
        assert name.isascii()
        assert len(name) < 95, "USTAR holds names of up to 100 bytes"


def test_content_hash_is_of_the_samples() -> None:
    pcm = np.arange(100, dtype=np.int16)
    assert content_hash(pcm) == content_hash(pcm.copy()) != content_hash(pcm[::-1])


def test_a_ledger_has_the_columns_of_a_clips_row_under_its_own_names() -> None:
    """But for those that only a hand-off knows: which tar, what part of its audio, and what a manifest answers."""
    for name, own in CLIP_COLUMNS.items():
        assert LEDGER_SCHEMA.field(own).type == CLIP_SCHEMA.field(name).type
    told_later = {"shard", "start_sample", "end_sample", "answer"}
    assert CLIP_COLUMNS.keys() == set(CLIP_SCHEMA.names) - told_later
