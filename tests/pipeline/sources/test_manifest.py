"""Manifests: what a crawler wrote comes through unchanged, and a bad line costs that line alone."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.errors import UserError
from operators.storage.fetch import Fetch
from pipeline.config import SourceSettings
from pipeline.sources.files import UNSORTED, check_source
from tests.support.recordings import manifest, problems, read


def test_a_manifest_passes_everything_on(tmp_path: Path) -> None:
    rows = [
        {
            "uri": "pod/100%25 #1.mp3",
            "language": "zh",
            "source_url": "https://example.org/?a=1",
            "license": "CC0",
            "n": [1, {"x": None}],
        },
        {"uri": "/elsewhere/2.mp3", "domain": "d", "recording_id": "../../etc/passwd\0" + "x" * 10_000},
        {"uri": "s3://bucket/talks/3.mp3", "domain": None, "recording_id": 7},
        {"uri": "./4.mp3", "score": 1e999},
    ]
    files = read(manifest(tmp_path, "\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n"), language="en")
    first, second, third, fourth = files
    assert (first.uri, first.recording_id) == (f"{tmp_path}/pod/100%25 #1.mp3", "pod/100%25 #1.mp3")
    assert (first.domain, first.language) == ("pod", "zh")
    assert first.provenance == {"source_url": "https://example.org/?a=1", "license": "CC0", "n": [1, {"x": None}]}
    assert (second.uri, second.domain, second.recording_id) == ("/elsewhere/2.mp3", "d", rows[1]["recording_id"])
    assert (third.uri, third.domain, third.recording_id, third.language) == (
        "s3://bucket/talks/3.mp3",
        "talks",
        "7",
        "en",
    )
    assert (fourth.uri, fourth.domain, fourth.provenance) == (f"{tmp_path}/4.mp3", UNSORTED, {"score": None})
    assert problems(files) == {}


BAD_LINES = [
    b"{not json",
    b'["a list"]',
    b'{"domain": "no uri"}',
    b'{"uri": ""}',
    b'{"uri": 7}',
    b'{"uri": "\xff.mp3"}',
    b'{"uri": "x.mp3", "domain": ["a"]}',
    b'{"uri": "x.mp3", "n": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"uri": "x.mp3", "n": ' + b"9" * 5000 + b"}",
    b'{"uri": "x.mp3", "n": "' + b"y" * 5_000_000 + b'"}',
]


def test_bad_lines_are_named_and_cost_nothing_else(tmp_path: Path) -> None:
    lines = [b'{"uri": "good.mp3"}', *BAD_LINES, b'{"uri": "last.mp3"}']
    files = read(manifest(tmp_path, b"\n".join(lines)), domain="d")
    bad = [file for file in files if file.problem]
    assert [file.recording_id for file in bad] == [f"m.jsonl:{number}" for number in range(2, 2 + len(BAD_LINES))]
    assert {file.problem.reason for file in bad if file.problem} == {"bad_manifest_line"}
    assert all(
        file.problem and file.problem.detail.startswith(f"line {number}: ") for number, file in enumerate(bad, start=2)
    )
    assert {file.domain for file in files} == {"d"}
    assert [file.recording_id for file in files if not file.problem] == ["good.mp3", "last.mp3"]


def test_uris_that_can_name_no_file_are_problems_of_their_own(tmp_path: Path) -> None:
    uris = {
        "http://host/x.mp3": "unsupported_scheme",
        "file:///etc/passwd": "unsupported_scheme",
        "pipe://x|y": "unsupported_scheme",
        "nul\0.mp3": "bad_uri",
        "half \ud83d emoji.mp3": "bad_uri",
        "s3://": "bad_uri",
        "s3://b/half \ud83d.mp3": "bad_uri",
    }
    files = read(
        manifest(tmp_path, "\n".join(json.dumps({"uri": uri, "recording_id": str(n)}) for n, uri in enumerate(uris)))
    )
    assert [file.problem and file.problem.reason for file in files] == list(uris.values())


def test_a_name_that_is_not_utf8_can_be_written_in_a_manifest(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp3")).write_bytes(b"here")
    (file,) = read(manifest(tmp_path, '{"uri": "caf\\udce9.mp3"}'))
    with Fetch().fetch(file.uri) as path:
        assert Path(path).read_bytes() == b"here"


def test_the_second_of_two_is_the_duplicate(tmp_path: Path) -> None:
    rows = [("1.mp3", "a"), ("./1.mp3", "b"), ("2.mp3", "a"), ("3.mp3", None), ("d/../3.mp3", None)]
    text = "\n".join(json.dumps({"uri": uri, "recording_id": given}) for uri, given in rows)
    files = read(manifest(tmp_path, text))
    # Below a link "d/.." need not be here, so the last is another file for all we know.
    assert [bool(file.problem) for file in files] == [False, True, True, False, False]


def test_csv_and_tsv(tmp_path: Path) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerows(
        [["uri", " license"], ["a/1.mp3", 'say "hi", 访谈'], ["a/new\nline.mp3", ""], ["too", "many", "fields"]]
    )
    raw = (
        b"\xef\xbb\xbf"
        + sink.getvalue().encode()
        + b'\xff.mp3,x\r\nz.mp3,"a" b\r\nlast.mp3,x\r\nopen.mp3,"never closed\r\n'
    )
    files = read(manifest(tmp_path, raw, "m.csv"))
    assert [(file.recording_id, file.provenance) for file in files if not file.problem] == [
        ("a/1.mp3", {"license": 'say "hi", 访谈'}),
        ("a/new\nline.mp3", {"license": ""}),
        ("last.mp3", {"license": "x"}),
    ]
    assert list(problems(files)) == ["m.csv:5", "m.csv:6", "m.csv:7", "m.csv:9"]
    (file,) = read(manifest(tmp_path, "uri\tx\n1,2.mp3\t3\n", "m.tsv"))
    assert (file.recording_id, file.provenance) == ("1,2.mp3", {"x": "3"})


def test_a_quote_in_a_tsv_is_a_sign_like_any_other(tmp_path: Path) -> None:
    raw = 'uri\ttitle\n1.mp3\t"Heroes\n"2.mp3"\tsay "hi"\n3.mp3\t5" disk\n'
    files = read(manifest(tmp_path, raw, "m.tsv"))
    assert [(file.recording_id, file.provenance["title"]) for file in files] == [
        ("1.mp3", '"Heroes'),
        ('"2.mp3"', 'say "hi"'),
        ("3.mp3", '5" disk'),
    ]
    assert problems(files) == {}


def test_integers_that_pandas_made_float_are_ids(tmp_path: Path) -> None:
    rows = [{"uri": "1.mp3", "recording_id": 17.0}, {"uri": "2.mp3"}, {"uri": "3.mp3", "recording_id": 1.5}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    for path in (tmp_path / "m.parquet", manifest(tmp_path, "\n".join(map(json.dumps, rows)))):
        files = read(path, domain="d")
        assert [file.recording_id for file in files][:2] == ["17", "2.mp3"]
        assert list(problems(files).values()) == ["bad_manifest_line"]


def test_parquet_types_become_values_that_json_can_hold(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "uri": ["a/1.mp3", "a/2.mp3", None],
            "when": pa.array([when, None, None], pa.timestamp("ns", "UTC")),
            "price": pa.array([decimal.Decimal("1.50"), None, None]),
            "score": [float("nan"), 0.5, 0.0],
            "tags": pa.array([["a", None], [], None]),
            "nested": pa.array([{"x": {"y": b"\xff\x00"}}, None, None]),
            "map": pa.array([[("k", 1)], None, None], pa.map_(pa.string(), pa.int32())),
            "took": pa.array([datetime.timedelta(seconds=1.5), None, None]),
            "far": pa.array([0, 2**62, 0]).cast(pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    files = read(tmp_path / "m.parquet")
    assert json.loads(json.dumps(files[0].provenance, allow_nan=False)) == {
        "when": "2024-05-01T12:30:00+00:00",
        "price": "1.50",
        "score": None,
        "tags": ["a", None],
        "nested": {"x": {"y": "base64:/wA="}},
        "map": [["k", 1]],
        "took": 1.5,
        "far": "1970-01-01T00:00:00",
    }
    assert problems(files) == {"m.parquet:2": "bad_manifest_line", "m.parquet:3": "bad_manifest_line"}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("m.jsonl", b'{"url": "x"}\n{"url": "y"}\n', r"has no column 'uri' \(it has url\)"),
        ("m.jsonl", b"", "holds no rows"),
        ("m.jsonl", b"\x89PNG\n\x1a\n", "holds no rows"),
        ("m.csv", b"url,x\n1,2\n", "has no column 'uri'"),
        ("m.csv", b"uri,uri\n1,2\n", "repeats a column"),
        ("m.csv", b"", "holds no rows"),
        ("m.jsonl", json.dumps([{"uri": "a.mp3"}]).encode(), "is one JSON array: write an object a line"),
        ("m.jsonl", json.dumps([{"uri": "a.mp3"}], indent=1).encode(), "is one JSON array: write an object a line"),
        ("m.jsonl", '{"uri": "a.mp3"}\n'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("m.csv", "uri,title\na.mp3,x\n".encode("utf-16-le"), "is UTF-16: save it as UTF-8"),
        ("m.tsv", "uri\ttitle\na.mp3\tx\n".encode("utf-16-be"), "is UTF-16: save it as UTF-8"),
        ("m.parquet", b"PAR1 not really", "not a readable Parquet file"),
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        read(manifest(tmp_path, content, name))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=line):
        check_source(SourceSettings(path=str(tmp_path / name)))
