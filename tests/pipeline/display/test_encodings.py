"""Terminals that do not have every sign get the whole table all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.fast_engines import settings
from tests.support.recordings import tone, write_wav


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "ascii", "utf-8"])
def test_a_table_is_printed_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    names = ("访谈", "café", "tôi có")
    for name in names:
        (tmp_path / "crawl" / name).mkdir(parents=True)
        write_wav(tmp_path / "crawl" / name / "1.wav", tone(3))
    (tmp_path / "empty.yaml").write_text("{}")
    arguments = ["plan", str(tmp_path / "empty.yaml"), *settings(str(tmp_path / "run"), str(tmp_path / "crawl"))]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    printed = done.stdout.decode(encoding)
    for name in names:
        assert name.encode(encoding, "backslashreplace").decode(encoding) in printed
