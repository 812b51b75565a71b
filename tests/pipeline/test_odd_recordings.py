"""Odd recordings through `run`: every second is in the ledger, holes where they lie, and memory bounded by the unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from operators.clip import SAMPLE_RATE
from operators.storage.fetch import open_store
from pipeline.__main__ import main
from pipeline.plan import load_plan
from tests.support import fast_engines
from tests.support.odd_recordings import ESTIMATED, ODD, bursts, encode, odd, wav


def run(tmp_path: Path, crawl: Path, *more: str) -> tuple[int, Path]:
    (tmp_path / "empty.yaml").write_text("{}")
    out = tmp_path / "run"
    settings = fast_engines.settings(str(out), str(crawl), "execution.runner=local", *more)
    return main(["run", str(tmp_path / "empty.yaml"), *settings]), out


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("shards/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_odd_recording_is_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "crawl" / "odd"
    folder.mkdir(parents=True)
    for name in ODD:
        (folder / name).write_bytes(odd(name))
    code, out = run(tmp_path, tmp_path / "crawl")
    assert code == 0, capsys.readouterr().out  # the report is written, so the identity holds
    seconds: dict[str, float] = dict.fromkeys(ODD, 0.0)
    unreadable: dict[str, float] = dict.fromkeys(ODD, 0.0)
    for row in rows(out):
        name = row["recording_id"].removeprefix("odd/")
        seconds[name] += (row["end"] - row["start"]) / SAMPLE_RATE
        if row["outcome"] == "unreadable":
            unreadable[name] += (row["end"] - row["start"]) / SAMPLE_RATE
            assert row["reason"] in ("gap", "decode_error")
    wrong = {name: seconds[name] for name in ODD if abs(seconds[name] - ODD[name][1]) > ESTIMATED.get(name, 0.1)}
    assert not wrong
    assert {name for name in ODD if unreadable[name] > 0} == {
        *("zeros.ts", "hole.opus", "hole.ogg", "hole.mp3", "hole.aac", "end.aac")
    }


def test_an_undeclared_recording_is_cut_into_units(tmp_path: Path) -> None:
    """ADTS AAC has no header that could tell its length."""
    folder = tmp_path / "crawl" / "radio"
    folder.mkdir(parents=True)
    (folder / "long.aac").write_bytes(encode("adts", "aac", bursts(20, 16_000), 16_000) * 15)
    code, out = run(tmp_path, tmp_path / "crawl")
    assert code == 0
    units = load_plan(open_store(str(out)))
    assert [len(unit.pieces) for unit in units] == [1] * 5
    assert all(piece.declared_samples is None for unit in units for piece in unit.pieces)
    for path in out.glob("shards/*/*.parquet"):
        spans = [(row["start"], row["end"]) for row in pq.read_table(path).to_pylist()]
        assert max(end for _, end in spans) - min(start for start, _ in spans) < 70 * SAMPLE_RATE
    heard = sum(row["end"] - row["start"] for row in rows(out))
    assert abs(heard / SAMPLE_RATE - 300) < 1.5
    assert not [row for row in rows(out) if row["outcome"] == "unreadable"]


def test_a_header_that_hides_hours_costs_no_memory_and_is_named(tmp_path: Path) -> None:
    """FLAC files end to end declare the first of them."""
    folder = tmp_path / "crawl" / "radio"
    folder.mkdir(parents=True)
    (folder / "long.flac").write_bytes(encode("flac", "flac", bursts(50, 16_000), 16_000) * 4)
    code, out = run(tmp_path, tmp_path / "crawl")
    assert code == 0
    lost = [row for row in rows(out) if row["outcome"] == "unreadable"]
    assert [(row["reason"], row["start"], row["end"]) for row in lost] == [
        ("too_large", 120 * SAMPLE_RATE, 200 * SAMPLE_RATE)
    ]
    assert sum(row["end"] - row["start"] for row in rows(out)) == 200 * SAMPLE_RATE


def test_trouble_of_the_machine_leaves_units_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from operators.audio.isolated import AudioError, IsolatedDecoder

    (tmp_path / "crawl" / "talk").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "crawl" / "talk" / f"{number}.wav").write_bytes(wav(5 + number, 16_000))
    decode = IsolatedDecoder.decode

    def dying(self: IsolatedDecoder, *arguments: Any) -> Any:
        raise AudioError("decoder_crash", "SIGSEGV (2 attempts)")

    monkeypatch.setattr(IsolatedDecoder, "decode", dying)
    code, out = run(tmp_path, tmp_path / "crawl", "plan.unit_minutes=30")
    assert code == 1
    assert "recordings ended their decoder alike (decoder_crash)" in capsys.readouterr().out
    assert rows(out) == []
    monkeypatch.setattr(IsolatedDecoder, "decode", decode)
    assert run(tmp_path, tmp_path / "crawl", "plan.unit_minutes=30")[0] == 0
    assert {row["outcome"] for row in rows(out)} >= {"non_speech"}
    assert not [row for row in rows(out) if row["outcome"] == "unreadable"]
