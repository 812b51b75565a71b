"""The planner: every clip as often as its weight says, little padding, and any batch from its number alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.data.batching import BatchPlan, Planner, rank_batches
from model_training.data.features import ctc_frames, subsampled
from model_training.data.index import Index
from model_training.data.permutation import derive, shuffle
from operators.errors import UserError
from operators.index import INDEX_SCHEMA

PLAN = BatchPlan(max_frames=12_000, max_clips=32, seed=1)


def index_of(frames: np.ndarray, domains: list[str] | None = None, **columns: list) -> Index:
    count = len(frames)
    values = {
        "clip_id": [f"c{n}" for n in range(count)],
        "shard": ["x.tar"] * count,
        "offset": [0] * count,
        "size": [1] * count,
        "frames": frames,
        "label_tokens": [1] * count,
        "label": ["a"] * count,
        "domain": domains or ["talk"] * count,
        "recording_id": ["r"] * count,
    } | columns
    arrays = [pa.array(values[f.name], f.type) if f.name in values else pa.nulls(count, f.type) for f in INDEX_SCHEMA]
    return Index(pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA), "test")


def crawl_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Clip lengths as curation makes them: 2 to 30 s, most short, a heap at the upper limit."""
    random = np.random.default_rng(seed)
    seconds = np.clip(random.gamma(2.0, 3.5, count) + 2, 2, 30)
    return (seconds * 100 - 2).astype(np.int32)


def epoch_rows(planner: Planner, epoch: int) -> list[np.ndarray]:
    return [planner.batch(epoch, number) for number in range(planner.batches_per_epoch(epoch))]


@settings(max_examples=60, deadline=None)
@given(n=st.one_of(st.integers(1, 40), st.integers(1000, 1100), st.integers(2000, 5000)), key=st.integers(0, 2**64 - 1))
def test_a_shuffle_is_one_to_one(n: int, key: int) -> None:
    assert np.array_equal(np.sort(shuffle(np.arange(n), n, key)), np.arange(n))


def test_shuffles_of_different_keys_differ_and_look_random() -> None:
    n = 30_000
    first, second = (shuffle(np.arange(n), n, derive(1, key)) for key in range(2))
    assert np.mean(first == second) < 0.001
    assert abs(np.corrcoef(np.arange(n), first)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03
    assert np.mean(np.diff(first) == 1) < 0.001
    big = shuffle(np.array([0, 1, 10**9]), 10**9 + 1, 5)
    assert len(set(big.tolist())) == 3
    with pytest.raises(ValueError):
        shuffle(np.array([5]), 5, 0)


def test_an_epoch_shows_every_clip_exactly_once() -> None:
    index = index_of(crawl_lengths(3000), ["talk", "news", "live"] * 1000)
    planner = Planner(index, PLAN)
    for epoch in (0, 1, 7):
        assert np.array_equal(np.sort(np.concatenate(epoch_rows(planner, epoch))), np.arange(3000))
    assert not np.array_equal(planner.batch(0, 0), planner.batch(1, 0))


def test_batches_stay_within_their_limits_and_padding_is_small() -> None:
    frames = crawl_lengths(20_000)
    planner = Planner(index_of(frames), PLAN)
    padded = used = 0
    for rows in epoch_rows(planner, 0):
        longest = int(frames[rows].max())
        assert len(rows) <= 32
        assert longest * len(rows) <= 12_000
        assert frames[rows].min() >= 0.9 * longest - 1
        padded += longest * len(rows)
        used += int(frames[rows].sum())
    assert 1 - used / padded <= 0.10
    # And batches are full: what buckets leave over is little.
    assert padded / 12_000 > 0.75 * planner.batches_per_epoch(0)


def test_stretch_leaves_room_for_slower_speech() -> None:
    frames = crawl_lengths(2000)
    planner = Planner(index_of(frames), PLAN, stretch=1 / 0.9)
    for rows in epoch_rows(planner, 0):
        assert np.ceil(frames[rows].max() / 0.9) * len(rows) <= 12_000


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.3, 1.0, 1.7, 2.0])
def test_a_weight_is_how_often_a_clip_is_seen_and_turns_are_fair(weight: float) -> None:
    domains = ["rare", "common"] * 400
    planner = Planner(index_of(crawl_lengths(800), domains), PLAN, {"rare": weight})
    seen: Counter[int] = Counter()
    for epoch in range(10):
        counts = Counter(np.concatenate(epoch_rows(planner, epoch)).tolist())
        rare = [counts[row] for row in range(0, 800, 2)]
        assert max(rare) - min(rare) <= 1 or weight % 1
        assert all(counts[row] == 1 for row in range(1, 800, 2))
        seen.update(counts)
        in_turn = [seen[row] for row in range(0, 800, 2)]
        assert min(in_turn) >= np.floor(weight * (epoch + 1) - 1e-9)
        assert max(in_turn) <= np.ceil(weight * (epoch + 1) - 1e-9)


