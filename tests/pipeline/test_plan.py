"""Plan: units hold every recording once, in names and contents that depend on sources and settings alone."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.clip import SAMPLE_RATE, Piece, Rejection, Unit
from operators.errors import UserError
from operators.storage.fetch import open_store
from pipeline.config import PlanSettings
from pipeline.plan import load_plan, save_plan
from pipeline.sources.files import SourceFile
from pipeline.sources.probe import Length
from pipeline.sources.units import domain_slugs, make_plan, unit_minutes

MINUTE = 60 * SAMPLE_RATE


def source(uri: str, domain: str = "d", **more: Any) -> SourceFile:
    return SourceFile(uri=uri, recording_id=uri, domain=domain, **more)


def half_hours(**more: Any) -> PlanSettings:
    """Settings with units of 30 minutes, however little there is."""
    return PlanSettings(**{"unit_minutes": 30.0} | more)


def plan(lengths: dict[str, int | None], **more: Any) -> list[Unit]:
    return make_plan([source(uri) for uri in lengths], declared(lengths.values()), half_hours(**more))


def declared(lengths: Iterable[int | None]) -> list[Length]:
    return [Length(declared=length, estimated=length) for length in lengths]


def shape(units: list[Unit]) -> list[list[tuple[str, int, int | None]]]:
    return [[(piece.recording.uri, piece.start, piece.end) for piece in unit.pieces] for unit in units]


def test_short_files_fill_a_unit_and_long_ones_are_cut_at_its_multiples() -> None:
    units = plan({"a": 10 * MINUTE, "b": 15 * MINUTE, "c": 10 * MINUTE, "d": 70 * MINUTE, "e": 20 * MINUTE, "f": None})
    assert shape(units) == [
        [("a", 0, None), ("b", 0, None)],
        [("c", 0, None)],
        [("d", 0, 30 * MINUTE)],
        [("d", 30 * MINUTE, 60 * MINUTE)],
        [("d", 60 * MINUTE, None), ("e", 0, None)],
        [("f", 0, None)],
    ]
    assert [unit.unit_id for unit in units] == [f"d-{index:06d}" for index in range(6)]
    assert {piece.declared_samples for unit in units for piece in unit.pieces} == {
        10 * MINUTE,
        15 * MINUTE,
        70 * MINUTE,
        20 * MINUTE,
        None,
    }


@pytest.mark.parametrize(
    ("hours", "minutes"), [(0.2, 2.0), (0.6, 2.0), (2.0, 5.0), (4.0, 10.0), (12.0, 30.0), (1000.0, 30.0)]
)
def test_units_are_shorter_where_there_is_little(hours: float, minutes: float) -> None:
    whole = round(hours * 60 * MINUTE)
    halves = declared([whole // 2, whole - whole // 2])
    assert unit_minutes([source("a"), source("b")], halves, PlanSettings()) == pytest.approx(minutes)
    assert unit_minutes([source("a")], declared([whole]), PlanSettings(unit_minutes=7.0)) == 7.0
    units = make_plan([source("a")], declared([whole]), PlanSettings())
    assert len(units) >= min(hours * 60 / 2, 24) - 1


def test_refused_files_make_no_unit_longer() -> None:
    refused = [source(f"{number}.txt", problem=Rejection(stage="plan", reason="not_a_file")) for number in range(600)]
    lengths = declared([120 * MINUTE]) + [Length()] * len(refused)
    assert unit_minutes([source("a"), *refused], lengths, PlanSettings()) == pytest.approx(130 / 24)


def test_what_declares_no_length_is_weighed_by_its_estimate() -> None:
    """Thirty MP3s of ten minutes without a tag are five hours, which no worker should hold at once."""
    files = [source(f"{number:02d}.mp3") for number in range(30)]
    units = make_plan(files, [Length(estimated=10 * MINUTE)] * 30, half_hours())
    assert [len(unit.pieces) for unit in units] == [3] * 10
    assert {(piece.start, piece.end, piece.declared_samples) for unit in units for piece in unit.pieces} == {
        (0, None, None)
    }
    (alone,) = make_plan(files[:1], [Length(estimated=600 * MINUTE)], half_hours())
    assert len(alone.pieces) == 1, "an estimate cuts nothing"


@pytest.mark.parametrize(("extra_seconds", "pieces"), [(-1, 1), (0, 1), (15, 1), (16, 2)])
def test_no_edge_lies_where_its_window_would_leave_the_recording(extra_seconds: int, pieces: int) -> None:
    units = plan({"a": 30 * MINUTE + extra_seconds * SAMPLE_RATE}, edge_radius_seconds=15)
    assert sum(len(unit.pieces) for unit in units) == pieces


def test_windows_that_would_meet_are_refused() -> None:
    with pytest.raises(UserError, match=r"plan\.edge_radius_seconds"):
        plan({"a": MINUTE}, unit_minutes=0.5, edge_radius_seconds=15)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b/c", "访谈", "../../etc", ""]),
            st.none() | st.integers(0, 200 * MINUTE),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
def test_every_sample_is_in_one_unit_whatever_the_order_of_the_sources(
    files: list[tuple[str, int | None, bool]], dice: random.Random
) -> None:
    problem = Rejection(stage="plan", reason="duplicate")
    pairs = [
        (source(f"{index:03d}", domain, problem=problem if bad else None), None if bad else length)
        for index, (domain, length, bad) in enumerate(files)
    ]
    units = make_plan([file for file, _ in pairs], declared(length for _, length in pairs), half_hours())
    of_recording: dict[str, list[Piece]] = {}
    for unit in units:
        assert unit.pieces
        assert {piece.recording.domain for piece in unit.pieces} == {unit.domain}
        for piece in unit.pieces:
            of_recording.setdefault(piece.recording.uri, []).append(piece)
        lengths = [(piece.end or piece.declared_samples or 0) - piece.start for piece in unit.pieces]
        assert sum(lengths) <= 30 * MINUTE or len(unit.pieces) == 1
        assert max(lengths) <= 30 * MINUTE + 15 * SAMPLE_RATE
        assert len(unit.pieces) <= 1800
    assert len(of_recording) == len(pairs)
    for pieces in of_recording.values():
        assert pieces[0].start == 0
        assert pieces[-1].end is None
        assert all(left.end == right.start for left, right in itertools.pairwise(pieces))
    assert len({unit.unit_id for unit in units}) == len(units)
    dice.shuffle(pairs)
    again = make_plan([file for file, _ in pairs], declared(length for _, length in pairs), half_hours())
    assert identity(again) == identity(units)


def identity(units: list[Unit]) -> list[tuple[str, str, tuple[Piece, ...]]]:
    return [(unit.unit_id, unit.domain, unit.pieces) for unit in units]


# Names


def test_slugs_are_readable_and_safe() -> None:
    domains = [
        "audiobook",
        "访谈",
        "../../etc",
        "",
        "🔥",
        "Ｆｕｌｌ width",
        "हिन्दी समाचार",
        "a/b\\c:d",
        "x.y",
        "nul\0",
        "x" * 500,
        "访" * 500,
    ]
    slugs = domain_slugs(domains)
    assert [slugs[domain] for domain in domains[:9]] == [
        "audiobook",
        "访谈",
        "etc",
        slugs[""],
        slugs["🔥"],
        "full-width",
        "हिन्दी-समाचार",
        "a-b-c-d",
        "x-y",
    ]
    assert re.fullmatch(r"domain-[0-9a-f]{8}", slugs[""])
    for slug in slugs.values():
        assert not set(slug) & set("./\\:\0 ")
        assert len(f".tmp-0123456789abcdef{slug}-000000.parquet".encode()) < 255


def test_domains_that_look_alike_keep_apart_for_good() -> None:
    slugs = domain_slugs(["news", "News", "NEWS!", "talk", "Ｔalk"])
    assert slugs["news"] == "news"
    assert len(set(slugs.values())) == 5
    assert all(re.fullmatch(r"news-[0-9a-f]{8}", slugs[name]) for name in ("News", "NEWS!"))
    # A domain that is called what another was given.
    taken = domain_slugs(["news", "News", slugs["News"]])
    assert taken[slugs["News"]] == slugs["News"]
    assert len(set(taken.values())) == 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, max_size=30))
def test_slugs_never_meet_and_never_depend_on_order(domains: list[str]) -> None:
    slugs = domain_slugs(domains)
    assert len(set(slugs.values())) == len(domains)
    assert domain_slugs(reversed(domains)) == slugs


# plan.parquet

HOSTILE = [
    source(
        "/a/../../etc/passwd", "../../etc", provenance={"license": "<script>", "n": [1, None, {"x": 0.1}], "访": "谈"}
    ),
    source("bytes:/caf%E9.mp3", "", language="zh"),
    source("x" * 10_000, "nul\0"),
    source(
        "line\nbreak\0", "🔥", problem=Rejection(stage="plan", reason="bad_uri", detail="no file can have this name")
    ),
    source("s3://b/x.tar#m/1.mp3", "tar", member=(512, 1 << 40)),
]


def test_a_plan_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    units = make_plan([*HOSTILE, source("long", "long")], declared([None, 5, 0, None, 7, 100 * MINUTE]), half_hours())
    save_plan(units, store, "abc")
    assert identity(load_plan(store)) == identity(units)
    assert load_plan(store).fingerprint == "abc"
    before = store.read("plan.parquet")
    save_plan(load_plan(store), store, "abc")
    assert store.read("plan.parquet") == before
    assert b"pickle" not in before


def test_a_plan_keeps_its_estimates_and_one_without_has_no_place_for_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    units = make_plan(
        [source("a"), source("b")], [Length(estimated=7), Length(declared=5, estimated=5)], PlanSettings()
    )
    save_plan(units, store)
    assert identity(load_plan(store)) == identity(units)
    assert [piece.estimated_samples for piece in units[0].pieces] == [7, None]
    columns = [field.name for field in pq.read_schema(tmp_path / "plan.parquet").field("pieces").type.value_type]
    save_plan(make_plan([source("b")], declared([5]), half_hours()), store)
    before = [field.name for field in pq.read_schema(tmp_path / "plan.parquet").field("pieces").type.value_type]
    assert columns == [*before, "estimated_samples"]


def test_an_empty_plan_is_a_plan(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    save_plan([], store)
    assert list(load_plan(store)) == []


def test_a_large_plan_comes_back_over_several_row_groups(tmp_path: Path) -> None:
    dice = random.Random(0)
    files = [
        source(f"/crawl/{number:05d}", f"domain{number % 7}", provenance={"n": number}) for number in range(20_000)
    ]
    units = make_plan(files, declared(dice.randrange(60 * MINUTE) for _ in files), half_hours())
    assert len(units) > 5_000
    store = open_store(str(tmp_path))
    save_plan(units, store)
    assert identity(load_plan(store)) == identity(units)


def test_no_plan_or_a_damaged_one_is_one_line(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(UserError, match="holds no plan"):
        load_plan(store)
    save_plan(make_plan([source("a")], declared([1]), half_hours()), store)
    store.put("plan.parquet", store.read("plan.parquet")[:-20])
    with pytest.raises(UserError, match="is damaged"):
        load_plan(store)


def test_units_are_what_the_settings_and_sources_say_and_nothing_else() -> None:
    files = [source(f"{number}", "d") for number in range(50)]
    lengths = declared([7 * MINUTE] * 50)
    assert len(make_plan(files, lengths, PlanSettings(unit_minutes=30))) == 13
    assert len(make_plan(files, lengths, PlanSettings(unit_minutes=15))) == 25
    more = make_plan([*files, source("0", "other")], [*lengths, *declared([MINUTE])], half_hours(probe_workers=9))
    assert identity([unit for unit in more if unit.domain == "d"]) == identity(make_plan(files, lengths, half_hours()))
    assert dataclasses.asdict(more[-1])["unit_id"] == "other-000000"
