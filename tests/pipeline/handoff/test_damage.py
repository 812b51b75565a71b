"""A hand-off of damaged or foreign shards is refused, and says which."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from operators.shard import read_ledger
from tests.support.curated_handoffs import (
    as_older_versions_wrote,
    copied,
    everything,
    record,
    rewrite,
)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["audio", "label", "padding"])
def test_one_flipped_bit_of_a_tar_is_named_and_refused(
    where: str, runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(runs[0], tmp_path / "run")
    tar = sorted(run.glob("shards/live/*.tar"))[-1]
    row = next(
        row for row in read_ledger(tar.with_suffix(".parquet").read_bytes())[0].to_pylist() if row["outcome"] == "kept"
    )
    places = {
        "audio": row["tar_offset"] + row["tar_size"] // 2,
        "label": tar.read_bytes().index(row["label"].encode()),
        "padding": tar.stat().st_size - 1,
    }
    flip(tar, places[where])
    out = hand_off(str(run), code=2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tar) in error
    assert not out.exists(), "nothing may be written of a refused run"
    hand_off(str(run), "--skip-damaged")
    assert [damage["shard"] for damage in record(out)["damaged"]] == [str(tar)]
    assert not any(row["shard"] == str(tar) for rows in everything(out).values() for row in rows)
    hand_off(str(run), "--verify", "sizes", out="unverified")


def test_flipped_bits_of_a_ledger_are_refused(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(runs[0], tmp_path / "run")
    ledger = sorted(run.glob("shards/live/*.parquet"))[0]
    whole = ledger.read_bytes()
    file = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(0)
    for name in ("label", "tar_offset"):
        column = next(file.column(i) for i in range(file.num_columns) if file.column(i).path_in_schema == name)
        ledger.write_bytes(whole)
        flip(ledger, column.data_page_offset + column.total_compressed_size // 2)
        hand_off(str(run), code=2)
        assert str(ledger) in capsys.readouterr().err, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tar: tar.unlink(), "missing"),
        (lambda tar: tar.write_bytes(tar.read_bytes()[:-512]), "bytes"),
    ],
)
def test_tars_that_are_gone_or_cut_are_refused(
    change: Callable[[Path], Any],
    words: str,
    runs: tuple[str, str],
    hand_off: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copied(runs[0], tmp_path / "run")
    tar = sorted(run.glob("shards/audiobook/*.tar"))[0]
    change(tar)
    hand_off(str(run), "--verify", "sizes", code=2)
    error = capsys.readouterr().err
    assert str(tar) in error
    assert words in error


def test_a_ledger_that_miscounts_is_refused(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(runs[0], tmp_path / "run")
    rewrite(run, lambda rows, _: rows.remove(next(row for row in rows if row["outcome"] == "kept")))
    hand_off(str(run), code=2)
    assert "kept clips" in capsys.readouterr().err


def test_an_old_ledgers_shard_is_checked_by_decoding(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(runs[0], tmp_path / "run")
    rewrite(run, as_older_versions_wrote)
    tar = sorted(run.glob("shards/live/*.tar"))[0]
    row = next(
        row for row in read_ledger(tar.with_suffix(".parquet").read_bytes())[0].to_pylist() if row["outcome"] == "kept"
    )
    flip(tar, row["tar_offset"] + row["tar_size"] // 2)
    hand_off(str(run), code=2)
    error = capsys.readouterr().err
    assert str(tar) in error
    assert row["clip_id"] in error


# splits


def test_a_shard_of_another_run_is_refused(
    runs: tuple[str, str], hand_off: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(runs[0], tmp_path / "run")
    (run / "shards" / "meeting").mkdir()
    for path in Path(runs[1]).glob("shards/meeting/*"):
        shutil.copy(path, run / "shards" / "meeting")
    hand_off(str(run), code=2)
    assert "of no unit of the plan" in capsys.readouterr().err
