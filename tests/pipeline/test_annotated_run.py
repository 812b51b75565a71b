"""A run with Annotate: its shards, its accounting, judging again, dying and going on."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset

from operators.annotate.annotator import Heard, Opinion
from operators.errors import MachineTrouble
from pipeline import config
from pipeline.__main__ import main
from tests.conftest import REPOSITORY
from tests.support import fast_engines
from tests.support.fast_engines import HashAnnotator
from tests.support.kills import digest

LOCAL = "execution.runner=local"
DIARISED = "annotate.speaker.engine=tests.support.fast_engines:HashDiarisation"


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, of which one was recorded too loud."""
    folder = tmp_path_factory.mktemp("annotated") / "crawl"
    fast_engines.write_crawl(folder, 14, seed=30)
    (loud,) = folder.glob("audiobook/*")
    pcm, rate = soundfile.read(loud, dtype="int16")
    soundfile.write(loud, np.clip(7 * pcm.astype(np.int32), -32_768, 32_767).astype(np.int16), rate)
    return folder


def run(output: Path, crawl: Path, *more: str) -> int:
    (output.parent / "empty.yaml").write_text("{}\n")
    return main(
        ["run", str(output.parent / "empty.yaml"), *fast_engines.settings(str(output), str(crawl), LOCAL, *more)]
    )


