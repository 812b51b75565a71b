"""Labelled sets in a hand-off, and a hand-off on S3."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from operators.audio.decode import decode
from operators.clip import Span, clip_id
from operators.shard import feature_frames
from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from operators.storage.local import real_uri
from pipeline.__main__ import main
from tests.support.curated_handoffs import (
    SHARES,
    digests,
    everything,
    index,
    ledger_rows,
    record,
)
from tests.support.odd_recordings import odd


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder with a labelled set: whole files in several formats, a long one in parts, files of no use."""
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name, rate, seconds in (("a.wav", 16000, 3.0), ("b.flac", 44100, 2.5), ("long.wav", 8000, 20.0)):
        soundfile.write(folder / name, rng.standard_normal(int(rate * seconds)) / 10, rate, subtype="PCM_16")
    (folder / "bad.wav").write_bytes(b"RIFF, but no more")
    return folder


def rows_of_the_set() -> list[dict[str, Any]]:
    return [
        {"uri": "a.wav", "text": "good  morning", "language": "en", "speaker": "kim", "gender": "female"},
        {"uri": "b.flac", "text": "早上好", "language": "zh", "emotion": "happy", "events": "none"},
        {"uri": "long.wav", "text": "the first part", "language": "en", "start": 1.5, "end": 4.25},
        {"uri": "long.wav", "text": "the last part", "language": "en", "start": 15, "domain": "talk"},
        {"uri": "bad.wav", "text": "never heard"},
        {"uri": "gone.wav", "text": "never there"},
        {"uri": "a.wav", "text": ""},
        {"uri": "long.wav", "text": "past the end", "start": 18, "end": 25},
    ]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows, schema=_columns(rows)), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(_columns(rows).names))
            writer.writeheader()
            writer.writerows(rows)
    return path


def _columns(rows: list[dict[str, Any]]) -> pa.Schema:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, pa.float64() if name in ("start", "end") else pa.string()) for name in names])


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_labelled_sets_are_mixed_in_where_they_lie(
    ending: str, labelled: Path, runs: tuple[str, str], hand_off: Callable[..., Path]
) -> None:
    manifest = write_manifest(labelled / f"set{ending}", rows_of_the_set())
    before = digests(labelled)
    out = hand_off(runs[0], "--labelled", f"{manifest}:read", "--dev", "0", "--test", "0")
    assert set(record(out)["splits"]) == {"train"}
    rows = {row["label"]: row for row in index(out, "train") if str(labelled) in row["shard"]}
    assert set(rows) == {"good morning", "早上好", "the first part", "the last part"}
    morning, chinese, part, last = (
        rows[label] for label in ("good morning", "早上好", "the first part", "the last part")
    )
    assert (morning["shard"], morning["offset"], morning["start_sample"]) == (str(labelled / "a.wav"), 0, None)
    assert morning["size"] == (labelled / "a.wav").stat().st_size
    assert (morning["frames"], morning["label_tokens"], morning["domain"], morning["speaker"]) == (
        298,
        2,
        "read",
        "kim",
    )
    assert (chinese["frames"], chinese["label_tokens"], chinese["language"]) == (248, 3, "zh")
    assert (chinese["emotion"], chinese["events"], morning["events"]) == ("happy", [], None)
    assert (part["start_sample"], part["end_sample"], part["frames"]) == (24000, 68000, 273)
    assert (last["start_sample"], last["end_sample"], last["domain"]) == (240000, 320000, "talk")
    assert part["recording_id"] == last["recording_id"]
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(Path(each["row"]).name, each["reason"]) for each in skipped] == [
        ("bad.wav", "bad_header"),
        ("gone.wav", "missing"),
        ("a.wav", "no_text"),
        ("long.wav", "bad_span"),
    ]
    assert record(out)["labelled"][0]["used_clips"] == 4
    assert digests(labelled) == before


