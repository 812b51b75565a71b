"""What `export` writes is read back by the loaders of others: the same clips, samples and texts as the ledgers have.

A crawl of two domains, Han and Latin text, a licence column, a split, and a unit that keeps nothing. NeMo's package is
too heavy to install: its rules (names, numbers, members) are followed here by hand, as its loader documents them, and
WeNet's lists are read by webdataset, whose grouping WeNet shares.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from operators.clip import SAMPLE_RATE
from operators.shard import read_ledger
from pipeline.__main__ import main
from tests.support import fast_engines

SPEAKER, SPOKEN_BY = "Ann Lee", ("rec-01.flac", "rec-03.flac")
HAN = "今天天气很好我们一起去公园散步然后回家做饭"
STARTER = Path(__file__).resolve().parents[3] / "examples" / "starter_engines" / "models" / "perception-starter"
Samples = dict[str, tuple[np.ndarray, str]]
"""By clip id: int16 samples and the text."""


class Engine(fast_engines.HashRecogniser):
    """Han where the language is zh."""

    def transcribe(self, clips, languages):  # type: ignore[no-untyped-def]
        heard = super().transcribe(clips, languages)
        return [
            replace(each, text="".join(HAN[len(word) % len(HAN)] + HAN[at % len(HAN)] for at, word in
                                       enumerate(each.text.split()))) if language == "zh" else each
            for each, language in zip(heard, languages, strict=True)
        ]  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as curation leaves it."""
    folder = tmp_path_factory.mktemp("exported")
    draw = np.random.default_rng(3)
    for number in range(14):
        parts = [np.zeros(SAMPLE_RATE, np.int16)]
        for _ in range(3):
            burst = np.repeat(draw.integers(-8, 8, 2 * 2300 + number, dtype=np.int16) * 700, 8)
            parts += [burst, np.zeros(SAMPLE_RATE * 3 // 2, np.int16)]
        path = folder / "crawl" / ("audiobook", "live")[number % 2] / f"rec-{number:02d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.concatenate(parts), SAMPLE_RATE)
    (folder / "crawl" / "silence").mkdir()
    soundfile.write(folder / "crawl" / "silence" / "still.flac", np.zeros(5 * SAMPLE_RATE, np.int16), SAMPLE_RATE)
    lines = []
    for path in sorted((folder / "crawl").rglob("*.flac")):
        domain = path.parent.name
        line = {
            "uri": str(path),
            "recording_id": f"{domain}/{path.stem}",  # splits are drawn by it, and the folder is another each time
            "domain": domain,
            "language": "zh" if domain == "live" else "en",
            "license": "CC BY 4.0" if domain == "live" else "CC0-1.0",
            "source_url": f"https://example.org/{path.name}",
        }
        lines.append(json.dumps(line | ({"speaker": SPEAKER} if path.name in SPOKEN_BY else {})))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "local.yaml").write_text("{execution: {runner: local}}\n")
    here = "tests.pipeline.export.test_export:Engine"
    more = (
        f"asr.engine={here}",
        f"copilot.engine={here}",
        "copilot.models={en: hash, zh: hash}",
        "plan.unit_minutes=1.4",
    )
    asked = fast_engines.settings(str(folder / "run"), str(folder / "manifest.jsonl"), *more)
    assert main(["run", str(folder / "local.yaml"), *asked]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def handoff(run: Path) -> Path:
    out = run.parent / "handoff"
    shares = ["--dev", "0.2", "--test", "0.2", "--tokenizer", str(STARTER)]
    assert main(["handoff", str(run), "--out", str(out), *shares]) == 0
    return out


@pytest.fixture(scope="session")
def truth(run: Path) -> Samples:
    """Every kept clip as the ledgers and tars of the run have it, read without any of the code under test."""
    found: Samples = {}
    empty = 0
    for path in sorted((run / "shards").rglob("*.parquet")):
        rows = [row for row in read_ledger(path.read_bytes())[0].to_pylist() if row["outcome"] == "kept"]
        empty += not rows
        for row in rows:
            data = path.with_suffix(".tar").read_bytes()[row["tar_offset"] : row["tar_offset"] + row["tar_size"]]
            pcm = soundfile.read(BytesIO(data), dtype="int16")[0]
            assert len(pcm) == row["end"] - row["start"]
            found[row["clip_id"]] = pcm, row["label"]
    assert empty, "a unit that keeps nothing must be among them"
    assert any(re.search("[一-龥]", text) for _, text in found.values())
    assert any(re.search("[a-z]", text) for _, text in found.values())
    return found


@pytest.fixture(scope="session")
def exported(handoff: Path) -> Path:
    out = handoff.parent / "exported"
    assert main(["export", str(handoff), "--to", "lhotse,nemo,wenet,kaldi,hf", "--repack", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def counts(handoff: Path) -> dict[str, int]:
    splits = json.loads((handoff / "handoff.json").read_text())["splits"]
    assert len(splits) == 3
    return {name: split["clips"] for name, split in splits.items()}


def same(found: dict[str, Samples], truth: Samples, counts: dict[str, int]) -> None:
    """The splits hold as many clips as the hand-off says, each clip once, and each as it was kept."""
    assert {split: len(clips) for split, clips in found.items()} == counts
    together = {name: clip for clips in found.values() for name, clip in clips.items()}
    assert len(together) == sum(counts.values()) == len(truth)
    for name, (pcm, text) in together.items():
        assert text == truth[name][1]
        assert np.array_equal(pcm, truth[name][0]), name


def int16(samples: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(samples).reshape(-1) * 32768).astype(np.int16)


def test_lhotse_reads_every_cut(exported: Path, truth: Samples, counts: dict[str, int]) -> None:
    lhotse = pytest.importorskip("lhotse")
    found: dict[str, Samples] = {}
    for split in counts:
        cuts = lhotse.CutSet.from_file(exported / "lhotse" / split / "cuts.jsonl.gz")
        found[split] = {cut.id: (int16(cut.load_audio()), cut.supervisions[0].text) for cut in cuts}
        for cut in cuts:
            (said,) = cut.supervisions
            assert said.language == ("zh" if said.custom["domain"] == "live" else "en")
            assert said.custom["license"] == ("CC BY 4.0" if said.language == "zh" else "CC0-1.0")
            assert said.speaker == (SPEAKER if said.custom["source_url"].endswith(SPOKEN_BY) else None)
            assert cut.num_samples == len(truth[cut.id][0])
        lhotse.validate(cuts)
    same(found, truth, counts)


def test_datasets_opens_the_folder_with_its_card(exported: Path, truth: Samples, counts: dict[str, int]) -> None:
    datasets = pytest.importorskip("datasets")
    from datasets.utils.file_utils import xopen

    cache = str(exported / "cache")
    found: dict[str, Samples] = {}
    for split, data in datasets.load_dataset(str(exported / "hf"), cache_dir=cache).items():
        assert isinstance(data.features["audio"], datasets.Audio)
        found[split] = {}
        for row in data.cast_column("audio", datasets.Audio(decode=False)):
            with xopen(row["audio"]["path"], "rb") as file:  # as Audio opens it before it decodes
                found[split][row["id"]] = soundfile.read(BytesIO(file.read()), dtype="int16")[0], row["text"]
            assert row["license"] == ("CC BY 4.0" if row["domain"] == "live" else "CC0-1.0")
            assert row["duration"] == len(truth[row["id"]][0]) / SAMPLE_RATE
    same(found, truth, counts)


def test_the_card_says_languages_licences_hours_and_thresholds(exported: Path) -> None:
    text = (exported / "hf" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["language"] == ["en", "zh"]
    assert [each["split"] for each in front["configs"][0]["data_files"]] == ["train", "dev", "test"]
    assert front["license"] == ["cc-by-4.0", "cc0-1.0"]
    assert "| CC BY 4.0 |" in text
    assert "rover.max_wer: 10" in text


def test_kaldiio_reads_by_offset_what_is_sorted_as_kaldi_asks(
    exported: Path, truth: Samples, counts: dict[str, int]
) -> None:
    kaldiio = pytest.importorskip("kaldiio")
    found: dict[str, Samples] = {}
    for split in counts:
        folder = exported / "kaldi" / split
        tables = {name: _table(folder / name) for name in ("text", "utt2spk", "utt2dur", "utt2num_samples", "wav.scp")}
        assert all(list(table) == sorted(table, key=str.encode) for table in tables.values())
        by_speaker = sorted(tables["utt2spk"], key=lambda each: (tables["utt2spk"][each].encode(), each.encode()))
        assert by_speaker == list(tables["utt2spk"]), "a speaker's name must begin its utterances' names"
        found[split] = {}
        for name, (rate, samples) in kaldiio.load_scp(str(folder / "wav.scp")).items():
            assert rate == SAMPLE_RATE
            assert int(tables["utt2num_samples"][name]) == len(samples)
            clip = name.removeprefix("Ann%20Lee-")
            found[split][clip] = int16(samples), tables["text"][name]
    same(found, truth, counts)


def _table(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


def test_webdataset_reads_the_lists_of_tars(exported: Path, truth: Samples, counts: dict[str, int]) -> None:
    wds = pytest.importorskip("webdataset")
    found: dict[str, Samples] = {}
    for split in counts:
        tars = (exported / "wenet" / split / "shards.list").read_text().split()
        found[split] = {
            sample["__key__"]: (soundfile.read(BytesIO(sample["flac"]), dtype="int16")[0], sample["txt"].decode())
            for sample in wds.WebDataset(tars, shardshuffle=False)
        }
    same(found, truth, counts)


def test_nemo_pairs_manifests_and_tars_by_number_and_finds_every_member(
    exported: Path, truth: Samples, counts: dict[str, int]
) -> None:
    found: dict[str, Samples] = {}
    for split in counts:
        found[split] = {}
        for entry in yaml.safe_load((exported / "nemo" / split / "input_cfg.yaml").read_text()):
            manifests, tars = (_expand(entry[key]) for key in ("manifest_filepath", "tarred_audio_filepaths"))
            by_number = {int(re.search(r"audio[^/]*_(\d+)[^/]*\.tar", path)[1]): path for path in tars}  # type: ignore[index]
            for path in manifests:
                number = int(re.search(r"manifest[^/]*_(\d+)[^/]*\.json", path)[1])  # type: ignore[index]
                found[split] |= _nemo_samples(path, Path(by_number.pop(number)).read_bytes(), number)
            assert not by_number
    same(found, truth, counts)


def _expand(pattern: str) -> list[str]:
    """NeMo's `_OP_0..3_CL_`."""
    several = re.search(r"_OP_(\d+)\.\.(\d+)_CL_", pattern)
    if several is None:
        return [pattern]
    return [pattern.replace(several[0], str(number)) for number in range(int(several[1]), int(several[2]) + 1)]


def _nemo_samples(manifest: str, tar_bytes: bytes, number: int) -> Samples:
    """Read a tar from its start to its end, as NeMo does, and take the members that the manifest has."""
    lines = {line["audio_filepath"]: line for line in map(json.loads, Path(manifest).read_text().splitlines())}
    assert {line["shard_id"] for line in lines.values()} == {number}
    samples: Samples = {}
    with tarfile.open(fileobj=BytesIO(tar_bytes), mode="r|*") as tar:
        for member in tar:
            if member.name in lines:
                line = lines.pop(member.name)
                pcm = soundfile.read(BytesIO(tar.extractfile(member).read()), dtype="int16")[0]  # type: ignore[union-attr]
                assert line["duration"] == len(pcm) / SAMPLE_RATE
                samples[line["clip_id"]] = pcm, line["text"]
    assert not lines
    return samples


def test_without_repack_no_list_has_a_tar_of_several_splits(
    handoff: Path, counts: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(handoff), "--to", "wenet", "--out", str(tmp_path)]) == 0
    skipped = sum(json.loads((tmp_path / "export.json").read_text())["formats"]["wenet"]["skipped"].values())
    listed = Counter(path for each in tmp_path.rglob("shards.list") for path in each.read_text().split())
    kept = sum(Path(path).read_bytes().count(b"fLaC") for path in listed)
    assert set(listed.values()) <= {1}
    assert skipped + kept == sum(counts.values())
    assert skipped
    assert f"not in wenet: {skipped} clips" in capsys.readouterr().out


def test_the_same_export_again_replaces_the_first_and_has_the_same_bytes(handoff: Path, tmp_path: Path) -> None:
    asked = ["export", str(handoff), "--to", "lhotse,kaldi,hf,nemo", "--out", str(tmp_path / "out")]

    def contents() -> dict[str, bytes]:
        files = (path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".tar")
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}

    assert main(asked) == 0
    first = contents()
    (tmp_path / "out" / "lhotse" / "left.txt").write_text("of before")
    assert main(asked) == 0
    assert contents() == first


def test_runs_are_exported_without_a_handoff_and_each_clip_once(run: Path, truth: Samples, tmp_path: Path) -> None:
    assert main(["export", str(run), "--to", "lhotse", "--out", str(tmp_path)]) == 0
    with gzip.open(tmp_path / "lhotse" / "train" / "cuts.jsonl.gz", "rt", encoding="utf-8") as file:
        cuts = [json.loads(line) for line in file]
    assert sorted(cut["id"] for cut in cuts) == sorted(truth)


def test_tars_and_files_of_others_are_exported_by_what_their_headers_say(tmp_path: Path) -> None:
    """Rows of an index whose tar has no ledger, and a stretch of a plain file at another rate."""
    from operators.handoff_record import HandoffRecord, Split
    from operators.index import Row, write_index

    noise = np.random.default_rng(0).integers(-999, 999, 3 * 8000).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", noise, 8000)
    soundfile.write(tmp_path / "two.wav", np.stack([noise, noise], 1), 8000)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "talk.wav", "a/key.wav")
        offset = tar.getmembers()[0].size
    with tarfile.open(tmp_path / "other.tar") as tar:
        member = tar.getmember("a/key.wav")
    common = {"frames": 98, "label_tokens": 1, "domain": "read"}
    size = (tmp_path / "talk.wav").stat().st_size
    rows = [
        Row(clip_id="key", shard=str(tmp_path / "other.tar"), offset=member.offset_data, size=member.size,
            label="in a tar", **common),
        Row(clip_id="part", shard=str(tmp_path / "talk.wav"), offset=0, size=size, start_sample=16000, end_sample=32000,
            label="one\nsecond", **common),
        Row(clip_id="two", shard=str(tmp_path / "two.wav"), offset=0, size=2 * offset, label="stereo", **common),
    ]  # fmt: skip
    (tmp_path / "handoff").mkdir()
    write_index(tmp_path / "handoff" / "train.arrow", rows)
    record = HandoffRecord(splits={"train": Split(index="train.arrow", clips=3)})
    (tmp_path / "handoff" / "handoff.json").write_text(record.to_json())
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "handoff"), "--to", "lhotse,kaldi,wenet,hf,nemo", "--out", str(out)]) == 0

    lhotse = pytest.importorskip("lhotse")
    cuts = {cut.id: cut for cut in lhotse.CutSet.from_file(out / "lhotse" / "train" / "cuts.jsonl.gz")}
    assert np.array_equal(int16(cuts["key"].load_audio()), noise)
    assert np.array_equal(int16(cuts["part"].load_audio()), noise[8000:16000])
    assert "part file-" in (out / "kaldi" / "train" / "segments").read_text()
    assert _table(out / "kaldi" / "train" / "text")["part"] == "one second"
    raw = [json.loads(line) for line in (out / "wenet" / "train" / "raw.list").read_text().splitlines()]
    assert raw == [{"key": "part", "wav": str(tmp_path / "talk.wav"), "txt": "one second", "start": 1.0, "end": 2.0}]
    said = json.loads((out / "export.json").read_text())
    assert sum(said["left_out"].values()) == 1
    assert sum(said["formats"]["hf"]["skipped"].values()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "--to", "espnet"], "there are lhotse, nemo, wenet, kaldi, hf"),
        (["{run}", "--to", "hf", "--out", "s3://bucket/x"], "local folder"),
        (["{run}", "--to", "hf", "--out", "{run}"], "choose another folder"),
        (["{handoff}", "{run}", "--to", "hf"], "hand several runs off together"),
        (["{run}/shards", "--to", "hf"], "neither a hand-off"),
        (["{run}", "{run}", "--to", "hf"], "given twice"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, run: Path, handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(run=run, handoff=handoff) for each in arguments]
    given += [] if "--out" in given else ["--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main(["export", *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_from_s3_nemo_streams_the_tars_and_those_that_cannot_say_so(
    run: Path,
    truth: Samples,
    bucket: Callable[..., object],
    s3_server: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    name = "exports"
    client.create_bucket(Bucket=name)
    for path in (path for path in run.rglob("*") if path.is_file()):
        public = {"ACL": "public-read"}  # so that the stand-in below needs no signature
        client.upload_file(str(path), name, f"run/{path.relative_to(run)}", ExtraArgs=public)
    asked = ["export", f"s3://{name}/run", f"s3.endpoint_url={s3_server}", "--out", str(tmp_path / "out"), "--to"]
    assert main([*asked, "lhotse"]) == 2
    assert "S3" in capsys.readouterr().err
    assert main([*asked, "nemo,hf"]) == 0

    # What `aws s3 cp URI -` does, for a machine without the AWS CLI.
    tool = tmp_path / "bin" / "aws"
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable} -S\nimport sys, urllib.request\n"
        "assert sys.argv[1:4] == ['s3', 'cp', '--endpoint-url'] and sys.argv[6] == '-', sys.argv\n"
        "place = sys.argv[4] + '/' + sys.argv[5].removeprefix('s3://')\n"
        "sys.stdout.buffer.write(urllib.request.urlopen(place).read())\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    open_best = pytest.importorskip("lhotse.serialization").open_best
    found: Samples = {}
    for number, entry in enumerate(
        yaml.safe_load((tmp_path / "out" / "nemo" / "train" / "input_cfg.yaml").read_text())
    ):
        tar = entry["tarred_audio_filepaths"]
        assert re.search(r"audio[^/]*_(\d+)[^/]*\.tar", tar)[1] == str(number)  # type: ignore[index]
        found |= _nemo_samples(entry["manifest_filepath"], open_best(tar, "rb").read(), number)
    same({"train": found}, truth, {"train": len(truth)})
