"""Sources: every file of a crawl comes out once, good or with its problem, whatever it is called."""

from __future__ import annotations

import json
import os
import socket
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest

from operators.errors import UserError
from operators.storage.base import S3Settings
from operators.storage.fetch import Fetch, open_store
from operators.storage.tar_members import TarError, read_members
from pipeline.config import SourceSettings
from pipeline.sources.files import UNSORTED, check_source, read_sources
from pipeline.sources.probe import probe_files
from tests.support.recordings import make, manifest, problems, read, tar_bytes
from tests.support.s3_server import FaultyProxy

ODD_NAMES = [
    "100%25 real%20audio.mp3",
    "#1 & what's next?.opus",
    "🎙️ live set 🔥.MP3",
    "第001课 课堂录音.m4a",
    "new\nline.wav",
    "..title..of..dots...flac",
    "'; drop table.ogg",
    "<img src=x onerror=alert(1)>.webm",
    "a.tar#b.mp3",
]


# Folders


def test_the_shards_of_an_earlier_run_are_named_and_not_taken(tmp_path: Path, s3_server: str, bucket: str) -> None:
    crawl = tmp_path / "crawl"
    names = ("a/1.mp3", "runs/first/plan.parquet", "runs/first/shards/a/a-000000.tar", "shards/2.mp3", "z.mp3")
    make(crawl, *names)
    (crawl / names[2]).write_bytes(tar_bytes({"clip.flac": b"x"}))
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    for name in names:
        client.put_object(Bucket=bucket, Key=f"mixed/{name}", Body=(crawl / name).read_bytes())
    s3 = S3Settings(endpoint_url=s3_server)
    for files in (read(crawl), list(read_sources([SourceSettings(path=f"s3://{bucket}/mixed")], s3))):
        assert problems(files) == {"runs/first/shards": "earlier_run"}
        assert {file.recording_id for file in files if not file.problem} == {"a/1.mp3", "shards/2.mp3", "z.mp3"}
    (again,) = read(crawl / "runs" / "first" / "shards")
    assert again.recording_id == "a/a-000000.tar#clip.flac"


def test_a_folder_gives_its_first_folders_as_domains(tmp_path: Path) -> None:
    make(tmp_path, "b/2.mp3", "a/deep/er/1.WAV", "root.flac", "b/readme.txt", "b/1.mp3", ".git/x.mp3", "b/._1.mp3")
    files = read(tmp_path)
    assert [(file.recording_id, file.domain) for file in files] == [
        ("root.flac", UNSORTED),
        ("a/deep/er/1.WAV", "a"),
        ("b/1.mp3", "b"),
        ("b/2.mp3", "b"),
    ]
    assert files[0].uri == str(tmp_path / "root.flac")
    assert files[0].bytes == len("root.flac")
    assert {(file.domain, file.language) for file in read(tmp_path, domain="x", language="zh")} == {("x", "zh")}


def test_odd_names_lead_back_to_their_files(tmp_path: Path) -> None:
    make(tmp_path, *(f"d/{name}" for name in ODD_NAMES))
    raw = os.path.join(os.fsencode(tmp_path), b"d", b"caf\xe9 \xff.mp3")
    Path(os.fsdecode(raw)).write_bytes(b"not UTF-8")
    files = read(tmp_path)
    assert len(files) == len(ODD_NAMES) + 1
    for file in files:
        json.dumps(file.uri + file.recording_id, ensure_ascii=False).encode()  # valid Unicode
        with Fetch().fetch(file.uri, file.member) as path:
            content = Path(path).read_bytes()
        assert content in (b"not UTF-8", file.recording_id.encode())
    assert "d/caf\\xe9 \\xff.mp3" in [file.recording_id for file in files]


def test_what_only_looks_like_audio_is_counted_and_never_opened(tmp_path: Path) -> None:
    make(tmp_path, "album.mp3/1.mp3", "good.mp3")
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.mp3"))
    (tmp_path / "gone.mp3").symlink_to("/nonexistent/target")
    (tmp_path / "null.wav").symlink_to("/dev/null")
    files = read(tmp_path)
    assert problems(files) == dict.fromkeys(("album.mp3", "pipe.wav", "s.mp3", "null.wav"), "not_a_file")
    # A dangling link may be a disk that is not mounted now: reading it will say that it is missing.
    assert {file.recording_id for file in files if not file.problem} == {"album.mp3/1.mp3", "good.mp3", "gone.mp3"}


