"""The split rule: what is tied stays together, and nothing that may have been trained on leaves train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from operators.split import NodeTable, Shares, split_nodes, split_table


def test_groups_that_turn_out_to_be_one_go_to_train_if_either_was_there() -> None:
    shares = Shares(dev=0.3, test=0.3, seed=0)
    names = [f"recording\0r{number}" for number in range(60)]
    alone, _ = split_nodes(names, [0] * 60, [], shares)
    assert set(alone.tolist()) == {0, 1, 2}
    # A second source whose recording 60 + i holds audio of recordings i and i + 1, for even i.
    more = [*names, *(f"recording\0later{number}" for number in range(30))]
    links = [(1, 60 + at // 2, node) for at in range(0, 60, 2) for node in (at, at + 1)]
    together, groups = split_nodes(more, [0] * 60 + [1] * 30, links, shares)
    for at in range(0, 60, 2):
        assert together[at] == together[at + 1] == together[60 + at // 2] == min(alone[at], alone[at + 1])
        assert groups[at] == groups[at + 1]
    assert len(set(groups.tolist())) == 30


def table_of(told: list[tuple[int, str, str, str | None]], runs: int, labelled: int) -> NodeTable:
    """Return the table of the first `runs` runs and `labelled` sets.

    `told` is (source, recording, uri, speaker); a negative source is a set.
    """
    table = NodeTable()
    for number in range(runs):
        for _, *recording in (each for each in told if each[0] == number):
            table.recording(*recording, number)
    for number in range(labelled):
        for _, *recording in (each for each in told if each[0] == -1 - number):
            table.recording(*recording, runs + number)
    return table


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_adding_runs_and_labelled_sets_takes_anything_out_of_train(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shares = Shares(dev=0.4, test=0.4, seed=seed)
    told: list[tuple[int, str, str, str | None]] = []
    for source in (0, 1, 2, -1, -2, -3):
        for number in draw.choice(200, 120, replace=False).tolist():
            speaker = f"s{draw.integers(40)}" if draw.random() < 0.1 else None
            told.append(
                (source, f"r{number % 150}" if source >= 0 else f"l{source}-{number}", f"/{number}.wav", speaker)
            )
    trained: dict[tuple[int, int], set[str]] = {}
    for runs in range(4):
        for labelled in range(4):
            table = table_of(told, runs, labelled)
            split, groups = split_table(table, shares, runs=runs)
            for _, a, b in table.links:
                assert (split[a], groups[a]) == (split[b], groups[b])
            places = dict(zip(table.names, split.tolist(), strict=True))
            trained[runs, labelled] = {name for name, place in places.items() if place == 0}
            for fewer in ((runs - 1, labelled), (runs, labelled - 1)):
                assert trained.get(fewer, set()) <= trained[runs, labelled]
            if not labelled and runs:
                alone, _ = split_nodes(list(table.names), first_sources(table), table.links, shares)
                assert split.tolist() == alone.tolist(), "a hand-off of runs alone has one order"


def first_sources(table: NodeTable) -> list[int]:
    return [min(source for source, *pair in table.links if node in pair) for node in range(len(table.names))]


def test_a_speaker_ties_recordings_of_one_source_and_a_recording_alone_is_a_group() -> None:
    table = NodeTable()
    nodes = [table.recording(f"r{number}", None, f"s{number % 5}" if number < 50 else None) for number in range(100)]
    assert table.recording("r0", None, "s0") == nodes[0], "a recording has one node"
    split, groups = split_table(table, Shares(dev=0.3, test=0.3, seed=1))
    for number in range(50):
        assert groups[nodes[number]] == groups[nodes[number % 5]]
        assert split[nodes[number]] == split[nodes[number % 5]]
    assert len(set(groups[nodes].tolist())) == 5 + 50
    assert set(split[nodes[50:]].tolist()) == {0, 1, 2}


def test_repeated_audio_ties_recordings(tmp_path: Path) -> None:
    table = NodeTable()
    nodes = [table.recording(f"r{number}", str(tmp_path / f"{number}.wav"), None) for number in range(40)]
    shares = Shares(dev=0.3, test=0.3, seed=0)
    alone, _ = split_table(table, shares)
    together, groups = split_table(table, shares, repeated=[(0, nodes[0], nodes[at]) for at in range(1, 40)])
    assert len(set(alone.tolist())) == 3
    assert len(set(together.tolist())) == len(set(groups.tolist())) == 1


def test_other_spellings_of_a_file_are_one_recording(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "link.wav").symlink_to("a.wav")
    table = NodeTable()
    nodes = [table.recording(name, str(tmp_path / path), None) for name, path in (("x", "a.wav"), ("y", "link.wav"))]
    _, groups = split_table(table, Shares(dev=0.5, test=0.5, seed=0))
    assert groups[nodes[0]] == groups[nodes[1]]