@pytest.mark.parametrize("weights", [{}, {"a": 0.3, "b": 1.7}])
def test_global_batches_are_the_epochs_one_after_another(weights: dict[str, float]) -> None:
    index = index_of(crawl_lengths(300), ["a", "b", "c"] * 100)
    planner = Planner(index, PLAN, weights)
    expected = [(epoch, number) for epoch in range(200) for number in range(planner.batches_per_epoch(epoch))]
    fresh = Planner(index, PLAN, weights)
    assert fresh.locate(len(expected) - 1) == expected[-1]
    assert [fresh.locate(number) for number in range(0, len(expected), 7)] == expected[::7]
    with pytest.raises(IndexError):
        planner.batch(0, planner.batches_per_epoch(0))
    with pytest.raises(ValueError):
        planner.locate(-1)


def test_a_restart_gives_the_same_batch() -> None:
    def planner(seed: int = 1) -> Planner:
        index = index_of(crawl_lengths(5000), ["talk", "news"] * 2500)
        return Planner(index, BatchPlan(max_frames=12_000, max_clips=32, seed=seed), {"news": 1.5})

    running, restarted = planner(), planner()
    for number in (0, 17, 500, 2345):
        place = running.locate(number)
        assert np.array_equal(running.batch(*place), restarted.batch(*restarted.locate(number)))
    other = planner(seed=2)
    assert any(not np.array_equal(other.batch(0, n), running.batch(0, n)) for n in range(3))


def test_ranks_are_disjoint_equally_many_and_together_the_same() -> None:
    whole = list(rank_batches(24, 48, rank=0, world=1, micro_batches=12))
    for world in (1, 2, 3, 4, 6, 12):
        shares = [list(rank_batches(24, 48, rank=rank, world=world, micro_batches=12)) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(number for share in shares for number in share) == whole
        for step in (24, 36):  # of every step, too
            assert len({sum(step <= n < step + 12 for n in share) for share in shares}) == 1
    endless = rank_batches(5, None, rank=1, world=2, micro_batches=2)
    assert [next(endless) for _ in range(3)] == [5, 7, 9]
    with pytest.raises(UserError, match="choose a multiple"):
        rank_batches(0, 1, rank=0, world=5, micro_batches=12)


def test_clips_that_cannot_be_used_are_each_named_once_with_a_reason() -> None:
    frames = np.array([500, 3, 99_999, 100, 500, 500, 500, 500], np.int32)
    tokens = [5, 5, 5, 25, 0, 0, 0, 124]
    events: list = [None, None, None, None, None, [], ["dog"], None]
    index = index_of(frames, label_tokens=tokens, events=events)
    planner = Planner(index, PLAN)
    assert [(one.clip_id, one.reason) for one in planner.unusable()] == [
        ("c1", "too_short"),
        ("c2", "too_long"),
        ("c3", "label_too_long"),
        ("c4", "empty_label"),
        ("c5", "empty_label"),
    ]
    assert sorted(np.concatenate(epoch_rows(planner, 0)).tolist()) == [0, 6, 7]
    limited = Planner(index_of(np.array([150, 300, 500], np.int32)), PLAN, min_frames=200, max_clip_frames=499)
    assert [(one.clip_id, one.reason) for one in limited.unusable()] == [("c0", "too_short"), ("c2", "too_long")]


def test_the_encoder_leaves_as_many_frames_as_two_convolutions() -> None:
    torch = pytest.importorskip("torch")
    for frames in range(7, 60):
        x = torch.zeros(1, 1, frames, 80)
        for _ in range(2):
            x = torch.nn.functional.conv2d(x, torch.zeros(1, 1, 3, 3), stride=2)
        assert subsampled(frames) == x.shape[2]
    assert ctc_frames([]) == 0
    assert ctc_frames([4, 4, 5, 4, 4, 4]) == 6 + 3


def test_user_errors() -> None:
    index = index_of(crawl_lengths(50), ["talk"] * 50)
    with pytest.raises(UserError, match="no domain radio"):
        Planner(index, PLAN, {"radio": 2.0})
    with pytest.raises(UserError, match="weight of talk"):
        Planner(index, PLAN, {"talk": -1.0})
    with pytest.raises(UserError, match="leave no clip"):
        Planner(index, PLAN, {"talk": 0.0})
    with pytest.raises(UserError, match="no clip that can be used: 0 clips"):
        Planner(index_of(np.zeros(0, np.int32)), PLAN)
    with pytest.raises(UserError, match="3 too_short"):
        Planner(index_of(np.array([1, 2, 3], np.int32)), PLAN)
    with pytest.raises(UserError, match="max_clips=0"):
        BatchPlan(max_frames=1000, max_clips=0)


def test_a_tiny_corpus_can_be_planned() -> None:
    for count in range(1, 6):
        planner = Planner(index_of(np.full(count, 300, np.int32)), PLAN)
        assert np.array_equal(np.sort(np.concatenate(epoch_rows(planner, 3))), np.arange(count))


def test_the_planner_of_an_opened_file_is_that_of_its_table(tmp_path: Path) -> None:
    from operators.index import write_index
    from tests.support.corpus import make_rows

    rows = make_rows(tmp_path, 12)
    write_index(tmp_path / "x.arrow", rows)
    index = Index.open(str(tmp_path / "x.arrow"))
    assert sorted(np.concatenate(epoch_rows(Planner(index, PLAN), 0)).tolist()) == list(range(12))