def test_links_are_followed_once_and_never_round(tmp_path: Path) -> None:
    make(tmp_path, "crawl/a/1.mp3", "pool/2.mp3", "pool/3.mp3", "crawl/.annex/4.mp3")
    crawl = tmp_path / "crawl"
    (crawl / "pool").symlink_to(tmp_path / "pool")
    (crawl / "again").symlink_to(tmp_path / "pool")
    (crawl / "a" / "loop").symlink_to(crawl)
    (crawl / "up").symlink_to(tmp_path)
    (tmp_path / "pool" / "back").symlink_to(crawl / "a")
    (crawl / "a" / "same.mp3").symlink_to(crawl / "a" / "1.mp3")
    (crawl / "b").mkdir()
    (crawl / "b" / "annexed.mp3").symlink_to("../.annex/4.mp3")
    (crawl / "b" / "far.mp3").symlink_to(tmp_path / "elsewhere.mp3")
    make(tmp_path, "elsewhere.mp3")
    files = read(crawl)
    assert problems(files) == {"a/same.mp3": "duplicate"}
    good = {os.path.realpath(file.uri) for file in files if not file.problem}
    assert good == {
        str(tmp_path / name)
        for name in ("crawl/a/1.mp3", "pool/2.mp3", "pool/3.mp3", "crawl/.annex/4.mp3", "elsewhere.mp3")
    }
    assert len(files) == 6


