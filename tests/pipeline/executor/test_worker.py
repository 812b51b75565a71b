"""What workers and the order of units are for: short start-ups, short ends, no time lost in a first unit."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest

from operators.clip import Piece, Recording, Unit
from pipeline.config import ExecutionSettings
from pipeline.executor import ray_data
from pipeline.executor.dependencies import without_collections
from pipeline.executor.worker import ROLL_CALL, called

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


def test_longest_units_go_first_behind_the_roll_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def unit(name: str, *seconds: int) -> Unit:
        pieces = tuple(
            Piece(recording=Recording(recording_id=name, uri=name, domain="d"), declared_samples=16_000 * each)
            for each in seconds
        )
        return Unit(unit_id=name, domain="d", pieces=pieces)

    waves: list[list[str]] = []

    def wave(self: object, units: list[Unit]) -> list[bytes]:
        waves.append([unit.unit_id for unit in units])
        return []

    monkeypatch.setattr(ray_data.RayExecutor, "_wave", wave)
    executor = ray_data.RayExecutor(ExecutionSettings(), [])
    units = [unit("a", 10), unit("b", 5, 20), unit("c", 30), unit("d", 10)]
    assert list(executor._outcomes(called(units))) == []
    assert waves == [[ROLL_CALL.unit_id, "c", "b", "a", "d"]]
