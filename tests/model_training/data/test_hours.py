"""A cap in hours: nested subsets of whole recordings, every domain with its share, and a training on one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_training import config
from model_training.data.batching import BatchPlan, Planner
from model_training.data.handoff import Handoff
from model_training.data.hours import FRAMES_PER_HOUR, within
from model_training.data.index import Index
from model_training.data.source import Source
from model_training.train import train
from operators.errors import UserError
from operators.index import Row, index_table, write_index
from tests.model_training.test_train import SMALL, STILL
from tests.support.corpus import make_handoff

ROW = Row(clip_id="", shard="x", offset=0, size=1, frames=0, label_tokens=2, label="ab", domain="")


def rows(seed: int = 0) -> list[Row]:
    """Three domains of 100, 30 and 2 recordings of 20 clips each, clips of 2 to 12 s, interleaved."""
    random = np.random.default_rng(seed)
    made = [
        replace(
            ROW,
            clip_id=f"{domain}-{recording}-{clip}",
            recording_id=f"{domain}-{recording}",
            domain=domain,
            frames=int(random.integers(200, 1200)),
        )
        for domain, recordings in (("web", 100), ("books", 30), ("rare", 2))
        for recording in range(recordings)
        for clip in range(20)
    ]
    return [made[place] for place in random.permutation(len(made))]


def table(some: list[Row]) -> Index:
    return Index(index_table(some), "train.arrow")


def subset(index: Index, hours: float, seed: int = 0) -> np.ndarray:
    return within(index, np.ones(len(index), bool), hours, seed, "handoff")


def hours_of(index: Index, chosen_N: np.ndarray) -> float:
    return float(index.frames[chosen_N].sum()) / FRAMES_PER_HOUR


def test_more_hours_hold_all_that_fewer_do() -> None:
    index = table(rows())
    there = hours_of(index, np.ones(len(index), bool))
    before = np.zeros(len(index), bool)
    for hours in np.linspace(0.01, there, 40):
        chosen_N = subset(index, float(hours))
        assert not (before & ~chosen_N).any()
        assert hours_of(index, chosen_N) == pytest.approx(hours, abs=3 * 12 / 3600), "half a clip of each domain"
        before = chosen_N
    assert before.all(), "all of it is all of it"


def test_every_domain_has_its_share_and_recordings_are_whole_but_for_one() -> None:
    index, all_rows = table(rows()), rows()
    there = hours_of(index, np.ones(len(index), bool))
    chosen_N = subset(index, there / 3)
    for place, domain in enumerate(index.domain_names):
        own_N = index.domain_codes == place
        assert hours_of(index, own_N & chosen_N) == pytest.approx(hours_of(index, own_N) / 3, abs=7 / 3600)
        kept: dict[str, set[bool]] = {}
        for row, chosen in zip(all_rows, chosen_N, strict=True):
            if row.domain == domain:
                kept.setdefault(row.recording_id, set()).add(bool(chosen))
        assert sum(len(both) == 2 for both in kept.values()) <= 1
    assert not (chosen_N == subset(index, there / 3, seed=1)).all(), "another seed draws others"
    assert (chosen_N == subset(table(rows()), there / 3)).all()


def test_a_domain_is_never_lost_and_clips_without_a_recording_stand_alone() -> None:
    index = table([replace(row, recording_id="") for row in rows()])
    assert set(index.domain_codes[subset(index, 0.001)]) == {0, 1, 2}
    assert len(set(index.recordings().tolist())) == len(index)
    assert hours_of(index, subset(index, 1.5)) == pytest.approx(1.5, abs=0.01)


def test_clips_of_no_use_do_not_fill_hours() -> None:
    some = [replace(row, label_tokens=0) if n % 3 == 0 else row for n, row in enumerate(rows())]
    index = table(some)
    planner = Planner(index, BatchPlan(max_frames=3000, max_clips=8), {"rare": 0})
    usable_N = planner.usable()
    assert usable_N.tolist() == [row.label_tokens > 0 and row.domain != "rare" for row in some]
    chosen_N = within(index, usable_N, 1.0, 0, "handoff")
    assert not (chosen_N & ~usable_N).any()
    assert hours_of(index, chosen_N) == pytest.approx(1.0, abs=0.01)


def test_an_epoch_shows_each_clip_of_the_subset_once_and_no_other() -> None:
    index = table(rows())
    chosen_N = subset(index, 0.7)
    part = index.only(chosen_N)
    planner = Planner(part, BatchPlan(max_frames=3000, max_clips=8))
    seen = np.concatenate([planner.batch(0, number) for number in range(planner.batches_per_epoch(0))])
    assert sorted(part.row(int(row)).clip_id for row in seen) == sorted(index.clip_ids(np.flatnonzero(chosen_N)))


def test_more_hours_than_there_are_is_one_line() -> None:
    index = table(rows())
    there = hours_of(index, np.ones(len(index), bool))
    with pytest.raises(UserError, match=rf"data\.hours=99: handoff has {int(100 * there) / 100:.2f} hours"):
        subset(index, 99)
    with pytest.raises(UserError, match=r"data\.hours.*at least 0"):
        config.load(None, ["data.hours=-1"])


def test_a_training_on_a_part_says_so_and_goes_on_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handoff = make_handoff(tmp_path / "handoff", train=24, dev=2)
    index = Index.open(str(handoff / "train.arrow"))
    long = [index.row(number) for number in range(24)]
    long[5] = replace(long[5], frames=5000)
    write_index(handoff / "train.arrow", long)
    hours = hours_of(index, np.ones(24, bool)) / 3
    given = [*SMALL, *STILL, "train.eval_clips=0", f"data.hours={hours}"]
    run = tmp_path / "run"
    train(str(handoff), run, config.load(None, [*given, "train.max_steps=1"]))
    assert f"data.hours={hours:g}: " in (said := capfd.readouterr().err)
    assert "of 23 clips" in said
    record = json.loads((run / "step-00000001" / "trainer.json").read_text())
    assert record["settings"]["data"]["hours"] == hours
    assert record["hours"] == pytest.approx(hours, rel=0.1)
    source = Source(Handoff.open(str(handoff)), Handoff.open(str(handoff)).tokenizer(), config.load(None, given))
    assert record["clips"] == len(source.index) < 12
    assert [bad.reason for bad in source.unusable()] == ["too_long"], "named, although in no subset"
    other = config.load(None, [*given, f"data.hours={hours / 2}", "train.max_steps=2"])
    with pytest.raises(UserError, match=r"another data\.hours"):
        train(str(handoff), run, other)