def test_a_folder_that_may_not_be_listed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.mp3", "locked/2.mp3")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.rstrip("/").endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)  # root may list everything
    files = read(tmp_path)
    assert problems(files) == {"locked": "permission"}
    assert len(files) == 2


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "has no path"),
        ("nowhere/", "does not exist"),
        ("http://host/crawl", "http:// cannot be read"),
        ("file:///crawl", "file:// cannot be read"),
        ("x.tar.gz", "has a form that cannot be read"),
        ("file.txt", "is no folder, manifest"),
        ("talk.mp3", "for one recording give its folder"),
        ("empty/", "no audio in the source"),
        ("gone.jsonl", "gone.jsonl"),
        ("zeros.tar", "not a tar"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "x.tar.gz", "file.txt", "talk.mp3", "empty/readme.txt", "zeros.tar")
    with pytest.raises(UserError, match=line) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_two_crawls_with_the_same_names_are_not_duplicates(tmp_path: Path) -> None:
    make(tmp_path, "one/a/1.mp3", "two/a/1.mp3")
    files = read(tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a")
    assert [(file.recording_id, file.problem and file.problem.reason) for file in files] == [
        ("a/1.mp3", None),
        (f"{tmp_path}/two/a/1.mp3", None),
        ("1.mp3", "duplicate"),
    ]


# Tars


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_of_a_tar_are_found_where_they_lie(tmp_path: Path, format: int) -> None:
    contents = {f"talk/{name}": name.encode() * 100 for name in ODD_NAMES} | {
        "talk/" + "长" * 60 + ".mp3": b"x",
        "flat.mp3": b"y",
    }
    raw = tar_bytes({**contents, "talk/1.json": b"{}"}, format)
    (tmp_path / "crawl.tar").write_bytes(raw)
    files = read(tmp_path / "crawl.tar")
    assert {file.recording_id for file in files} == {f"crawl.tar#{name}" for name in contents}
    for file in files:
        assert file.member
        offset, size = file.member
        name = file.recording_id.partition("#")[2]
        assert raw[offset : offset + size] == contents[name]
        assert file.uri == f"{tmp_path}/crawl.tar#{name}"
        assert file.domain == ("talk" if "/" in name else UNSORTED)
        with Fetch().fetch(file.uri, file.member) as path:
            assert path == str(tmp_path / "crawl.tar")


def test_a_manifest_and_a_folder_can_name_members(tmp_path: Path) -> None:
    make(tmp_path, "pod/x.tar#plain.mp3")
    (tmp_path / "pod" / "x.tar").write_bytes(tar_bytes({"a/1.mp3": b"1" * 700, "2.mp3": b"2", "#.mp3": b"3"}))
    by_folder = read(tmp_path)
    names = ("pod/x.tar#a/1.mp3", "pod/x.tar#2.mp3", "pod/x.tar#plain.mp3", "pod/x.tar##.mp3")
    assert {file.recording_id: file.domain for file in by_folder} == dict.fromkeys(names, "pod")
    uris = ["pod/x.tar#2.mp3", "pod/x.tar#gone.mp3", "gone.tar#1.mp3", "pod/x.tar#plain.mp3", "pod/x.tar##.mp3"]
    files = read(manifest(tmp_path, "\n".join(json.dumps({"uri": uri}) for uri in uris)))
    assert problems(files) == {"pod/x.tar#gone.mp3": "missing", "gone.tar#1.mp3": "missing"}
    folder = {file.recording_id: file.member for file in by_folder}
    assert all(file.member == folder[file.recording_id] for file in files if not file.problem)
    assert folder["pod/x.tar#plain.mp3"] is None  # a file of that very name


def test_a_part_that_means_here_hides_nothing(tmp_path: Path, s3_server: str, bucket: str) -> None:
    """`cd crawl && tar cf ../x.tar .`, and keys that were joined by hand."""
    names = ("talk/1.mp3", "talk/deep/2.mp3", "3.mp3")
    raw = tar_bytes({f"./{name}": name.encode() for name in (*names, ".git/x.mp3", "talk/._1.mp3")})
    (tmp_path / "x.tar").write_bytes(raw)
    for files in (read(tmp_path / "x.tar"), read(tmp_path)):
        assert {file.uri: file.domain for file in files} == {
            f"{tmp_path}/x.tar#./{name}": domain for name, domain in zip(names, ("talk", "talk", UNSORTED))
        }
    listed = manifest(tmp_path, "\n".join(json.dumps({"uri": f"x.tar#{name}"}) for name in names))
    assert problems(read(listed)) == {}
    assert all(file.member for file in read(listed))
    s3 = S3Settings(endpoint_url=s3_server)
    keys = ("crawl/./talk/1.mp3", "crawl/talk/./2.mp3", "crawl/./3.mp3", "crawl/.git/4.mp3")
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    found = list(read_sources([SourceSettings(path=f"s3://{bucket}/crawl")], s3))
    assert {file.uri.partition("crawl/")[2]: file.domain for file in found} == {
        "./talk/1.mp3": "talk",
        "talk/./2.mp3": "talk",
        "./3.mp3": UNSORTED,
    }
    for file in found:
        with Fetch(s3).fetch(file.uri) as path:
            assert Path(path).read_text() == file.uri.partition(f"{bucket}/")[2]


def test_tars_end_to_end_are_read_to_the_last(tmp_path: Path) -> None:
    first, second = tar_bytes({"a/1.mp3": b"1" * 700}), tar_bytes({"b/2.mp3": b"2" * 900, "b/3.mp3": b"3"})
    (tmp_path / "both.tar").write_bytes(first + second)
    files = read(tmp_path / "both.tar")
    assert [(file.recording_id, file.problem) for file in files] == [
        (f"both.tar#{name}", None) for name in ("a/1.mp3", "b/2.mp3", "b/3.mp3")
    ]
    with Fetch().fetch(files[1].uri, files[1].member) as path:
        offset, size = files[1].member or (0, 0)
        assert Path(path).read_bytes()[offset : offset + size] == b"2" * 900


def test_a_tar_that_cannot_be_read_in_parts_says_so(tmp_path: Path) -> None:
    import gzip

    good = tar_bytes({"1.mp3": b"1", "2.mp3": b"2" * 2000, "3.mp3": b"3"})
    (tmp_path / "packed.tar").write_bytes(gzip.compress(good))
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(good))
    scratched = bytearray(good)
    scratched[1024 + 100] ^= 0xFF  # in the second header
    (tmp_path / "scratched.tar").write_bytes(scratched)
    (tmp_path / "cut.tar").write_bytes(good[:2000])
    (tmp_path / "cut-between.tar").write_bytes(good[:1024])
    with pytest.raises(UserError, match="compressed with gzip"):
        read(tmp_path / "packed.tar")
    files = read(tmp_path)
    assert problems(files) == dict.fromkeys(
        ("packed.tar", "packed.tar.gz", "scratched.tar", "cut.tar", "cut-between.tar"), "unreadable_tar"
    )
    good_ones = {file.recording_id: file.member for file in files if not file.problem}
    assert good_ones == {
        "scratched.tar#1.mp3": (512, 1),
        "cut.tar#1.mp3": (512, 1),
        "cut.tar#2.mp3": (1536, 464),
        "cut-between.tar#1.mp3": (512, 1),
    }


