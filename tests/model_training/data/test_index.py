"""The index as a file, and plain tars from elsewhere made into one."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from model_training.data.batching import BatchPlan, Planner
from model_training.data.features import Cmvn
from model_training.data.index import Index
from model_training.data.plain_tars import IndexSettings, index_from_tars
from model_training.data.reading import Batches, Reader, check_shards
from operators.clip import Word
from operators.errors import UserError
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import HandoffRecord
from operators.index import ADDED, INDEX_SCHEMA, Row, write_index
from operators.shard import feature_frames
from operators.split import SPLITS, Shares
from operators.storage.base import S3Settings
from operators.storage.uri import resolve
from tests.support.corpus import encoded, targets, voice, write_tar
from tests.support.s3_server import FaultyProxy, bucket, s3_server

__all__ = ["bucket", "s3_server"]


def many_rows(count: int) -> list[Row]:
    events = (None, (), ("dog",), ("dog", "siren"))
    return [
        Row(
            clip_id=f"c{n}",
            shard=f"s3://b/{n % 7}.tar",
            offset=n * 512,
            size=100 + n,
            frames=200 + n % 2000,
            label_tokens=n % 9,
            label=f"label {n} 你好" + " <event:cat>" * (n == 5),
            domain=("talk", "news")[n % 2],
            language=(None, "zh")[n % 2],
            gender=("male", None, "female")[n % 3],
            events=events[n % 4],
            recording_id=f"r{n // 5}",
            start_sample=n if n % 3 else None,
            end_sample=n + 1 if n % 3 else None,
            speaker=None,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 10, 70_000])
def test_rows_come_back_as_written(tmp_path: Path, count: int) -> None:
    rows = many_rows(count)
    assert write_index(tmp_path / "x.arrow", rows) == count
    index = Index.open(str(tmp_path / "x.arrow"))
    assert len(index) == count
    for number in {0, 1, 65_535, 65_536, count - 1} & set(range(count)):
        assert index.row(number) == rows[number]
    assert index.frames.tolist() == [row.frames for row in rows]
    assert index.frames.dtype == index.label_tokens.dtype == np.int32
    assert [index.domain_names[code] for code in index.domain_codes] == [row.domain for row in rows]
    every = np.arange(count)
    assert index.has_events(every).tolist() == [bool(row.events) for row in rows]
    for kind in ("language", "age"):
        assert index.labels(kind) == {getattr(row, kind) for row in rows} - {None}
    written = {"cat"} if count > 5 else set()
    assert index.labels("event") == {event for row in rows for event in row.events or ()} | written
    ends: dict[str, int] = {}
    for row in rows:
        ends[row.shard] = max(ends.get(row.shard, 0), row.offset + row.size)
    assert index.shard_ends() == ends
    with pytest.raises(IndexError):
        index.row(count)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_index(tmp_path / name, many_rows(100))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_columns_of_one_batch_are_not_copied(tmp_path: Path) -> None:
    write_index(tmp_path / "x.arrow", many_rows(1000))
    assert not Index.open(str(tmp_path / "x.arrow")).frames.flags.owndata


def test_an_index_written_by_others_may_have_many_batches_and_more_columns(tmp_path: Path) -> None:
    plain = pa.schema([(f.name, f.type) for f in INDEX_SCHEMA] + [("note", pa.string())])
    rows = many_rows(20)
    write_index(tmp_path / "x.arrow", rows)
    with pa.memory_map(str(tmp_path / "x.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
        table = table.append_column("note", pa.array(["n"] * 20))
        with pa.OSFile(str(tmp_path / "y.arrow"), "wb") as sink, pa.ipc.new_file(sink, plain) as writer:
            writer.write_table(table, max_chunksize=3)
    index = Index.open(str(tmp_path / "y.arrow"))
    assert [index.row(n) for n in range(20)] == rows
    assert index.shard_ends() == Index.open(str(tmp_path / "x.arrow")).shard_ends()


def test_more_text_than_one_array_holds_can_be_searched_and_taken_from(tmp_path: Path) -> None:
    long, row = "a" * 15_000_000, replace(many_rows(1)[0], domain="talk")
    write_index(tmp_path / "long.arrow", [replace(row, clip_id=long, label=long)])
    write_index(tmp_path / "short.arrow", [replace(row, domain="news", label="<event:dog>", events=("cat",))])
    tables = [pa.ipc.open_file(pa.memory_map(str(tmp_path / f"{name}.arrow"))).read_all() for name in ("long", "short")]
    index = Index(
        pa.concat_tables([tables[0]] * 150 + tables[1:]), "151 rows"
    )  # 2.25 GB, of which the memory holds 15 MB
    assert index.labels("event") == {"dog", "cat"}
    assert [len(name) for name in index.clip_ids(np.array([149, 150]))] == [len(long), 2]
    assert index.has_events(np.array([150, 0])).tolist() == [True, False]
    assert index.of_domain("news").row(0) == index.row(150)


def test_what_is_no_index_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.arrow").write_bytes(b"not arrow")
    with pytest.raises(UserError, match=r"bad\.arrow is no Arrow file") as caught:
        Index.open(str(tmp_path / "bad.arrow"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there is no index"):
        Index.open(str(tmp_path / "none.arrow"))
    with pytest.raises(UserError, match=r"https:// is no storage we know: give a local path or s3://"):
        Index.open("https://example.org/x.arrow")
    other = pa.table({"clip_id": ["a"]})
    with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(UserError, match="lacks the column shard"):
        Index.open(str(tmp_path / "other.arrow"))


def test_paths_are_relative_to_the_folder_unless_they_say_otherwise() -> None:
    assert resolve("s3://b/x/", "train.arrow") == "s3://b/x/train.arrow"
    assert resolve("/data/h", "cmvn.json") == "/data/h/cmvn.json"
    assert resolve("/data/h", "/x.tar") == "/x.tar"
    assert resolve("/data/h", "s3://b/x.tar") == "s3://b/x.tar"


def foreign_tar(path: Path, count: int = 40) -> dict[str, bytes]:
    """A tar as somebody else would write it: keys in a folder, several formats, some samples of no use."""
    members: list[tuple[str, bytes]] = []
    formats = [
        ("flac", "FLAC", "PCM_16"),
        ("wav", "WAV", "PCM_16"),
        ("opus", "OGG", "OPUS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
    ]
    for n in range(count):
        suffix, format, subtype = formats[n % 4]
        about = {
            "language": "en",
            "recording_id": f"rec{n // 2}",
            "gender": "female",
            "events": ["dog"] if n % 5 == 0 else [],
        }
        key = f"set/{n:03d}"
        members += [
            (f"{key}.{suffix}", encoded(voice(8_000 + 100 * n, seed=n), format, subtype)),
            (f"{key}.json", json.dumps(about).encode()),
            (f"{key}.txt", f"hello number {n}\n".encode()),
        ]
    members += [
        ("set/no-audio.txt", b"hello"),
        ("set/no-text.flac", encoded(voice(8_000))),
        ("set/corrupt.flac", b"fLaC nothing"), ("set/corrupt.txt", b"hello"),
        ("set/latin.flac", encoded(voice(8_000))), ("set/latin.txt", b"caf\xe9"),
        ("set/list.flac", encoded(voice(8_000))), ("set/list.json", b"[1]"), ("set/list.txt", b"hello"),
        ("set/000.flac", encoded(voice(9_000))), ("set/000.txt", b"again"),
    ]  # fmt: skip
    write_tar(path, members)
    return dict(members)


def test_plain_tars_from_elsewhere_can_be_trained_on(tmp_path: Path) -> None:
    tar = tmp_path / "songs" / "x.tar"
    foreign_tar(tar)
    asked: list[str] = []
    settings = IndexSettings(dev_share=0.2, test_share=0.2)
    record = index_from_tars(
        [str(tar)],
        tmp_path / "out",
        settings,
        build_tokenizer=lambda rows, folder: asked.extend(row.label for row in rows),
    )
    text = (tmp_path / "out" / "handoff.json").read_text(encoding="utf-8")
    assert HandoffRecord.from_json(text, "it") == record
    assert record.to_json() == text
    assert sum(split.clips for split in record.splits.values()) == 40
    assert list(record.domains) == ["songs"]
    indexes = {split: Index.open(str(tmp_path / "out" / f"{split}.arrow")) for split in ("train", "dev", "test")}
    recordings = [{index.row(n).recording_id for n in range(len(index))} for index in indexes.values()]
    assert all(recordings)
    assert sum(map(len, recordings)) == len(set().union(*recordings))
    train = indexes["train"]
    rows = [train.row(n) for n in range(len(train))]
    assert asked == [row.label for row in rows]
    assert record.attributes["gender"] == {"female": len(rows)}
    assert record.attributes["events"] == {"dog": sum(row.events == ("dog",) for row in rows)}
    bad = {line["clip_id"]: line["reason"] for line in map(json.loads, (tmp_path / "out" / "bad_samples.jsonl").open())}
    assert bad == {
        "set/no-audio": "unreadable",
        "set/no-text": "empty_label",
        "set/corrupt": "unreadable",
        "set/latin": "unreadable",
        "set/list": "unreadable",
        "set/000": "duplicate",
    }
    check_shards(train)
    sums = MelSums()
    for row in rows:
        sums = sums.add(filterbank(Reader().read(row)))
    cmvn = Cmvn.from_dict(json.loads((tmp_path / "out" / "cmvn.json").read_text()))
    np.testing.assert_array_equal(cmvn.mean, sums.cmvn()[0])
    plan = Planner(train, BatchPlan(max_frames=2000, max_clips=8))

    def on_bad(*what: str) -> None:
        pytest.fail(f"bad: {what}")

    def labels_as_numbers(row: Row) -> object:
        return targets(row.__class__(**{f: getattr(row, f) for f in row.__slots__} | {"label": "ab"}))

    made = Batches(
        train, plan, Reader(), labels_as_numbers, cmvn, last_global_batch=plan.batches_per_epoch(0), on_bad=on_bad
    )
    assert sum(len(batch.clip_ids) for batch in made) == len(rows)


def flac_that_claims_to_last_for_weeks() -> bytes:
    data = bytearray(encoded(voice(8_000)))
    data[21] |= 0x0F  # the 36 bits of STREAMINFO that count samples
    data[22:26] = b"\xff" * 4
    return bytes(data)


def test_a_claim_of_weeks_is_not_believed_and_costs_no_memory(tmp_path: Path) -> None:
    members = [("a.flac", flac_that_claims_to_last_for_weeks()), ("a.txt", b"hello")]
    write_tar(tmp_path / "x.tar", members)
    index_from_tars([str(tmp_path / "x.tar")], tmp_path / "out", IndexSettings(dev_share=0, test_share=0))
    assert Index.open(str(tmp_path / "out" / "train.arrow")).row(0).frames == feature_frames(8_000)


@pytest.mark.parametrize(
    ("name", "about", "bad"),
    [
        ("a\udcff", b"{}", ("a\\udcff", "unreadable")),
        ("a", b'{"text": "\\ud800"}', ("a", "unreadable")),
        ("a", b'{"text": "hi", "gender": "\\ud800"}', ("a", "unreadable")),
        ("a", b'{"text": {"en": "hi"}}', ("a", "unreadable")),
        ("a", b'{"text": null}', ("a", "empty_label")),
        ("a", b"[" * 100_000, ("a", "unreadable")),
        ("a", b'{"text": "hi", "events": 5}', ("a", "unreadable")),
        ("a", b'{"text": "hi", "events": "dog"}', ("a", "unreadable")),
    ],
)
def test_a_hostile_sample_costs_itself_alone(tmp_path: Path, name: str, about: bytes, bad: tuple[str, str]) -> None:
    sound = encoded(voice(8_000))
    members = [(f"{name}.flac", sound), (f"{name}.json", about), ("good.flac", sound), ("good.txt", b"hello")]
    write_tar(tmp_path / "x.tar", members)
    record = index_from_tars([str(tmp_path / "x.tar")], tmp_path / "out", IndexSettings(dev_share=0, test_share=0))
    assert record.splits["train"].clips == 1
    (line,) = (tmp_path / "out" / "bad_samples.jsonl").read_text(encoding="utf-8").splitlines()
    named = json.loads(line)
    assert named["clip_id"] == bad[0]
    assert named["reason"] in bad[1].split("|")


def test_members_that_are_no_part_of_a_sample_are_named(tmp_path: Path) -> None:
    """Samples are what webdataset says they are: neighbours with one key. The rest is no silent loss."""
    sound, other = encoded(voice(8_000)), encoded(voice(9_000))
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.linkname = len(data), link
            if link:
                info.type = tarfile.SYMTYPE
            tar.addfile(info, io.BytesIO(data))

        add("README", b"how this was made")
        for key in ("a", "b", "b", "c", "d"):  # the second b follows the first, so it is part of the same sample
            add(f"{key}.flac", sound if key != "d" else b"", "/etc/passwd" if key == "d" else "")
            add(f"{key}.txt", b"hello")
        add("c.1/e.FLAC", other)
        add("c.1/e.seg.txt", b"not the text")
        add("c.1/e.TXT", b"upper case")
        add("f.flac", sound)
        add("f.__bad__", b"1")
        add("f.__key__", b"1")
        add("f.pyd", b"cos\nsystem\n(S'false'\ntR.")
        add("f.txt", b"hello")
    index_from_tars([str(path)], tmp_path / "out", IndexSettings(dev_share=0, test_share=0))
    index = Index.open(str(tmp_path / "out" / "train.arrow"))
    rows = [index.row(number) for number in range(len(index))]
    assert [(row.clip_id, row.label) for row in rows] == [
        ("a", "hello"),
        ("b", "hello"),
        ("c", "hello"),
        ("c.1/e", "upper case"),
        ("f", "hello"),
    ]
    content = path.read_bytes()
    assert [content[row.offset : row.offset + row.size] for row in rows] == [sound, sound, sound, other, sound]
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").open(encoding="utf-8")]
    assert [(line["clip_id"], line["reason"]) for line in lines] == [
        ("README", "unreadable"),
        ("b", "duplicate"),
        ("d", "unreadable"),
        ("f", "duplicate"),
    ]
    assert "a link" in lines[2]["detail"]


def test_a_tar_on_s3_is_read_once_and_in_large_pieces(tmp_path: Path, s3_server: str, bucket: str) -> None:
    import boto3

    tar = tmp_path / "x.tar"
    numbered_tar(tar, 200)
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").upload_file(str(tar), bucket, "once/x.tar")
    with FaultyProxy(s3_server, []) as proxy:
        index_from_tars([f"s3://{bucket}/once/x.tar"], tmp_path / "out", s3=S3Settings(proxy.url))
        assert sum(request.sent_bytes for request in proxy.requests) < 1.5 * tar.stat().st_size
        assert len(proxy.requests) < 20


def test_tars_on_s3_give_the_same_index(tmp_path: Path, s3_server: str, bucket: str) -> None:
    import boto3

    tar = tmp_path / "songs" / "x.tar"
    foreign_tar(tar, 8)
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").upload_file(str(tar), bucket, "songs/x.tar")
    settings = IndexSettings(dev_share=0.2, test_share=0.2)
    index_from_tars([str(tar)], tmp_path / "local", settings)
    index_from_tars([f"s3://{bucket}/songs/x.tar"], tmp_path / "s3", settings, s3=S3Settings(s3_server))
    local, remote = (Index.open(str(tmp_path / where / "train.arrow")) for where in ("local", "s3"))
    assert {remote.row(n).shard for n in range(len(remote))} == {f"s3://{bucket}/songs/x.tar"}
    assert [local.row(n).offset for n in range(len(local))] == [remote.row(n).offset for n in range(len(remote))]
    assert (tmp_path / "local" / "cmvn.json").read_bytes() == (tmp_path / "s3" / "cmvn.json").read_bytes()
    named = [
        [json.loads(line)["clip_id"] for line in (tmp_path / where / "bad_samples.jsonl").open()]
        for where in ("local", "s3")
    ]
    assert named[0] == named[1] != []


def numbered_tar(path: Path, count: int = 30) -> None:
    sound = encoded(voice(8_000))
    write_tar(path, [each for n in range(count) for each in ((f"{n:06d}.flac", sound), (f"{n:06d}.txt", b"hello"))])


def damage(path: Path, *, flip: int | None = None, length: int | None = None) -> None:
    """Turn one byte of the header at `flip` over, or leave no more than `length` bytes."""
    content = bytearray(path.read_bytes())
    if flip is not None:
        content[flip + 5] ^= 1
    path.write_bytes(content[:length])


def headers(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


@pytest.mark.parametrize("slip", ["a header", "cut in a header", "cut between samples", "cut in a sample"])
def test_a_damaged_tar_is_refused_and_not_cut_short(tmp_path: Path, slip: str) -> None:
    """tarfile takes all but the last of these for the end of the archive."""
    tar = tmp_path / "x.tar"
    numbered_tar(tar)
    at = headers(tar)[20]
    size = {"cut in a header": at + 100, "cut between samples": at, "cut in a sample": at + 700}
    damage(tar, flip=at if slip == "a header" else None, length=size.get(slip))
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(tar))} is no plain tar .*: unpack it .* make it again$"
    ) as caught:
        index_from_tars([str(tar)], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_keys_that_begin_again_in_every_tar_are_clips_of_their_own(tmp_path: Path) -> None:
    for name in ("a/x-0.tar", "a/x-1.tar", "b/x-1.tar"):
        numbered_tar(tmp_path / name, 5)
    uris = [str(tmp_path / "a" / "x-0.tar"), str(tmp_path / "a" / "x-1.tar")]
    whole = IndexSettings(dev_share=0, test_share=0)

    def ids(uris: list[str], settings: IndexSettings = whole, split: str = "train") -> list[str]:
        index_from_tars(uris, tmp_path / "out", settings)
        index = Index.open(str(tmp_path / "out" / f"{split}.arrow"))
        return [index.row(n).clip_id for n in range(len(index))]

    assert ids(uris[:1]) == [f"{n:06d}" for n in range(5)], "of one tar, the key is enough"
    assert ids(uris) == [f"x-{tar}.tar#{n:06d}" for tar in (0, 1) for n in range(5)]
    assert ids([*uris, str(tmp_path / "b" / "x-1.tar")])[-1] == "b/x-1.tar#000004"
    # The same tar twice, however it is spelt, is no new sample.
    assert len(ids([*uris, os.path.relpath(uris[0])])) == 10
    assert (tmp_path / "out" / "bad_samples.jsonl").read_text().count('"duplicate"') == 5
    # More tars move no recording to another split.
    shared = IndexSettings(dev_share=0.3, test_share=0.3)
    before = ids(uris[:1], shared)
    assert 0 < len(before) < 5
    assert [name for name in ids(uris, shared) if name.startswith("x-0")] == [f"x-0.tar#{key}" for key in before]


def spoken_tar(path: Path, samples: list[tuple[str, dict[str, str]]]) -> None:
    sound = encoded(voice(8_000))
    members = [
        each
        for key, about in samples
        for each in ((f"{key}.flac", sound), (f"{key}.json", json.dumps(about | {"text": "hello"}).encode()))
    ]
    write_tar(path, members)


def splits_of(out: Path, uris: list[Path], settings: IndexSettings) -> dict[str, str]:
    """Clip id to split."""
    index_from_tars([str(uri) for uri in uris], out, settings)
    found = {}
    for split in ("train", "dev", "test"):
        index = Index.open(str(out / f"{split}.arrow"))
        found |= {index.row(number).clip_id: split for number in range(len(index))}
    return found


def test_no_speaker_and_no_recording_is_in_two_splits(tmp_path: Path) -> None:
    """Sixty recordings of twenty speakers, every fourth of whom shares one with the next."""
    samples = []
    for speaker in range(20):
        for take in range(3):
            recording = f"rec{speaker + (speaker % 4 == 0)}" if take == 0 else f"rec{speaker}-{take}"
            samples.append((f"s{speaker}-{take}", {"speaker": f"S{speaker}", "recording_id": recording}))
    spoken_tar(tmp_path / "x.tar", samples)
    found = splits_of(tmp_path / "out", [tmp_path / "x.tar"], IndexSettings(dev_share=0.3, test_share=0.3))
    assert set(found.values()) == {"train", "dev", "test"}
    for column in ("speaker", "recording_id"):
        named: dict[str, set[str]] = {}
        for key, about in samples:
            named.setdefault(about[column], set()).add(found[key])
        assert all(len(splits) == 1 for splits in named.values()), column
    for speaker in range(0, 20, 4):
        assert found[f"s{speaker}-1"] == found[f"s{speaker + 1}-1"], "tied by a recording with both"


def test_the_split_of_tars_is_that_of_a_handoff(tmp_path: Path) -> None:
    """The place of a speaker follows from seed and name, so the same speaker is in the same split of both."""
    samples = [(f"{n:03d}", {"speaker": f"S{n}"}) for n in range(40)]
    spoken_tar(tmp_path / "x.tar", samples)
    found = splits_of(tmp_path / "out", [tmp_path / "x.tar"], IndexSettings(dev_share=0.2, test_share=0.2, seed=5))
    shares = Shares(dev=0.2, test=0.2, seed=5)
    assert found == {key: SPLITS[shares.draw(f"speaker\0{about['speaker']}")] for key, about in samples}


def test_keys_that_start_again_tie_no_speakers(tmp_path: Path) -> None:
    for tar in (0, 1):
        spoken_tar(tmp_path / f"x-{tar}.tar", [(f"{n:03d}", {"speaker": f"S{(n + tar) % 20}"}) for n in range(20)])
    tars = [tmp_path / "x-0.tar", tmp_path / "x-1.tar"]
    found = splits_of(tmp_path / "out", tars, IndexSettings(dev_share=0.3, test_share=0.3))
    assert set(found.values()) == {"train", "dev", "test"}
    for n in range(20):
        assert found[f"x-0.tar#{(n + 1) % 20:03d}"] == found[f"x-1.tar#{n:03d}"], "the same speaker"


def test_a_tar_that_ties_a_speaker_of_test_to_one_of_train_gives_both_to_train(tmp_path: Path) -> None:
    spoken_tar(tmp_path / "a.tar", [(f"a{n}", {"speaker": f"S{n}"}) for n in range(20)])
    settings = IndexSettings(dev_share=0.2, test_share=0.3)
    before = splits_of(tmp_path / "out", [tmp_path / "a.tar"], settings)
    tested, trained = (next(key for key in before if before[key] == split)[1:] for split in ("test", "train"))
    spoken_tar(
        tmp_path / "b.tar",
        [(f"b{n}", {"speaker": f"S{speaker}", "recording_id": "both"}) for n, speaker in enumerate((tested, trained))],
    )
    after = splits_of(tmp_path / "out", [tmp_path / "a.tar", tmp_path / "b.tar"], settings)
    assert after.pop("b.tar#b0") == after.pop("b.tar#b1") == "train"
    assert {key.removeprefix("a.tar#"): split for key, split in after.items()} == before | {f"a{tested}": "train"}


def test_speakers_of_whom_none_is_left_to_train_on_are_one_line(tmp_path: Path) -> None:
    spoken_tar(tmp_path / "x.tar", [(f"{n}", {"speaker": "unknown"}) for n in range(4)])
    with pytest.raises(UserError, match=r"^the 4 samples are of 1 speakers or recordings, none of which fell to train"):
        index_from_tars([str(tmp_path / "x.tar")], tmp_path / "out", IndexSettings(dev_share=0.49, test_share=0.5))


def test_a_tar_whose_name_is_no_utf8_can_be_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for name in ("x.tar", "y.tar"):
        numbered_tar(folder / name, 3)
    uris = [str(folder / "x.tar"), str(folder / "y.tar")]
    record = index_from_tars(uris, tmp_path / "out", IndexSettings(dev_share=0, test_share=0))
    assert list(record.domains) == ["caf%E9"]
    index = Index.open(str(tmp_path / "out" / "train.arrow"))
    row = index.row(0)
    assert row.shard.startswith("bytes:/")
    assert row.clip_id == "x.tar#000000"
    check_shards(index)
    np.testing.assert_array_equal(Reader().read(row), voice(8_000))


def test_tars_that_cannot_be_indexed_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"\x1f\x8b gzip or so" * 100)
    with pytest.raises(UserError, match=r"x\.tar is no plain tar"):
        index_from_tars([str(tmp_path / "x.tar")], tmp_path / "out")
    with pytest.raises(UserError, match=r"no tar .*none\.tar"):
        index_from_tars([str(tmp_path / "none.tar")], tmp_path / "out")
    with pytest.raises(UserError, match="it is a folder, not a file"):
        index_from_tars([str(tmp_path)], tmp_path / "out")
    with pytest.raises(UserError, match="name at least one"):
        index_from_tars([], tmp_path / "out")
    write_tar(tmp_path / "empty.tar", [("a.txt", b"x")])
    with pytest.raises(UserError, match="none of the 1 samples"):
        index_from_tars([str(tmp_path / "empty.tar")], tmp_path / "out")
    with pytest.raises(UserError, match="leave nothing to train on"):
        IndexSettings(dev_share=0.6, test_share=0.5)


def test_an_index_from_before_later_columns_is_read_with_nothing_in_them(tmp_path: Path) -> None:
    """Attributes beyond the first ones, word times and quality came later."""
    word = Word(text="hello", start=800, end=4000)
    row = Row(
        clip_id="c", shard="x.tar", offset=0, size=1, frames=10, label_tokens=1, label="hello", domain="d",
        style="poetry", words=(word,), answer="yes", snr_db=12.5, bandwidth_hz=8000.0, clipped=0.0, dnsmos_ovrl=3.0,
    )  # fmt: skip
    path = tmp_path / "train.arrow"
    write_index(path, [row])
    now = Index.open(str(path))
    assert now.row(0) == row
    assert now.labels("style") == {"poetry"}
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    then = Index(table.drop_columns([*ADDED]), "older.arrow")
    assert then.row(0) == replace(row, **dict.fromkeys(ADDED))
    assert then.labels("style") == set()
    with pytest.raises(UserError, match="lacks the column gender"):
        Index(table.drop_columns(["gender"]), "other.arrow")


def test_a_samples_json_may_say_what_our_own_shards_say(tmp_path: Path) -> None:
    more = {"style": "poetry", "no_events": True, "snr_db": 20, "clipped": float("nan"), "answer": "yes"}
    words = [{"text": "hi", "start": 0, "end": 1600}]
    samples = [("a", more | {"words": words}), ("b", {"words": [{"text": "hi"}]}), ("c", {"snr_db": 10**400})]
    spoken_tar(tmp_path / "x.tar", samples)
    index_from_tars([str(tmp_path / "x.tar")], tmp_path / "out", IndexSettings(dev_share=0, test_share=0))
    index = Index.open(str(tmp_path / "out" / "train.arrow"))
    rows = {index.row(number).clip_id: index.row(number) for number in range(len(index))}
    assert rows.keys() == {"a", "c"}, "words without times are no words"
    assert (rows["a"].style, rows["a"].events, rows["a"].snr_db, rows["a"].clipped) == ("poetry", (), 20.0, None)
    assert (rows["a"].answer, rows["a"].words) == ("yes", (Word(text="hi", start=0, end=1600),))
    assert rows["c"].snr_db is None
