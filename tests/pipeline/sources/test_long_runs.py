"""A long run in bounded memory: what is held of names, plans and listings, and how often a store is asked."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scale_store import Served, keys_of, start
from operators.clip import Rejection
from operators.errors import UserError
from operators.storage.fetch import open_store
from pipeline import ledger
from pipeline.config import fingerprint
from pipeline.plan import Plan, load_plan, save_plan
from pipeline.run_directory import CONFIG_KEY, config_bytes
from pipeline.sources.probe import Length
from pipeline.sources.seen import Seen
from pipeline.sources.spill import Spill
from pipeline.sources.units import make_plan
from stages.write_shard import shard_keys
from tests.pipeline.test_plan import MINUTE, half_hours, source

NAMES = [
    "talk-000000", "talk-000001", "talk-999999", "talk-1000000", "访谈-000007", "a-b-000001", "a-b-000001-000002",
    "talk-0000001", "talk-12", "talk", "", "talk-99999999999999999999", "talk-０００００１", "-000001",
]  # fmt: skip


def test_a_set_of_unit_names_holds_what_it_was_given_whatever_the_names_look_like() -> None:
    dice = random.Random(3)
    for _ in range(30):
        chosen = dice.sample(NAMES, dice.randrange(len(NAMES))) * 2
        units = ledger.UnitSet(chosen)
        assert sorted(units) == sorted(set(chosen))
        assert len(units) == len(set(chosen))
        assert [name in units for name in NAMES] == [name in chosen for name in NAMES]


def test_a_name_is_seen_once_it_was_added_however_many_come_after() -> None:
    seen, names = Seen(), [f"/crawl/{number}" for number in range(5000)]
    assert all(seen.add(name) for name in names)
    assert not any(seen.add(name) for name in names)
    assert all(name in seen for name in names)
    assert not any(f"{name}/" in seen for name in names)


@pytest.mark.parametrize("count", [0, 6, 7, 100])
def test_what_is_sorted_on_disk_is_what_memory_would_give(count: int, tmp_path: Path) -> None:
    dice = random.Random(count)
    records = [(dice.randrange(9), number) for number in range(count)]
    with Spill(lambda record: record[0], str(tmp_path), together=7) as spill:
        spill.extend(iter(records))
        assert list(spill) == sorted(records, key=lambda record: record[0]), "records of one key stay in their order"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"] == []


def mixed_plan(folder: Path) -> tuple[Plan, list]:
    """A plan over several row groups, of cut, refused, declared and estimated recordings; and its units."""
    dice = random.Random(1)
    refused = Rejection(stage="plan", reason="duplicate")
    files = [
        source(f"{number:05d}", f"domain{number % 3}", problem=refused if number % 11 == 0 else None)
        for number in range(4000)
    ]
    lengths = [
        Length() if file.problem or dice.random() < 0.1
        else Length(declared=dice.randrange(90 * MINUTE)) if dice.random() < 0.7
        else Length(estimated=dice.randrange(90 * MINUTE), measured=dice.random() < 0.5)
        for file in files
    ]  # fmt: skip
    units = make_plan(files, lengths, half_hours())
    store = open_store(str(folder))
    save_plan(units, store)
    return load_plan(store), units


def test_sums_over_columns_are_sums_over_pieces(tmp_path: Path) -> None:
    plan, units = mixed_plan(tmp_path)
    left = plan.without({unit.unit_id for unit in units[::3]})
    for counted, chosen in ((plan, units), (left, [unit for at, unit in enumerate(units) if at % 3])):
        declared = expected = 0
        for piece in (piece for unit in chosen for piece in unit.pieces):
            samples = piece.declared_samples
            known = 0 if samples is None else max(0, (samples if piece.end is None else piece.end) - piece.start)
            guess = piece.estimated_samples if samples is None and piece.problem is None else None
            declared += known
            expected += known + (0 if guess is None else max(0, (piece.end or guess) - piece.start))
        assert counted.declared_seconds() * 16_000 == pytest.approx(declared, abs=0.5)
        assert counted.expected_seconds() * 16_000 == pytest.approx(expected, abs=0.5)


def test_what_is_left_of_a_plan_is_its_units_without_the_done_ones_in_order(tmp_path: Path) -> None:
    plan, units = mixed_plan(tmp_path)
    assert len(units) > 2048, "several row groups"
    done = {unit.unit_id for unit in units if random.Random(unit.unit_id).random() < 0.5} | {"a-stranger"}
    left = plan.without(done)
    expected = [unit.unit_id for unit in units if unit.unit_id not in done]
    assert [unit.unit_id for unit in left] == list(left.unit_ids()) == expected
    assert len(left) == len(expected)
    assert list(left.without({expected[0]}).unit_ids()) == expected[1:]
    assert len(plan.without(list(plan.unit_ids()))) == 0


def test_a_unit_is_found_by_its_name(tmp_path: Path) -> None:
    plan, units = mixed_plan(tmp_path)
    for unit in (units[0], units[-1], units[2048], units[777]):
        found = plan.find(unit.unit_id)
        assert found is not None
        assert (found.unit_id, found.pieces) == (unit.unit_id, unit.pieces)
    assert plan.find("domain1-999999") is None


def test_a_plan_that_is_damaged_further_on_is_one_line_when_it_is_read(tmp_path: Path) -> None:
    plan, _ = mixed_plan(tmp_path)
    content = bytearray((tmp_path / "plan.parquet").read_bytes())
    content[1000 : len(content) // 2] = bytes(len(content) // 2 - 1000)
    (tmp_path / "plan.parquet").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        list(plan)


def peak(steps: Iterator[object]) -> int:
    tracemalloc.start()
    for _ in steps:
        pass
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


def test_memory_does_not_grow_with_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.UNITS_TOGETHER", 128)
    peaks = []
    for units in (400, 1600):
        store = open_store(str(tmp_path / str(units)))
        names = scale.unit_names(units)
        save_plan((scale.unit(*name) for name in names), store, estimated=False)
        plan = load_plan(store)
        peaks.append(peak(iter(plan)) + peak(iter(plan.without({"news-000000"}))))
    assert peaks[1] < 1.2 * peaks[0], "the units of a few row groups are held, not all"


def test_a_long_run_on_s3_is_listed_in_parts_and_never_asked_for_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "DOMAINS", ("news", "talk"))
    units = 2400
    settings = scale.run_settings(str(tmp_path))
    store = open_store(str(tmp_path))
    store.put(CONFIG_KEY, config_bytes(settings))
    made = (scale.unit(*name) for name in scale.unit_names(units))
    save_plan(made, store, fingerprint(settings), estimated=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    server = start(tmp_path, keys_of(units), latency=0.0)
    try:
        served = Served(f"http://127.0.0.1:{server.server_port}")
        more = [f"s3.endpoint_url={served.endpoint}", "s3.addressing_style=path", "s3.region=us-east-1"]
        remote = scale.run_settings("s3://runs/million", *more)
        away = open_store(remote.output, remote.s3)
        plan = load_plan(away)
        before = served.requests()
        left = ledger.to_do(plan, away)
        after = served.requests()
        everything = sorted(away.list("shards/"))
    finally:
        server.shutdown()
        server.server_close()
    assert set(left.unit_ids()) == scale.left_undone(units)
    asked = {kind: count - before.get(kind, 0) for kind, count in after.items() if count > before.get(kind, 0)}
    # 2 domains of 1,200 units, two names each: two parts of a domain, the first of them two pages
    assert asked == {"list": 2 * 3}
    assert len(everything) == 2 * (units - scale.LEFT)


def test_the_benchmark_of_a_resume_begins_its_first_unit(tmp_path: Path) -> None:
    scale.generate(tmp_path, 400)
    assert 0 < scale.resume(scale.run_settings(str(tmp_path)))["seconds"] < 60


def test_units_of_no_plan_are_found(tmp_path: Path) -> None:
    plan, units = mixed_plan(tmp_path)
    store = open_store(str(tmp_path))
    for name in (units[0].unit_id, "domain1-999999", "other"):
        store.put(shard_keys(f"{name}-000000" if name == "other" else name)[2], b"")
    done = ledger.done_units(store)
    assert sorted(done) == sorted([units[0].unit_id, "domain1-999999", "other-000000"])
    assert ledger.stranger(done, plan) == "domain1-999999"
    assert ledger.any_done(store)
