"""The hand-off: each clip once, no leak between splits, the same bytes again."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from operators.filterbank import MelSums, filterbank
from operators.handoff_record import HandoffRecord
from operators.shard import content_hash, decode_member, read_ledger
from pipeline.__main__ import main
from pipeline.handoff import command as handoff_command
from tests.support.curated_handoffs import (
    SHARES,
    as_older_versions_wrote,
    audio_of,
    copied,
    curate,
    digests,
    everything,
    index,
    ledger_rows,
    record,
    rewrite,
)


def test_two_runs_that_share_recordings_contain_each_clip_once(
    runs: tuple[str, str], hand_off: Callable[..., Path]
) -> None:
    out = hand_off(*runs)
    first, second = (ledger_rows(run) for run in runs)
    told = {row["content_hash"]: row["clip_id"] for row in reversed(first + second)}
    shared = {row["content_hash"] for row in first} & {row["content_hash"] for row in second}
    assert shared, "the two runs share nothing: this test tests nothing"
    rows = [row for split in everything(out).values() for row in split]
    found = [content_hash(decode_member(audio_of(row))) for row in rows]
    assert sorted(found) == sorted(told)
    assert {row["clip_id"] for row in rows} == set(told.values())
    duplicates = pq.read_table(out / "duplicates.parquet").to_pylist()
    assert len(duplicates) == len(first) + len(second) - len(told) == record(out)["duplicates"]["clips"]
    kept = {row["clip_id"] for row in first}
    for row in duplicates:
        assert (row["kept_run"], row["dropped_run"], row["same"]) == (*runs, "content")
        assert row["kept_clip_id"] in kept
    for number, run in enumerate(record(out)["runs"]):
        assert run["root"] == runs[number]
        assert run["used_clips"] == sum(row["shard"].startswith(f"{run['root']}/") for row in rows)
        assert run["units_missing"] == 0


def test_the_first_run_given_wins(runs: tuple[str, str], hand_off: Callable[..., Path]) -> None:
    rows = [row for split in everything(hand_off(*reversed(runs))).values() for row in split]
    assert {row["clip_id"] for row in rows if row["shard"].startswith(f"{runs[1]}/")} == {
        row["clip_id"] for row in ledger_rows(runs[1])
    }


def test_rows_are_the_ledgers(runs: tuple[str, str], hand_off: Callable[..., Path]) -> None:
    out = hand_off(runs[0])
    ledger = {row["clip_id"]: row for row in ledger_rows(runs[0])}
    splits = everything(out)
    for name, rows in splits.items():
        summary = record(out)["splits"][name]
        samples = sum(ledger[row["clip_id"]]["end"] - ledger[row["clip_id"]]["start"] for row in rows)
        assert (summary["clips"], summary["hours"]) == (len(rows), pytest.approx(samples / 16000 / 3600))
        for row in rows:
            told = ledger[row["clip_id"]]
            for column in ("frames", "label_tokens", "label", "domain", "language", "recording_id"):
                assert row[column] == told[column]
            assert row["start_sample"] is row["end_sample"] is row["age"] is row["events"] is row["speaker"] is None
            assert len(filterbank(decode_member(audio_of(row)))) == row["frames"]
    assert sum(map(len, splits.values())) == len(ledger)
    assert record(out)["attributes"]["language"] == {"en": len(splits["train"])}
    assert {name: domain["clips"] for name, domain in record(out)["domains"].items()} == {
        name: sum(row["domain"] == name for row in splits["train"]) for name in ("audiobook", "live")
    }


def test_an_earlier_vocabulary_grows_by_what_train_says(runs: tuple[str, str], tmp_path: Path) -> None:
    from model_training.text.tokenizer import Tokenizer
    from model_training.text.tokens import Scheme

    small = tmp_path / "small"
    small.mkdir()
    earlier = Tokenizer.train(["e e ee"], Scheme(), bpe_size=5)
    earlier.save(small)
    out = tmp_path / "grown"
    assert main(["handoff", runs[0], "--out", str(out), "--grow", str(small), *SHARES]) == 0
    grown = Tokenizer.load(out / "tokenizer")
    assert set(earlier.tokens) < set(grown.tokens)
    assert grown.merges == earlier.merges
    assert not [row["label"] for row in index(out, "train") if grown.unknown(row["label"])]


def test_the_trainer_opens_it(runs: tuple[str, str], tokenizer: str) -> None:
    from model_training.data.handoff import Handoff
    from model_training.data.index import Index

    made = Handoff.open(tokenizer)
    train = made.index("train")
    assert isinstance(train, Index)
    assert len(train) == record(Path(tokenizer))["splits"]["train"]["clips"]
    assert set(train.domain_names) == set(made.domain_weights())
    units = made.tokenizer()
    label = train.row(0).label
    assert "<unk>" not in units.decode(units.encode(label))
    assert units.decode(units.encode(label)).lower() == label


def test_cmvn_is_of_the_audio_in_the_shards(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    features = np.concatenate([filterbank(decode_member(audio_of(row))) for row in _located(runs[0])]).astype(
        np.float64
    )
    cmvn = json.loads((hand_off(runs[0]) / "cmvn.json").read_text())
    assert cmvn["frames"] == len(features)
    np.testing.assert_allclose(cmvn["mean"], features.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(cmvn["istd"], 1 / features.std(axis=0), rtol=1e-4)
    old = copied(runs[0], tmp_path / "old")
    rewrite(old, as_older_versions_wrote)
    assert json.loads((hand_off(str(old), out="of-old") / "cmvn.json").read_text()) == cmvn


def _located(run: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted(Path(run).glob("shards/*/*.parquet")):
        for row in read_ledger(path.read_bytes())[0].to_pylist():
            if row["outcome"] == "kept":
                tar = str(path.with_suffix(".tar"))
                found.append({"shard": tar, "offset": row["tar_offset"], "size": row["tar_size"]})
    return found


def test_a_unit_that_only_repeats_does_not_count_twice_in_cmvn(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    again = copied(runs[0], tmp_path / "again")
    once, twice = hand_off(runs[0], out="once"), hand_off(runs[0], str(again), out="twice")
    assert (once / "cmvn.json").read_bytes() == (twice / "cmvn.json").read_bytes()
    assert [row["clip_id"] for row in index(once, "train")] == [row["clip_id"] for row in index(twice, "train")]


def test_a_rerun_writes_the_same_bytes(runs: tuple[str, str], tokenizer: str, tmp_path: Path) -> None:
    out = tmp_path / "again"
    for _ in range(2):
        assert main(["handoff", *runs, "--out", str(out), "--bpe-size", "60", *SHARES]) == 0
        assert digests(out) == digests(Path(tokenizer))


def test_the_record_is_read_back_as_it_was_written(tokenizer: str) -> None:
    text = (Path(tokenizer) / "handoff.json").read_text(encoding="utf-8")
    read = HandoffRecord.from_json(text, "it")
    assert read.to_json() + "\n" == text
    assert [run.units_missing for run in read.runs or ()] == [0, 0]


def test_no_recording_is_in_two_splits(runs: tuple[str, str], hand_off: Callable[..., Path]) -> None:
    splits = everything(hand_off(*runs))
    assert set(splits) == {"train", "dev", "test"}
    places: dict[str, set[str]] = {}
    for split, rows in splits.items():
        for row in rows:
            places.setdefault(row["recording_id"], set()).add(split)
    assert all(len(found) == 1 for found in places.values())


def test_recordings_with_repeated_audio_go_together(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    """All but one clip of each copy are made new, so that the copies would be free to go elsewhere."""
    whole = {row["clip_id"] for rows in everything(hand_off(runs[0], out="one")).values() for row in rows}
    assert whole
    other = copied(runs[1], tmp_path / "other")

    def new_audio_for_all_but_one_clip(rows: list[dict[str, Any]], _: dict[str, str]) -> None:
        seen: set[str] = set()
        for row in rows:
            if row["outcome"] == "kept" and row["recording_id"].startswith("live/"):
                if row["recording_id"] in seen:
                    row["content_hash"] = row["content_hash"][::-1]
                seen.add(row["recording_id"])

    rewrite(other, new_audio_for_all_but_one_clip)
    splits = everything(hand_off(runs[0], str(other), out="two"))
    place = {row["recording_id"]: split for split, rows in splits.items() for row in rows}
    pairs = [(name, name.replace("live/", "live/again-")) for name in place if name.startswith("live/rec")]
    assert sum(copy in place for _, copy in pairs) >= 2
    assert all(place[own] == place[copy] for own, copy in pairs if copy in place)


def test_adding_a_run_moves_no_recording(runs: tuple[str, str], hand_off: Callable[..., Path]) -> None:
    def places(out: Path) -> dict[str, str]:
        return {row["clip_id"]: split for split, rows in everything(out).items() for row in rows}

    one, two = places(hand_off(runs[0], out="one")), places(hand_off(*runs, out="two"))
    assert {clip: two[clip] for clip in one} == one
    other_seed = places(hand_off(runs[0], "--seed", "1", out="seed"))
    assert one.keys() == other_seed.keys()
    assert one != other_seed


def test_speakers_are_in_one_split_and_attributes_are_as_given(
    crawls: tuple[Path, Path], hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    files = sorted(crawls[0].rglob("*.flac"))
    manifest = tmp_path / "crawl.jsonl"
    genders, events = ["m", None, "unknown"], [[], ["Dog", "rain"], "siren; rain"]
    lines: list[dict[str, Any]] = [
        {"uri": str(path), "domain": "talk", "speaker": f"s{number % 3}", "age": "Adult"}
        | {"gender": genders[number % 3], "events": events[number % 3]}
        for number, path in enumerate(files)
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = hand_off(curate(tmp_path, "run", str(manifest)), "--dev", "0.3", "--test", "0.3", "--seed", "2")
    splits = everything(out)
    of = {str(path): line for path, line in zip(files, lines, strict=True)}
    speakers = {split: {row["speaker"] for row in rows} for split, rows in splits.items()}
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values())) == 3
    wanted = {"s0": ("m", []), "s1": (None, ["dog", "rain"]), "s2": (None, ["siren", "rain"])}
    for rows in splits.values():
        for row in rows:
            assert row["speaker"] == of[row["recording_id"]]["speaker"]
            assert (row["age"], (row["gender"], row["events"])) == ("adult", wanted[row["speaker"]])
    counted = record(out)["attributes"]
    assert counted["age"] == {"adult": len(splits["train"])}
    assert counted["events"] == {
        name: count
        for name in ("dog", "rain", "siren")
        if (count := sum(name in row["events"] for row in splits["train"]))
    }


def test_a_placeholder_for_a_speaker_is_reported(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_off(runs[0])
    assert "tied together" not in capsys.readouterr().out
    run = copied(runs[0], tmp_path / "run")
    rewrite(run, lambda rows, _: [row.update(provenance='{"speaker": "SPEAKER_00"}') for row in rows])
    hand_off(str(run), "--dev", "0", "--test", "0")
    assert "tied together" in capsys.readouterr().out


def test_weights_balance_domains_and_can_be_given(runs: tuple[str, str], hand_off: Callable[..., Path]) -> None:
    flat = record(hand_off(*runs, "--alpha", "0", "--max-weight", "100"))["domains"]
    seen = [domain["weight"] * domain["hours"] for domain in flat.values() if domain["clips"]]
    assert len(seen) > 1
    assert max(seen) == pytest.approx(min(seen), rel=1e-2), "alpha 0: all domains alike"
    assert sum(seen) == pytest.approx(sum(domain["hours"] for domain in flat.values()), rel=1e-2)
    assert {domain["weight"] for domain in record(hand_off(*runs, "--alpha", "1"))["domains"].values()} == {1.0}
    domain = next(name for name, each in flat.items() if each["clips"])
    assert record(hand_off(*runs, "--weight", f"{domain}=2.5"))["domains"][domain]["weight"] == 2.5


def test_the_training_command_is_printed_and_launched(
    runs: tuple[str, str],
    hand_off: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = hand_off(runs[0], "--config", "tiny")
    assert f"python -m model_training train --data {out} --config tiny" in capsys.readouterr().out.splitlines()
    started = tmp_path / "started.json"
    package = tmp_path / "stand-in" / "model_training"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        f"import json, sys; json.dump(sys.argv[1:], open({str(started)!r}, 'w')); sys.exit(7)"
    )
    monkeypatch.setattr("pipeline.handoff.tokenizer._ROOT", package.parent)
    monkeypatch.chdir(package.parent)
    hand_off(runs[0], "--launch", code=7)
    assert json.loads(started.read_text()) == ["train", "--data", str(out)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}", "{run}"], "given twice"),
        (["{tmp}/nowhere"], "config.yaml"),
        (["{run}", "--out", "{run}"], "is a run directory"),
        (["{run}", "--dev", "0.6", "--test", "0.6"], "leave nothing to train on"),
        (["{run}", "--weight", "lively=2"], "no such domain"),
        (["{run}", "--weight", "live"], "DOMAIN=NUMBER"),
        (["{run}", "--labelled", "{tmp}/none.jsonl"], "none.jsonl"),
        (["{run}", "--labelled", "{tmp}/none.txt"], "expected a manifest"),
        (["{run}", "--tokenizer", "{tmp}"], "tokenizer.json"),
        (["{run}", "--grow", "{tmp}"], "give one of them"),
        (["{run}", "rover.max_wer=8"], "only s3.* settings"),
        (["{run}", "--max-weight", "nan"], "--max-weight"),
        (["{run}", "--max-weight", "inf"], "--max-weight"),
        (["{run}", "--scratch", "{tmp}/nowhere"], "--scratch"),
        (["{run}", "--scratch", "{file}"], "--scratch"),
        (["s3.region=eu"], "no run"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: list[str],
    words: str,
    runs: tuple[str, str],
    tokenizer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [each.format(run=runs[0], tmp=tmp_path, file=__file__) for each in arguments]
    for name, value in (("--out", str(tmp_path / "out")), ("--tokenizer", tokenizer)):
        given += [] if name in given else [name, value]
    assert main(["handoff", *given]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "handoff.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "{file}/out"], "{file}"),
        (["--weight", "typo=2"], "--weight typo: no such domain (there are audiobook, live)"),
        (["--weight", "talk=1", "--weight", "typo=2", "--labelled", "{set}"], "there are audiobook, live, set, talk)"),
        (["--labelled", "{tmp}/none.jsonl"], "none.jsonl"),
        (["--scheme", "{tmp}/none.yaml"], "none.yaml"),
        (["--scheme", "{junk}"], "scheme"),
        (["--config", "nothing"], "--config nothing: "),
        (["--config", "{junk}"], "--config {junk}: "),
        (["--bpe-size", "0"], "--bpe-size 0"),
        (["--tokenizer", "{tmp}/none"], "tokenizer.json"),
        (["--tokenizer", "{tmp}"], "tokenizer.json"),
        (["--grow", "{tmp}/none"], "tokenizer.json"),
        (["--grow", "{tokenizer}", "--bpe-size", "60"], "with --grow"),
        (["--tokenizer", "s3://none/x", "s3.endpoint_url=http://127.0.0.1:1", "s3.max_attempts=1"], "127.0.0.1:1"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_before_any_tar_is_read(
    arguments: list[str],
    words: str,
    runs: tuple[str, str],
    tokenizer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "none"), ("AWS_SECRET_ACCESS_KEY", "none")):
        monkeypatch.setenv(name, value)
    run = copied(runs[0], tmp_path / "run")
    for tar in run.glob("shards/*/*.tar"):
        tar.write_bytes(b"damaged, so that reading it would be the mistake that is reported")
    names = {name: tmp_path / file for name, file in (("set", "set.jsonl"), ("junk", "junk.yaml"))}
    names["set"].write_text('{"uri": "a.wav", "text": "one"}\n{"uri": "b.wav", "text": "two", "domain": "talk"}\n')
    names["junk"].write_text("tasks: [sing]\n")
    (tmp_path / "tokenizer.json").write_text("[]\n")
    names |= {"file": Path(__file__), "tmp": tmp_path, "tokenizer": Path(tokenizer)}
    given = [each.format(**names) for each in arguments]
    given += [] if "--out" in given else ["--out", str(tmp_path / "new" / "out")]
    assert main(["handoff", str(run), *given]) == 2
    error = capsys.readouterr().err
    assert words.format(**names) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_full_scratch_disk_is_one_line(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        hand_off(runs[0], "--scratch", str(tmp_path), code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "no room for temporary files" in error
    assert "--scratch" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_whole_is_reported(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(runs[0], tmp_path / "run")
    sorted(run.glob("shards/live/*.parquet"))[0].unlink()
    assert record(hand_off(str(run)))["runs"][0]["units_missing"] == 1
    told = capsys.readouterr().out
    assert "not whole" in told
    assert "another split" in told


def test_sums_of_a_ledger_survive_json() -> None:
    sums = MelSums().add(np.random.default_rng(0).standard_normal((50, 80)).astype(np.float32))
    assert MelSums.from_dict(json.loads(json.dumps(sums.to_dict()))) == sums


def test_settings_are_told_apart_from_runs() -> None:
    assert handoff_command.split_runs(["runs/a=b", "s3.region=eu", "s3://x/y=z"]) == (
        ["runs/a=b", "s3://x/y=z"],
        ["s3.region=eu"],
    )