@pytest.fixture(scope="module")
def annotated(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(out, crawl, *fast_engines.annotated(DIARISED)) == 0
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("shards/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def records(out: Path) -> list[dict[str, Any]]:
    found = []
    for tar in sorted(out.glob("shards/*/*.tar")):
        samples = webdataset.WebDataset(str(tar), shardshuffle=False)
        found += [json.loads(sample["json"]) for sample in samples]
    return found


def test_a_label_is_in_the_shard_where_both_annotators_gave_it(annotated: Path) -> None:
    kept = [row for row in rows(annotated) if row["outcome"] == "kept"]
    assert len(kept) > 10
    for row in kept:
        for kind in ("gender", "emotion", "events"):
            said = [each["labels"] for each in row["opinions"] if each["kind"] == kind]
            agreed = said[0] if len(said) == 2 and said[0] == said[1] else None
            assert row[kind] == (agreed if kind == "events" or agreed is None else agreed[0])
    assert 0 < sum(row["gender"] is None for row in kept) < len(kept), "no disagreement: this test tests nothing"
    by_id = {row["clip_id"]: row for row in kept}
    for record in records(annotated):
        row = by_id[record["clip_id"]]
        events = [] if record.get("no_events") else record.get("events")
        assert (record.get("gender"), record.get("emotion"), events) == (row["gender"], row["emotion"], row["events"])
        assert json.loads(record["opinions"]) == row["opinions"]
        assert record["speaker"] == row["speaker"]
        assert record["clipped"] == row["clipped"]


def kinds_of(value: Any) -> Any:
    """Return what a loader would infer of a value of JSON."""
    if isinstance(value, dict):
        return {key: kinds_of(inner) for key, inner in value.items()}
    return [kinds_of(value[0])] if isinstance(value, list) else type(value)


def test_a_key_of_a_record_has_one_type_in_every_clip(annotated: Path) -> None:
    """Loaders infer a schema from the first clips; a null or an empty list there stops them at a later one."""
    found: dict[str, list[Any]] = {}
    for record in records(annotated):
        for key, value in record.items():
            parts = value if isinstance(value, list) else [value]
            assert parts, f"{key} is an empty list"
            for part in parts:
                leaves = part if isinstance(part, dict) else {"": part}
                for name, leaf in leaves.items():
                    kinds = found.setdefault(f"{key}.{name}", [])
                    kinds += [kinds_of(leaf)] if kinds_of(leaf) not in kinds else []
    assert {name: kinds for name, kinds in found.items() if len(kinds) != 1 or kinds == [type(None)]} == {}
    assert {"provenance.", "opinions.", "no_events.", "events."} <= found.keys()


DOCUMENTS = ("reference/run-directory.md", "how-to/change-thresholds.md")


@pytest.mark.parametrize("page", DOCUMENTS)
def test_what_the_documents_say_of_reading_a_run_runs(
    annotated: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert any("runs/first" in snippet for snippet in snippets)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(annotated)
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        if "import datasets" in snippet and importlib.util.find_spec("datasets") is None:
            continue  # a loader of others, which nothing here needs
        names: dict[str, Any] = {}
        exec(snippet, names)
        if "webdataset" in snippet and "record" in names:
            assert names["record"]["clip_id"]
            assert names["label"]


def test_without_settings_there_is_no_such_stage_and_the_fingerprint_is_that_of_before(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config.load(None, [])
    assert not [key for key in config.output_settings(settings) if "annotate" in key]
    changed = config.load(None, fast_engines.annotated())
    assert config.fingerprint(changed) != config.fingerprint(settings)
    threads = config.load(None, fast_engines.annotated("execution.annotate.threads=2"))
    assert config.fingerprint(threads) != config.fingerprint(changed), "sums in another order are other sums"
    out = tmp_path / "run"
    assert run(out, crawl) == 0
    (speed,) = [json.loads(path.read_bytes()) for path in out.glob("speed/*.json")]
    assert speed["stages"].keys() == {"Segment", "Transcribe", "Copilot", "Rover", "WriteShard"}
    assert not {"opinions", "gender", "snr_db"} & records(out)[0].keys()
    capsys.readouterr()
    assert main(["redecide", str(out), "annotate.quality.min_snr_db=10"]) == 2
    assert "was not annotated" in capsys.readouterr().err


def test_the_stage_has_a_speed_like_any_other(annotated: Path) -> None:
    stages = json.loads((annotated / "report.json").read_text())["speeds"]["stages"]
    assert "Annotate" in {stage["name"] for stage in stages}


def test_show_and_the_terminal_say_what_was_found(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in rows(annotated) if row["outcome"] == "kept" and row["gender"])
    assert main(["show", str(annotated), row["clip_id"]]) == 0
    story = " ".join(capsys.readouterr().out.split())
    for part in (f"gender {row['gender']}", "hash-annotator/b: gender", "SNR", row["speaker"]):
        assert part in story
    assert main(["report", str(annotated)]) == 0
    told = capsys.readouterr().out
    assert "Attributes" in told
    assert "two opinions" in told


def test_a_lost_ledger_is_made_again_to_the_byte(annotated: Path, crawl: Path) -> None:
    before = digest(annotated)
    lost = sorted(annotated.glob("shards/*/*.parquet"))[1]
    lost.unlink()
    assert run(annotated, crawl, *fast_engines.annotated(DIARISED)) == 0
    assert digest(annotated) == before


STRICT = ["annotate.quality.max_clipped=0", "annotate.min_opinions=1"]


@pytest.fixture(scope="module")
def judged(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotated run under other limits, without a listen: nothing is kept of the recording that was too loud."""
    out = tmp_path_factory.mktemp("judged") / "run"
    assert main(["redecide", str(annotated), *STRICT, "--output", str(out)]) == 0
    return out


def test_other_limits_without_a_listen_equal_a_fresh_run(
    annotated: Path, judged: Path, crawl: Path, tmp_path: Path
) -> None:
    assert run(tmp_path / "fresh", crawl, *fast_engines.annotated(DIARISED), *STRICT) == 0
    assert digest(judged) == digest(tmp_path / "fresh")
    rejected = [row for row in rows(judged) if row["reason"] == "clipped"]
    assert {row["stage"] for row in rejected} == {"annotate"}
    assert all(row["opinions"] for row in rejected), "what was said of them stays"
    report = json.loads((judged / "report.json").read_text())
    lost = sum(row["end"] - row["start"] for row in rejected)
    (told,) = [each for each in report["total"]["rejected"] if each["reason"] == "clipped"]
    assert told["samples"] == lost > 0
    undone = ["annotate.quality.max_clipped=null", "annotate.min_opinions=2"]
    assert main(["redecide", str(judged), *undone, "--output", str(tmp_path / "back")]) == 0
    assert digest(tmp_path / "back") == digest(annotated), "nothing was lost"


def test_where_rover_keeps_other_clips_these_are_asked_about(annotated: Path, crawl: Path, tmp_path: Path) -> None:
    more = ["rover.max_wer=1000", "rover.max_per=1000"]
    assert run(tmp_path / "fresh", crawl, *fast_engines.annotated(DIARISED), *more) == 0
    assert main(["redecide", str(annotated), *more, "--output", str(tmp_path / "judged")]) == 0
    assert digest(tmp_path / "judged") == digest(tmp_path / "fresh")
    assert len(records(tmp_path / "judged")) > len(records(annotated))


def test_a_unit_that_kept_nothing_has_no_tar_and_is_done(annotated: Path, judged: Path, tmp_path: Path) -> None:
    empty = [path for path in sorted(judged.glob("shards/*/*.parquet")) if not path.with_suffix(".tar").exists()]
    assert empty
    for path in empty:
        assert "kept" not in pq.read_table(path)["outcome"].to_pylist()
        assert pq.read_schema(path).metadata[b"touchasp.tar_bytes"] == b"0"
    before = digest(judged)
    empty[0].unlink()
    orphan = io.BytesIO()
    tarfile.open(fileobj=orphan, mode="w").close()
    empty[0].with_suffix(".tar").write_bytes(orphan.getvalue())  # as a version that wrote empty tars left it
    assert main(["redecide", str(annotated), *STRICT, "--output", str(judged)]) == 0
    assert digest(judged) == before
    assert records(judged), "no tar is empty, and plain webdataset reads them all"


class Endpoint(HashAnnotator):
    """An annotator whose service has died while a file is there."""

    def annotate(self, clips: Sequence[Heard]) -> list[Mapping[str, Opinion]]:
        if os.path.exists(self.name.partition("/")[2]):
            raise MachineTrouble("the endpoint http://127.0.0.1:9 does not answer: start it, and 'run' goes on")
        return super().annotate(clips)


def test_an_endpoint_that_dies_leaves_units_undone_and_loses_nothing(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = tmp_path / "down"
    down.touch()
    engine = f"{{engine: 'tests.pipeline.test_annotated_run:Endpoint', model: '{down}'}}"
    settings = [f"annotate.annotators=[{engine}]", "annotate.min_opinions=1", "annotate.kinds=[gender]"]
    assert run(tmp_path / "run", crawl, *settings) == 1
    said = " ".join("".join(capsys.readouterr()).split())
    assert "does not answer" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("run/shards/*/*"))
    down.unlink()
    assert run(tmp_path / "run", crawl, *settings) == 0
    assert any(row["gender"] for row in rows(tmp_path / "run"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("annotate.annotators=[{engine: ears}, {engine: ears}]", ["annotators[0].engine=ears", "emotion2vec"]),
        ("annotate.annotators=[{engine: sensevoice}]", ["min_opinions=2", "no label could ever be kept"]),
        ("annotate.annotators=[{model: x}, {model: y}]", ["annotators[0] names no engine"]),
        ("annotate.words.aligners=[{engine: 'a:b'}]", ["two agree"]),
        ("annotate.quality.min_ovrl=3", ["annotate.quality.dnsmos"]),
        ("annotate.quality.dnsmos=/no/such.onnx", ["annotate.quality.dnsmos", "/no/such.onnx"]),
        ("annotate.quality.min_snr=3", ["did you mean annotate.quality.min_snr_db"]),
        ("annotate.kinds=[mood]", ["annotate.kinds", "mood", "emotion"]),
        (
            "annotate.annotators=[{engine: emotion2vec, model: /no/such}, {engine: sensevoice}]",
            ["annotate.annotators", "/no/such"],
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_heard(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, words: list[str]
) -> None:
    assert run(tmp_path / "run", crawl, setting) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