def test_hostile_headers_neither_loop_nor_swallow_memory(tmp_path: Path) -> None:
    def with_size(field: bytes, kind: bytes) -> bytes:
        header = bytearray(tar_bytes({"1.mp3": b"1"}, tarfile.USTAR_FORMAT)[:512])
        header[124:136] = field
        header[156:157] = kind
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header)

    backwards = b"\xff" * 11 + b"\x00"  # base 256: -256
    first = with_size(b"%011o\0" % 0, b"0")
    for name, raw in {
        "backwards.tar": first + with_size(backwards, b"0"),
        "backwards-pax.tar": first + with_size(backwards, b"x"),
        "huge-name.tar": first + with_size(b"%011o\0" % (150 << 20), b"L"),
    }.items():
        (tmp_path / name).write_bytes(raw)
        os.truncate(tmp_path / name, 200 << 20)  # sparse
        tracemalloc.start()
        with pytest.raises(TarError):
            list(read_members(str(tmp_path / name)))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        tracemalloc.stop()


# S3


def test_s3_sources_are_read_like_local_ones(s3_server: str, bucket: str, tmp_path: Path) -> None:
    tar = tar_bytes({f"t/{number}.mp3": bytes(200_000) for number in range(8)})
    keys = [f"pod/{name}" for name in ODD_NAMES if "\n" not in name] + ["root.mp3", ".git/x.mp3", "pod/readme.txt"]
    rows = [
        {"uri": "pod/#1 & what's next?.opus"},
        {"uri": "../crawl/root.mp3"},
        {"uri": "../../../x.mp3"},
        {"uri": "tars/x.tar#t/3.mp3"},
    ]
    with FaultyProxy(s3_server) as proxy:
        s3 = S3Settings(endpoint_url=proxy.url)
        store = open_store(f"s3://{bucket}/crawl", s3)
        for key in keys:
            store.put(key, key.encode())
        store.put("tars/x.tar", tar)
        store.put("m.jsonl", "\n".join(map(json.dumps, rows)).encode())
        files = list(read_sources([SourceSettings(path=f"s3://{bucket}/crawl/")], s3))
        assert {file.recording_id for file in files} == {
            *keys[:-2],
            *(f"tars/x.tar#t/{number}.mp3" for number in range(8)),
        }
        assert Counter(file.domain for file in files) == {"pod": len(keys) - 3, "tars": 8, UNSORTED: 1}
        by_id = {file.recording_id: file for file in files}
        with Fetch(s3).fetch(by_id[keys[0]].uri) as path:
            assert Path(path).read_bytes() == keys[0].encode()
        assert sum(request.sent_bytes for request in proxy.requests if "x.tar" in request.path) < len(tar) / 2
        named = list(read_sources([SourceSettings(path=f"s3://{bucket}/crawl/m.jsonl")], s3))
        assert [file.uri for file in named[:2]] == [by_id[keys[1]].uri, by_id["root.mp3"].uri]
        assert named[2].problem
        assert named[2].problem.reason == "bad_uri"
        assert named[3].member == by_id["tars/x.tar#t/3.mp3"].member
        assert check_source(SourceSettings(path=f"s3://{bucket}/crawl"), s3).startswith(f"s3://{bucket}/crawl (prefix)")
        for missing in ("gone/", "gone.jsonl", "gone.tar"):
            with pytest.raises(UserError):
                list(read_sources([SourceSettings(path=f"s3://{bucket}/{missing}")], s3))


def test_the_real_crawl_is_all_there_by_folder_and_by_manifest(crawl: Path) -> None:
    by_manifest = read(crawl / "manifest.jsonl")
    by_folder = [file for file in read(crawl) if file.domain != "broken"]
    assert len(by_manifest) == 155
    assert {file.uri: file.domain for file in by_folder} == {file.uri: file.domain for file in by_manifest}
    assert problems(by_folder) == problems(by_manifest) == {}
    assert problems(read(crawl / "broken")) == {"x.mp3": "not_a_file", "pipe.wav": "not_a_file"}
    assert all(length.declared for length in probe_files(by_manifest[::10], Fetch()))