def test_labelled_rows_have_the_lengths_that_are_heard(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    """VBR without a tag, joined files, chains, pipes: what their headers say is less than they hold, or nothing."""
    names = (
        "vbr.mp3",
        "cbr.mp3",
        "advert.mp3",
        "rates.ogg",
        "codecs.ogg",
        "zero.wav",
        "two.wav",
        "pipe.flac",
        "pipe.avi",
    )
    for name in names:
        (tmp_path / name).write_bytes(odd(name))
    given = [{"uri": name, "text": f"the words of {name}"} for name in names]
    given.append({"uri": "vbr.mp3", "text": "its end", "start": 18, "end": 19.5})
    manifest = write_manifest(tmp_path / "set.jsonl", given)
    out = hand_off(runs[0], "--labelled", str(manifest), "--dev", "0", "--test", "0")
    rows = {row["label"]: row for row in index(out, "train") if str(tmp_path) in row["shard"]}
    assert len(rows) == len(given)
    for name in names:
        heard = decode(io.BytesIO(odd(name))).pcm
        assert abs(rows[f"the words of {name}"]["frames"] - feature_frames(len(heard))) <= 1
    assert rows["its end"]["frames"] == feature_frames(round(1.5 * 16_000))


@pytest.mark.parametrize("spelt", ["{crawl}/{file}", "{crawl}/../{name}/{file}", "{link}/{file}"])
def test_a_labelled_file_and_a_run_over_it_do_not_leak(
    spelt: str, crawls: tuple[Path, Path], runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(crawls[0])
    files = sorted(crawls[0].rglob("*.flac"))
    words = {"crawl": crawls[0], "name": crawls[0].name, "link": tmp_path / "link"}
    rows = [
        {
            "uri": spelt.format(file=path.relative_to(crawls[0]), **words),
            "text": "a label of the whole file",
            "recording_id": f"set-{path.name}",
        }
        for path in files
    ]
    manifest = write_manifest(tmp_path / "set.jsonl", rows)
    splits = everything(hand_off(runs[0], "--labelled", str(manifest)))
    assert len(splits) > 1
    place = {
        str(Path(row["shard"]).resolve()): split
        for split, rows in splits.items()
        for row in rows
        if row["domain"] == "set"
    }
    assert len(place) == len(files)
    uris = {row["clip_id"]: row["uri"] for row in ledger_rows(runs[0])}
    seen = {
        (split, place[uris[row["clip_id"]]]) for split, rows in splits.items() for row in rows if row["clip_id"] in uris
    }
    assert seen
    assert all(own == other for own, other in seen)


def test_a_file_is_one_however_manifests_spell_its_path(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    """Every manifest has the whole of each file, which stays once, and a part that no other has."""
    crawl, labels = tmp_path / "crawl", tmp_path / "labels"
    crawl.mkdir()
    labels.mkdir()
    (tmp_path / "link").symlink_to(crawl)
    files = [crawl / f"{number}.wav" for number in range(20)]
    for number, file in enumerate(files):
        soundfile.write(file, np.random.default_rng(number).standard_normal(16000) / 10, 16000)
        (labels / f"own-{file.name}").symlink_to(file)
    spellings = {"real": f"{crawl}/", "dotted": "../crawl/", "linked": "../link/", "own": "own-"}
    given = []
    for number, (name, before) in enumerate(spellings.items()):
        whole: list[dict[str, Any]] = [{"uri": f"{before}{file.name}", "text": "one two"} for file in files]
        rows = whole + [row | {"start": number / 10} for row in whole if number]
        given += ["--labelled", str(write_manifest(labels / f"{name}.jsonl", rows))]
    out = hand_off(runs[0], *given)
    found = [(split, row) for split, rows in everything(out).items() for row in rows if row["domain"] in spellings]
    assert {row["shard"]: row["clip_id"] for _, row in found if row["start_sample"] is None} == {
        str(file): clip_id(str(file), Span(0, 16000)) for file in files
    }
    assert len(found) == 4 * len(files)
    assert record(out)["duplicates"]["clips"] == 3 * len(files)
    assert len({(split, Path(row["shard"]).resolve()) for split, row in found}) == len(files)
    assert {row["shard"] for _, row in found if row["domain"] == "dotted"} == {
        f"{labels}/../crawl/{file.name}" for file in files
    }


def test_what_was_trained_on_stays_in_train_when_its_files_get_a_second_name(
    crawls: tuple[Path, Path], runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    """A labelled set, then a run over its files; and the run, then the labelled set."""
    rows = [
        {"uri": str(path), "text": "a label", "recording_id": f"set-{path.name}"}
        for path in sorted(crawls[0].rglob("*.flac"))
    ]
    labelled = ["--labelled", str(write_manifest(tmp_path / "set.jsonl", rows))]
    after = {row["clip_id"] for row in index(hand_off(runs[1], runs[0], *labelled, out="after"), "train")}
    dropped = {row["clip_id"] for row in pq.read_table(tmp_path / "after" / "duplicates.parquet").to_pylist()}
    for before in ([runs[1], *labelled], [runs[1], runs[0]]):
        trained = {row["clip_id"] for row in index(hand_off(*before, out="before"), "train")}
        assert trained
        assert trained <= after | dropped


# the command


def test_on_s3_it_is_what_it_is_locally(
    crawls: tuple[Path, Path], runs: tuple[str, str], tokenizer: str, s3_server: str, bucket: str, tmp_path: Path,
    labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    for path in Path(runs[0]).rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"run/{path.relative_to(runs[0])}")
    for path in labelled.iterdir():
        client.upload_file(str(path), bucket, f"set/{path.name}")
    manifest = write_manifest(labelled / "set.jsonl", rows_of_the_set())
    client.upload_file(str(manifest), bucket, "set/set.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reach = [f"s3.endpoint_url={s3_server}", "s3.region=us-east-1", "s3.addressing_style=path"]
    remote = [
        "--labelled",
        f"s3://{bucket}/set/set.jsonl",
        "--out",
        f"s3://{bucket}/out",
        "--scratch",
        str(tmp_path / "scratch"),
    ]
    common = [*SHARES, "--tokenizer", tokenizer]
    assert main(["handoff", f"s3://{bucket}/run", *reach, *remote, *common]) == 0
    command = f"AWS_ENDPOINT_URL={s3_server} python -m model_training train --data s3://{bucket}/out"
    assert command in capsys.readouterr().out.splitlines()
    assert main(["handoff", runs[0], "--labelled", str(manifest), "--out", str(tmp_path / "out"), *common]) == 0
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not list((tmp_path / "scratch").iterdir())

    store = open_store(f"s3://{bucket}/out", S3Settings(endpoint_url=s3_server, region="us-east-1"))
    assert {key for key, _ in store.list()} == set(digests(tmp_path / "out"))
    assert store.read("cmvn.json") == (tmp_path / "out" / "cmvn.json").read_bytes()
    theirs = [
        pa.ipc.open_file(store.read(f"{split}.arrow")).read_all().to_pylist() for split in everything(tmp_path / "out")
    ]
    told = {row["label"]: row for rows in theirs for row in rows}
    for row in (row for rows in everything(tmp_path / "out").values() for row in rows):
        same = told[row["label"]]
        for column in ("offset", "size", "start_sample", "frames", "label", "domain", "events"):
            assert same[column] == row[column]
        assert same["shard"].startswith(f"s3://{bucket}/")
        assert client.get_object(Bucket=bucket, Key=same["shard"].partition(f"{bucket}/")[2])
    assert json.loads(store.read("handoff.json"))["storage"]["endpoint_url"] == s3_server


def test_a_column_split_is_obeyed_and_what_is_test_there_is_never_trained_on(
    crawls: tuple[Path, Path], labelled: Path, runs: tuple[str, str], hand_off: Callable[..., Path]
) -> None:
    """Rows go where they say, whatever the shares; a crawled file that is test in the set is test for the run as well,
    and so is all that its speaker says.
    """
    crawled = sorted(crawls[0].rglob("*.flac"))
    given = [
        {"uri": "a.wav", "text": "one", "split": "train", "speaker": "kim"},
        {"uri": "b.flac", "text": "two", "split": "validation", "speaker": "kim"},
        {"uri": "long.wav", "text": "three", "start": 1, "end": 3, "split": "test-clean"},
        {"uri": "long.wav", "text": "four", "start": 5, "end": 7},
        *({"uri": str(path), "text": "five", "split": "test", "start": 0, "end": 0.5} for path in crawled[:6]),
    ]
    manifest = write_manifest(labelled / "set.jsonl", given)
    out = hand_off(runs[0], "--labelled", str(manifest), "--dev", "0", "--test", "0")
    found = {split: index(out, split) for split in record(out)["splits"]}
    where = {row["label"]: split for split, rows in found.items() for row in rows}
    assert (where["one"], where["two"], where["three"]) == ("train", "dev", "test")
    assert where["four"] == "test", "no split of its own: it goes with its recording"
    held_out = {real_uri(str(path)) for path in crawled[:6]}
    uris = {row["recording_id"]: real_uri(row["uri"]) for row in ledger_rows(runs[0])}
    of_run = [
        (split, uris[row["recording_id"]])
        for split, rows in found.items()
        for row in rows
        if row["recording_id"] in uris
    ]
    assert {split for split, uri in of_run if uri in held_out} == {"test"}
    assert {split for split, uri in of_run if uri not in held_out} == {"train"}
    assert any(uri in held_out for _, uri in of_run), "the run has clips of those files"


def test_an_unknown_split_is_one_line_before_anything_is_read(
    labelled: Path, runs: tuple[str, str], hand_off: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [{"uri": "a.wav", "text": "one", "split": "train"}, {"uri": "a.wav", "text": "two", "split": "tset"}]
    manifest = write_manifest(labelled / "set.csv", given)
    out = hand_off(runs[0], "--labelled", str(manifest), code=2)
    assert f"{manifest}:3: the split 'tset' is not known: write train, dev or test" in capsys.readouterr().err
    assert not out.exists()


def test_a_set_is_handed_off_for_evaluation_alone(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_train_on = {"uri": "b.flac", "text": "not heard in a test", "split": "train", "start": 0, "end": 1}
    manifest = write_manifest(labelled / "set.jsonl", [*rows_of_the_set(), to_train_on])
    out = tmp_path / "sets"
    assert main(["handoff", "--labelled", f"{manifest}:read", "--test", "1", "--out", str(out)]) == 0
    assert f"eval CKPT --data {out}" in capsys.readouterr().out
    assert {name: split["clips"] for name, split in record(out)["splits"].items()} == {"train": 0, "test": 3}
    assert {row["domain"] for row in index(out, "test")} == {"read", "talk"}
    assert "早上好" not in {row["label"] for row in index(out, "test")}, "it is of the recording that is trained on"
    assert record(out)["labelled"][0]["used_clips"] == 3
    assert not (out / "cmvn.json").exists()
    assert not (out / "tokenizer").exists()
    assert main(["handoff", "--labelled", str(manifest), "--out", str(out)]) == 2
    assert "--test 1" in capsys.readouterr().err
    assert main(["handoff", "--out", str(out), "--test", "1"]) == 2
    assert "no run" in capsys.readouterr().err
