"""Workers start quickly, and lose no time in their first unit."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest

from pipeline.executor.dependencies import without_collections

OPENED = """
import sys
from stages.write_shard import WriteShard
from operators.clip import Unit
from operators.storage.fetch import open_store
stage = WriteShard(store=open_store(sys.argv[1]))
stage.open()
before = set(sys.modules)
stage.process(Unit(unit_id="live-000000", domain="live", pieces=()))
print(len(set(sys.modules) - before))
"""


def test_the_collector_rests_while_engines_load_and_works_again_after() -> None:
    during: list[bool] = []

    def load() -> None:
        with without_collections():
            during.append(gc.isenabled())
            raise ValueError

    with pytest.raises(ValueError):
        load()
    assert during == [False]
    assert gc.isenabled()


def test_a_shard_s_first_unit_imports_nothing(tmp_path: Any) -> None:
    found = subprocess.run([sys.executable, "-c", OPENED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 0
