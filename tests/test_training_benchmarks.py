"""Benchmarks of training count and draw rightly; what they train is trained elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import elastic, reverse, scaling
from benchmarks.curves import Curve, Panel, Point, draw
from benchmarks.paired import relative
from model_training.evaluation.answers import Answer, to_lines
from model_training.evaluation.evaluation import evaluation_of, to_json
from model_training.training import checkpoint as checkpoints


def answers(rate: float, n_experts: int = 3, voices: int = 12) -> list[Answer]:
    """Of every voice a hundred characters, of which this share is wrong, some voices a little more."""
    found = []
    for voice in range(voices):
        wrong = round(100 * rate) + voice % 3
        text = "a" * 100
        found.append(
            Answer(
                set=("talk", "news")[voice % 2],
                clip_id=f"clip{voice}",
                n_experts=n_experts,
                method="ctc_greedy",
                recording=f"voice{voice}",
                seconds=3.0,
                language="en",
                reference=text,
                hypothesis="b" * wrong + text[wrong:],
            )
        )
    return found


def test_exposure_is_that_of_the_draws() -> None:
    """The numbers of which TouchASP's weights 1, 2, 4 leave a small size short."""
    found = elastic.exposure({3: 1 / 7, 7: 2 / 7, 15: 4 / 7})
    assert [found[size] for size in (3, 7, 15)] == pytest.approx([0.380, 0.695, 1.0], abs=1e-3)
    assert elastic.exposure({7: 5.0}) == pytest.approx({7: 5.0}), "alone it sees what it sees"
    sandwich = elastic.exposure(elastic.passes("sandwich", 100, 0))
    assert sandwich[3] == pytest.approx(100 * (1 + 3 / 7 + 3 / 15))
    assert elastic.twins("sandwich", "steps", 100, 0) == {3: 100, 7: 100, 15: 100}
    for sampling in ("step", "micro_batch"):
        assert sum(elastic.passes(sampling, 200, 1).values()) == pytest.approx(200)


def test_a_difference_is_over_voices() -> None:
    better = relative(answers(0.5), answers(0.4))
    assert better.percent == pytest.approx(100 * (41 / 51 - 1))
    assert better.low < better.percent < better.high < 0
    same = relative(answers(0.5), answers(0.5))
    assert same == (0, 0, 0)
    assert str(better).startswith("-19.6 [")


def measured(work: Path, hours: float, rate: float, seed: int = 0) -> None:
    folder = work / f"hours-{hours:g}-seed-{seed}"
    found = [*answers(rate), *answers(rate / 2, 15)]
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "eval.json").write_bytes(to_json(evaluation_of(found)))
    (folder / "test" / "eval.jsonl").write_bytes(to_lines(found))
    settings = {"data": {"hours": hours}, "train": {"seed": seed}}
    record: dict[str, Any] = {"settings": settings, "hours": 6.0, "vocabulary": 1, "tokenizer": "", "data": ""}
    checkpoints.save(folder, 1, {}, {}, record, {})


def test_what_was_measured_is_reported_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for hours, rate in ((0.5, 0.5), (1, 0.4), (2, 0.45), (0, 0.2)):
        measured(tmp_path, hours, rate)
    measured(tmp_path, 1, 0.44, seed=1)
    scaling.report(tmp_path, tmp_path / "curve.svg")
    said = capsys.readouterr().out
    assert "| size | 0.5 h | 1 h | 2 h | 6 h |" in said, "all of it is as much as there is"
    row = next(line for line in said.splitlines() if line.startswith("| N=3 | "))
    rates = [float(cell.split()[0]) for cell in row.split("|")[2:-1]]
    assert rates == [51.0, 43.0, 46.0, 21.0]
    assert "1 to 2 seed(s)" in said
    assert said.count("| missed |") == 2, "at 2 h it rises"
    tree = ElementTree.parse(tmp_path / "curve.svg").getroot()
    lines = [one for one in tree.iter() if one.tag.endswith("polyline")]
    assert [len(one.attrib["points"].split()) for one in lines] == [4, 4, 4, 4], "two sizes, two sets"
    assert "prefers-color-scheme: dark" in (tmp_path / "curve.svg").read_text()
    scaling.report(tmp_path / "nothing", None)
    assert "nothing was measured" in capsys.readouterr().out


def test_a_curve_lies_higher_where_errors_are_more(tmp_path: Path) -> None:
    points = [Point(0.5, 60, (50, 70)), Point(2, 30, (25, 35)), Point(8, 12, None)]
    draw([Panel("one", [Curve("N=3", points)])], tmp_path / "one.svg")
    tree = ElementTree.parse(tmp_path / "one.svg").getroot()
    line = next(one for one in tree.iter() if one.tag.endswith("polyline"))
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    (x1, y1), (x2, y2), (x3, y3) = places
    assert x2 - x1 == pytest.approx(x3 - x2), "hours by factors"
    assert y1 < y2 < y3
    assert (y2 - y1) / 30 == pytest.approx((y3 - y2) / 18, rel=1e-2)


def test_the_commands_of_a_run_are_the_trainers_own() -> None:
    options = argparse.Namespace(
        init=None, config="moe-1b", crawl=None, steps=100_000, settings=["data.loaders=8"], set=["A", "B"],
        split="test", method="attention_rescoring",
    )  # fmt: skip
    train, evaluate = scaling.commands(Path("runs/h"), 160_000, 3, "hand", options)
    assert train[:2] == evaluate[:2] == ["-m", "model_training"]
    assert {"data.hours=160000", "train.seed=3", "train.max_steps=100000", "data.loaders=8"} <= set(train)
    assert not any(part.startswith("model.") for part in train), "the preset's sizes"
    assert evaluate[evaluate.index("--set") + 1] == "A"
    from model_training import config

    config.load("moe-1b", [part for part in train if "=" in part])


def test_a_second_decoder_is_compared_over_the_seeds_that_are_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(work=tmp_path, steps=5, size=3)
    reverse.report([0, 1], options)
    assert "nothing was measured" in capsys.readouterr().out
    rates = {(0, 0.0): 0.5, (1, 0.0): 0.5, (1, 0.3): 0.4, (1, 0.5): 0.6}
    for seed, asked in ((0, list(rates)), (1, [(0, 0.0)])):
        for layers, weight in asked:
            out = reverse.run_of(layers, seed, options) / f"test-{weight:g}"
            out.mkdir(parents=True)
            (out / "eval.jsonl").write_bytes(to_lines(answers(rates[layers, weight])))
    reverse.report([0, 1], options)
    printed = capsys.readouterr().out
    assert "N=3, 1 seed(s)" in printed, "the other seed lacks its second model"
    both = [line for line in printed.splitlines() if line.startswith("| left to right and back")]
    assert [line.split(" | ")[1:4] for line in both] == [
        ["0", "51.00", "51.00"], ["0.3", "41.00", "41.00"], ["0.5", "61.00", "61.00"]
    ]  # fmt: skip
    assert "-19.6 [" in both[1]


@pytest.mark.parametrize("benchmark", [elastic, reverse, scaling])
def test_a_wrong_path_is_one_line(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crawl = tmp_path / "crawl"
    crawl.mkdir()
    monkeypatch.setattr("sys.argv", ["benchmark", str(tmp_path), "--crawl", str(crawl), "--init", str(tmp_path)])
    for said in ("truth.jsonl: give the unpacked set", "--init: no checkpoint in"):
        with pytest.raises(SystemExit) as ended:
            benchmark.main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
        (crawl / "truth.jsonl").touch()
