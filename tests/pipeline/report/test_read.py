"""report.json read again as rows and clips, and the notebook that shows them, run on a run as curation leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.shard import read_ledger
from operators.storage.fetch import open_store
from pipeline.report.read import cause_rows, domain_rows, example_clips, read_report
from pipeline.run_directory import existing_run

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "examples" / "look_at_a_run.ipynb"


def all_rows(run: str) -> list[dict[str, Any]]:
    ledgers = sorted(Path(run).glob("shards/*/*.parquet"))
    return [row for path in ledgers for row in read_ledger(path.read_bytes())[0].to_pylist()]


def hours(rows: list[dict[str, Any]], *outcomes: str) -> float:
    spans = [row["end"] - row["start"] for row in rows if row["outcome"] in outcomes]
    return sum(spans) / SAMPLE_RATE / 3600


def test_rows_are_the_ledgers_sums(runs: tuple[str, str]) -> None:
    ledgers = all_rows(runs[0])
    report = read_report(open_store(runs[0]))
    rows = {row["domain"]: row for row in domain_rows(report)}
    assert set(rows) == {"audiobook", "live"}
    for domain, row in rows.items():
        own = [each for each in ledgers if each["domain"] == domain]
        assert row["input_hours"] == pytest.approx(hours(own, "kept", "rejected", "non_speech", "unreadable"))
        assert row["kept_hours"] == pytest.approx(hours(own, "kept"))
        assert row["kept_clips"] == sum(each["outcome"] == "kept" for each in own)
    causes = cause_rows(report)
    assert [row["hours"] for row in causes] == sorted((row["hours"] for row in causes), reverse=True)
    lost = {(row["domain"], row["stage"], row["reason"]): row for row in causes}
    for cause in {(row["domain"], row["stage"], row["reason"]) for row in ledgers if row["outcome"] == "rejected"}:
        own = [row for row in ledgers if (row["domain"], row["stage"], row["reason"]) == cause]
        assert lost[cause]["hours"] == pytest.approx(hours(own, "rejected"))
        assert lost[cause]["meaning"]


def test_examples_are_heard(runs: tuple[str, str]) -> None:
    settings, store = existing_run(runs[0], [])
    clips = example_clips(settings, store, read_report(store))
    assert {clip.example.outcome for clip in clips} == {"kept", "rejected"}
    assert all(clip.audio for clip in clips), "kept ones lie in shards, rejected ones are cut from the crawl"


def test_a_report_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(UserError, match="has no report"):
        read_report(store)
    for damaged in ("{", "[]", '{"schema_version": 99}'):
        (tmp_path / "report.json").write_text(damaged)
        with pytest.raises(UserError, match="another version"):
            read_report(store)


def test_the_notebook_runs(
    runs: tuple[str, str], tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipykernel", reason="the extra 'docs' is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra 'docs' is not installed")
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(NOTEBOOK, 4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells), "strip the outputs"
    (given,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    given.source = f"RUN = {runs[0]!r}\nHANDOFF = {tokenizer!r}"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    nbclient.NotebookClient(book, timeout=60, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = [data for output in outputs for data in output.get("data", {}).items()]
    assert sum(kind == "image/png" for kind, _ in shown) == 2
    assert sum(kind == "text/html" and "<audio" in text for kind, text in shown) >= 3, "kept, rejected, from a shard"
    assert sum(kind == "text/html" and "<table" in text for kind, text in shown) == 4
    kept = sum(row["outcome"] == "kept" and row["domain"] == "live" for row in all_rows(runs[0]))
    assert any(f"<td>{kept}</td>" in text for kind, text in shown if kind == "text/html")
