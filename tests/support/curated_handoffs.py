"""Runs to hand off, and ways to look at what came of it; tests/pipeline/conftest.py offers the fixtures."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from operators.shard import ledger_bytes, read_ledger
from pipeline.__main__ import main
from tests.support import fast_engines

SHARES = ["--dev", "0.3", "--test", "0.3"]


def curate(folder: Path, name: str, crawl: str, *more: str, output: str = "") -> str:
    (folder / "empty.yaml").write_text("{execution: {runner: local}}\n")
    out = output or str(folder / name)
    assert (
        main(["run", str(folder / "empty.yaml"), *fast_engines.settings(out, crawl, "plan.unit_minutes=3", *more)]) == 0
    )
    return out


@pytest.fixture(scope="session")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two crawls of two domains; the second has the first's live recordings under other names."""
    folder = tmp_path_factory.mktemp("crawls")
    fast_engines.write_crawl(folder / "first", 200, seed=1)
    fast_engines.write_crawl(folder / "second", 40, seed=2, domains=["meeting"])
    (folder / "second" / "live").mkdir()
    for path in sorted((folder / "first" / "live").iterdir()):
        shutil.copy(path, folder / "second" / "live" / f"again-{path.name}")
    return folder / "first", folder / "second"


@pytest.fixture(scope="session")
def runs(crawls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return curate(folder, "first", str(crawls[0])), curate(folder, "second", str(crawls[1]))


@pytest.fixture(scope="session")
def tokenizer(runs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tokenizer of one hand-off, built by the trainer's own command; most tests take it as it is."""
    out = tmp_path_factory.mktemp("tokenizer") / "handoff"
    assert main(["handoff", *runs, "--out", str(out), "--bpe-size", "60", *SHARES]) == 0
    return str(out)


@pytest.fixture
def hand_off(tokenizer: str, tmp_path: Path) -> Callable[..., Path]:
    def made(*arguments: str, out: str = "handoff", code: int = 0) -> Path:
        given = SHARES if "--dev" not in arguments else []
        assert main(["handoff", *arguments, *given, "--out", str(tmp_path / out), "--tokenizer", tokenizer]) == code
        return tmp_path / out

    return made


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "handoff.json").read_text())


def index(out: Path, split: str) -> list[dict[str, Any]]:
    with pa.memory_map(str(out / f"{split}.arrow")) as source:
        return pa.ipc.open_file(source).read_all().to_pylist()


def everything(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: index(out, split) for split in record(out)["splits"]}


def ledger_rows(run: str) -> list[dict[str, Any]]:
    """Kept rows of a run."""
    tables = (read_ledger(path.read_bytes())[0] for path in sorted(Path(run).glob("shards/*/*.parquet")))
    return [row for table in tables for row in table.to_pylist() if row["outcome"] == "kept"]


def audio_of(row: dict[str, Any]) -> bytes:
    with open(row["shard"], "rb") as file:
        file.seek(row["offset"])
        return file.read(row["size"])


def copied(run: str, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def rewrite(run: Path, change: Callable[[list[dict[str, Any]], dict[str, str]], Any]) -> None:
    """Change the rows and metadata of every ledger of a run."""
    for path in run.glob("shards/*/*.parquet"):
        table, metadata = read_ledger(path.read_bytes())
        rows = table.to_pylist()
        change(rows, metadata)
        path.write_bytes(ledger_bytes(rows, metadata))


def as_older_versions_wrote(_: list[dict[str, Any]], metadata: dict[str, str]) -> None:
    del metadata["mel_sums"], metadata["tar_sha256"]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# damage
