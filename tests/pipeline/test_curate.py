"""The command line from sources to report, with fast engines: accounting, resuming, redeciding, showing, and clear
errors.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml

from operators.errors import UserError
from operators.storage.fetch import open_store
from pipeline.__main__ import main
from pipeline.plan import load_plan
from tests.support import fast_engines
from tests.support.kills import digest


@pytest.fixture(scope="session")
def small_crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of synthetic recordings, one file that is no audio, one hostile name."""
    folder = tmp_path_factory.mktemp("small") / "crawl"
    fast_engines.write_crawl(folder, 70, seed=5)
    (folder / "live" / "not audio.mp3").write_bytes(b"<html>404</html>")
    hostile = folder / "live" / "..%2f..%2f<script>alert(1) \U0001f399.flac"
    hostile.write_bytes(next((folder / "live").glob("rec-*.flac")).read_bytes())
    return folder


def run(tmp_path: Path, name: str, crawl: Path, *more: str) -> tuple[int, Path]:
    config = tmp_path / "empty.yaml"
    config.write_text("{}\n")
    out = tmp_path / name
    return main(
        ["run", str(config), *fast_engines.settings(str(out), str(crawl), "execution.runner=local", *more)]
    ), out


@pytest.fixture(scope="session")
def finished(small_crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small crawl under the plain runner."""
    folder = tmp_path_factory.mktemp("finished")
    code, out = run(folder, "run", small_crawl)
    assert code == 0
    return out


def rows(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted(out.glob("shards/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_sample_is_accounted_for(finished: Path, small_crawl: Path) -> None:
    import soundfile

    lengths = {str(path): soundfile.info(path).frames for path in small_crawl.rglob("*.flac")}
    told: dict[str, list[tuple[int, int]]] = {}
    for row in rows(finished):
        told.setdefault(str(row["uri"]), []).append((row["start"], row["end"]))  # type: ignore[arg-type]
    assert sum(len(path) > 0 for path in told) == len(lengths) + 1, "every file, the unreadable one too, is in a ledger"
    for uri, length in lengths.items():
        at = 0
        for start, end in sorted(told[uri]):
            assert start == at, f"{uri}: gap or overlap at {at}"
            at = end
        assert at == length
    report = json.loads((finished / "report.json").read_text())
    assert report["total"]["input"]["samples"] == sum(lengths.values())


def test_quarantine_names_the_file_and_why(finished: Path) -> None:
    lines = [json.loads(line) for path in finished.glob("quarantine/*.jsonl") for line in path.read_text().splitlines()]
    assert [(Path(line["uri"]).name, line["stage"], line["reason"]) for line in lines] == [
        ("not audio.mp3", "decode", "not_audio")
    ]


def test_the_run_directory_is_as_documented(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml", "plan.parquet", "shards", "quarantine", "report.json", "report.html", "speed",
    }  # fmt: skip
    content = yaml.safe_load((finished / "config.yaml").read_text())
    assert content["versions"]["ray"]
    assert content["settings"]["rover"]["max_wer"] == 10.0
    for tar in finished.glob("shards/*/*.tar"):
        with tarfile.open(tar) as opened:
            names = opened.getnames()
        assert all("/" not in name and name.count(".") == 1 for name in names), "keys hold no dots and no path parts"
        kept = [row for row in pq.read_table(tar.with_suffix(".parquet")).to_pylist() if row["outcome"] == "kept"]
        assert [
            sample["__key__"] for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False)
        ] == [row["clip_id"] for row in kept]


def test_hostile_names_stay_data(finished: Path, tmp_path: Path) -> None:
    inside = finished.resolve()
    assert all(path.resolve().is_relative_to(inside) for path in finished.rglob("*"))
    assert "<script>alert(1)" not in (finished / "report.html").read_text()


def test_running_again_does_nothing_and_a_lost_ledger_is_made_again(
    finished: Path, small_crawl: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    before = digest(copy)
    ledgers = sorted(copy.glob("shards/*/*.parquet"))
    ledgers[0].unlink()
    ledgers[1].with_suffix(".tar").write_bytes(b"half a tar, with its ledger missing")
    ledgers[1].unlink()
    assert run(tmp_path, "run", small_crawl)[0] == 0
    assert digest(copy) == before


def test_redecide_equals_a_fresh_run(
    finished: Path, small_crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ("rover.max_wer=1000", "rover.drop_when=both", "rover.tones=false"):
        more = ["rover.max_per=1000"] if setting == "rover.max_wer=1000" else []
        fresh = run(tmp_path, f"fresh-{setting}", small_crawl, setting, *more)[1]
        judged = tmp_path / f"judged-{setting}"
        extra = ["execution.runner=local"]
        assert main(["redecide", str(finished), setting, *more, *extra, "--output", str(judged)]) == 0
        assert digest(judged) == digest(fresh), setting
    assert sum(row["outcome"] == "kept" for row in rows(tmp_path / "judged-rover.max_wer=1000")) > sum(
        row["outcome"] == "kept" for row in rows(finished)
    )


def test_show_tells_a_clips_story(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = next(row for row in rows(finished) if row["outcome"] == "kept")
    assert main(["show", str(finished), str(kept["clip_id"])]) == 0
    story = capsys.readouterr().out
    for part in ("kept", "hash-copilot", f"{kept['start']:,}", str(kept["content_hash"]), "WER 0.0 %"):
        assert part in story
    rejected = next(row for row in rows(finished) if row["outcome"] == "rejected" and row["stage"] == "rover")
    assert main(["show", str(finished), str(rejected["clip_id"])]) == 0
    assert f"rejected by rover: {rejected['reason']}" in capsys.readouterr().out


def test_show_says_in_which_window_a_clip_was_heard(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    clip_id = next(row["clip_id"] for row in rows(run) if row["outcome"] == "kept")
    for path in run.glob("shards/*/*.parquet"):
        table = pq.read_table(path)
        shared = table.to_pylist()
        for row in shared:
            if row["clip_id"] == clip_id:
                row["hypotheses"][0] |= {"window": 3, "retaken": True}
        pq.write_table(pa.Table.from_pylist(shared, schema=table.schema), path)
    assert main(["show", str(run), str(clip_id)]) == 0
    story = " ".join(capsys.readouterr().out.split())
    assert story.count("window 3, in doubt there, so heard again alone") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "{none}.yaml"], ["no settings file"]),
        (["run", "{config}"], ["no output", "output="]),
        (["run", "{config}", "output={out}"], ["no sources", "sources="]),
        (["run", "{config}", "output={out}", "sources={none}"], ["{none}"]),
        (
            ["run", "{config}", "output={out}", "sources={crawl}", "asr.model=/no/such/model"],
            ["asr.model", "/no/such/model"],
        ),
        (["run", "{config}", "output=/proc/nowhere/run", "sources={crawl}"], ["/proc/nowhere"]),
        (["run", "{config}", "output={out}", "sources={crawl}", "vad.engine=ears"], ["ears", "pyannote"]),
        (["run", "{config}", "output={out}", "sources={crawl}", "asr.engine=no.such:Engine"], ["no.such"]),
        (["run", "{config}", "output={out}", "sources={crawl}", "rover.max_wre=3"], ["did you mean rover.max_wer"]),
        (["run", "{config}", "output={out}", "sources={crawl}", "cut.pad_seconds=-1"], ["pad_seconds"]),
        (
            ["run", "{config}", "output={out}", "sources={crawl}", "hallucination={max_repeat: 3}"],
            ["hallucination", "max_repeat"],
        ),
        (["report", "{none}"], ["no run directory"]),
        (["report", "{run}", "rover.max_wer=3"], ["redecide"]),
        (["redecide", "{run}", "asr.model=x"], ["rover.*, text.*, annotate.min_opinions", "asr.model"]),
        (["redecide", "{run}", "rover.max_wer=10"], ["nothing to redecide"]),
        (["show", "{run}", "no-such-clip"], ["no clip no-such-clip"]),
        (["report", "{run}", "--out", "{out}", "rover.max_wer=15"], ["only s3.* settings", "rover.max_wer"]),
        (["handoff", "{run}", "--out", "{out}", "rover.max_wer=15"], ["only s3.* settings", "rover.max_wer"]),
        (
            ["run", "{config}", "output={run}", "sources={crawl}", "asr.batch_size=3"],
            ["made with other settings", "asr."],
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    finished: Path,
    small_crawl: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "empty.yaml"
    config.write_text("{execution: {runner: local}}\n")
    names = {
        "none": tmp_path / "none",
        "config": config,
        "out": tmp_path / "out",
        "crawl": small_crawl,
        "run": finished,
    }
    assert (
        main(
            [
                argument.format(**names) if "{" in argument and ":" not in argument else argument
                for argument in arguments
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("touchasp: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for word in words:
        assert word.format(**names) in error, error


def test_a_plan_of_other_settings_may_be_removed_while_nothing_is_done(
    small_crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.yaml").write_text("{}")
    settings = fast_engines.settings(str(tmp_path / "run"), str(small_crawl), "execution.runner=local")
    command = ["plan", str(tmp_path / "empty.yaml"), *settings]
    assert main(command) == 0
    assert main([*command, "rover.max_wer=3"]) == 2
    told = capsys.readouterr().err
    assert "rover.max_wer: 10.0 -> 3.0" in told
    assert "nothing is done in it yet" in told


def test_a_bug_leaves_its_unit_undone_and_says_so(
    small_crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run(tmp_path, "run", small_crawl, "asr.engine=tests.pipeline.test_curate:Buggy")
    assert code == 1
    told = capsys.readouterr().out
    assert "ZeroDivisionError" in told
    assert "left undone" in told
    code, _ = run(tmp_path, "run", small_crawl, "asr.engine=tests.pipeline.test_curate:Buggy")
    assert code == 1, "units that worked are not done again, the others are tried again"


class Buggy(fast_engines.HashRecogniser):
    """Falls over every unit with more than 20 clips."""

    def transcribe(self, clips, languages):  # type: ignore[no-untyped-def]
        if len(clips) > 12:
            raise ZeroDivisionError("a bug")
        return super().transcribe(clips, languages)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("copilot.models.fr=no-such-model", ["no-such-model"]),
        ("copilot.engine=tests.pipeline.test_curate:Absent", ["Absent"]),
        ("asr.engine=tests.pipeline.test_curate:Unloadable", ["the model is not here"]),
    ],
)
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_every_engine_answers_the_roll_call(
    runner: str, setting: str, words: list[str], small_crawl: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A model that cannot be loaded ends `check` and `run` before anything is curated, also one that no clip would
    reach.
    """
    if runner == "ray" and "asr" not in setting:
        pytest.skip("one start of Ray tells as much as three")
    config = tmp_path / "empty.yaml"
    config.write_text("{}\n")
    more = [f"execution.runner={runner}", "copilot.engine=tests.pipeline.test_curate:Picky", setting]
    assert main(["check", str(config), *fast_engines.settings(str(tmp_path / "run"), str(small_crawl), *more)]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


class Picky(fast_engines.HashCopilot):
    """Knows one model."""

    def __init__(self, model: str) -> None:
        if model != "hash":
            raise UserError(f"no model called {model}: choose another")
        super().__init__(model)


class Unloadable(fast_engines.HashRecogniser):
    def __init__(self, model: str) -> None:
        raise UserError("the model is not here: fetch it first")


def test_when_every_unit_fails_the_run_says_so(
    small_crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run(tmp_path, "run", small_crawl, "asr.engine=tests.pipeline.test_curate:Broken")
    assert code == 1
    assert "left undone" in capsys.readouterr().out


class Broken(fast_engines.HashRecogniser):
    def transcribe(self, clips, languages):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError("a bug")


def test_a_tar_and_a_manifest_go_through_with_all_that_they_say(tmp_path: Path) -> None:
    """Members of a tar, whatever else the manifest says of them, and a recording named twice."""
    fast_engines.write_crawl(tmp_path / "loose", 12, seed=8, domains=("talk",))
    files = sorted((tmp_path / "loose" / "talk").glob("*.flac"))
    with tarfile.open(tmp_path / "raw.tar", "w") as tar:
        for file in files:
            tar.add(file, arcname=f"deep/{file.name}")
    lines = [
        {
            "uri": f"raw.tar#deep/{file.name}",
            "domain": "访谈",
            "language": "en",
            "license": "CC0",
            "year": 2020,
            "tags": ["a", "b"],
        }
        for file in files
    ]
    lines += [dict(lines[0]), {"uri": "raw.tar#no/such.flac", "domain": "访谈"}, {"uri": "http://example.org/a.mp3"}]
    (tmp_path / "crawl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "this is no JSON\n")
    code, out = run(tmp_path, "run", tmp_path / "crawl.jsonl")
    assert code == 0
    told = rows(out)
    heard = [row for row in told if row["outcome"] != "unreadable"]
    assert {row["domain"] for row in heard} == {"访谈"}
    assert all(
        json.loads(str(row["provenance"])) == {"license": "CC0", "year": 2020, "tags": ["a", "b"]} for row in heard
    )
    refused = sorted(str(row["reason"]) for row in told if row["outcome"] == "unreadable")
    assert refused == ["bad_manifest_line", "duplicate", "missing", "unsupported_scheme"]
    assert any(row["outcome"] == "kept" for row in heard)
    assert (
        main(["redecide", str(out), "rover.max_wer=1000", "rover.max_per=1000", "--output", str(tmp_path / "again")])
        == 0
    )


def test_a_duplicate_lends_its_uri_and_licence_to_no_clip(tmp_path: Path) -> None:
    """Also where its uri sorts before that of the recording that was read."""
    fast_engines.write_crawl(tmp_path, 60, seed=3, domains=("talk",))
    for name, file in zip("ba", sorted((tmp_path / "talk").glob("*.flac")), strict=False):
        file.rename(tmp_path / f"{name}.flac")
    lines = [
        {"uri": f"{name}.flac", "recording_id": "X", "domain": "talk", "license": licence}
        for name, licence in (("b", "CC-BY"), ("a", "PROPRIETARY"))
    ]
    (tmp_path / "crawl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out = run(tmp_path, "run", tmp_path / "crawl.jsonl", "plan.unit_minutes=30")
    assert code == 0
    told = {(row["reason"], Path(str(row["uri"])).name, row["provenance"]) for row in rows(out)}
    assert ("duplicate", "a.flac", '{"license": "PROPRIETARY"}') in told
    assert {line[1:] for line in told if line[0] != "duplicate"} == {("b.flac", '{"license": "CC-BY"}')}
    (tar,) = out.glob("shards/*/*.tar")
    samples = [json.loads(sample["json"]) for sample in webdataset.WebDataset(str(tar), shardshuffle=False)]
    assert samples
    assert {(Path(one["uri"]).name, json.loads(one["provenance"])["license"]) for one in samples} == {
        ("b.flac", "CC-BY")
    }


def test_mp3s_that_declare_no_length_fill_units_and_forecasts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from tests.support.recordings import write_av

    (tmp_path / "crawl" / "talk").mkdir(parents=True)
    quiet = np.zeros(180 * 16_000, np.float32)
    first = write_av(tmp_path / "crawl" / "talk" / "0.mp3", quiet, 16_000, "libmp3lame", write_xing="0")
    for number in (1, 2, 3):
        (first.parent / f"{number}.mp3").write_bytes(first.read_bytes())
    (tmp_path / "empty.yaml").write_text("{}")
    out = tmp_path / "run"
    settings = fast_engines.settings(str(out), str(tmp_path / "crawl"), "plan.unit_minutes=7", "execution.runner=local")
    assert main(["plan", str(tmp_path / "empty.yaml"), *settings]) == 0
    assert "planned 4 recordings, 0 s declared, about 12.0 min undeclared, into 2 units" in capsys.readouterr().out
    units = load_plan(open_store(str(out)))
    assert [len(unit.pieces) for unit in units] == [2, 2]
    assert units.expected_seconds() == pytest.approx(720, abs=2)
    assert main(["run", str(tmp_path / "empty.yaml"), *settings]) == 0
    assert "at most 0.01 GB needed" in capsys.readouterr().out


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--help"],
        ["run", "--help"],
        ["plan", "--help"],
        ["report", "--help"],
        ["redecide", "--help"],
        ["show", "--help"],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        assert "examples:" in capsys.readouterr().out


def test_check_tries_everything_and_curates_nothing(
    small_crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "empty.yaml"
    config.write_text("{}\n")
    out = tmp_path / "run"
    assert (
        main(["check", str(config), *fast_engines.settings(str(out), str(small_crawl), "execution.runner=local")]) == 0
    )
    told = capsys.readouterr().out
    for check in ("output", "source", "engines"):
        assert f"ok {check}" in told
    assert not list(out.rglob("*.parquet"))


def test_long_recordings_are_cut_between_units_without_loss(tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    rng = np.random.default_rng(11)
    parts = []
    for _ in range(70):
        parts += [
            rng.integers(-6000, 6000, int(rng.integers(35_000, 60_000)), dtype=np.int16),
            np.zeros(int(rng.integers(9_000, 30_000)), np.int16),
        ]
    whole = np.concatenate(parts)
    (tmp_path / "crawl" / "audiobook").mkdir(parents=True)
    soundfile.write(tmp_path / "crawl" / "audiobook" / "long.flac", whole, 16_000)
    code, out = run(tmp_path, "run", tmp_path / "crawl")
    assert code == 0
    tiles = sorted((row["start"], row["end"], row["unit_id"]) for row in rows(out))
    assert len({unit for *_, unit in tiles}) >= 4
    assert tiles[0][0] == 0
    assert tiles[-1][1] == len(whole)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(tiles))
    for path in out.glob("shards/*/*.tar"):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
            record = json.loads(sample["json"])
            assert np.array_equal(
                soundfile.read(io.BytesIO(sample["flac"]), dtype="int16")[0], whole[record["start"] : record["end"]]
            )
