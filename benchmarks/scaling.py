"""Error rate by hours of training data at equal steps, at every size (TouchASP, Table 2 and Figure 5).

    python -m benchmarks.scaling WORK --crawl CRAWL --init CKPT                  0.5, 1, 2 and 4 h of real audio
    python -m benchmarks.scaling WORK --crawl CRAWL --seeds 0,1,2                from nothing, three seeds
    python -m benchmarks.scaling WORK --report --plot curve.svg                  what was measured so far, again
    python -m benchmarks.scaling WORK --data HANDOFF --config moe-1b --steps 100000 --hours 160000,500000,1000000
    python -m benchmarks.scaling WORK --data HANDOFF ... --commands              says what to run, and runs nothing

One elastic model for each number of hours, all with the same steps, and one evaluation of all its sizes. `data.hours`
cuts the hand-off's train split down: whole recordings, every domain its share, and more hours hold all that fewer do.
CRAWL is the unpacked set of real recordings with truth.jsonl; a tenth of the classroom's speakers and of each other
domain's recordings, at least one, is held out. Settings (key=value) go to every training. Runs go on where they
stopped, and --report needs nothing but WORK, wherever its runs were trained.

    hand-off ──data.hours=0.5, 1, 2, 4──> train, equal steps ──eval at each size──> tables by size and by set, picture
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.curves import Curve, Panel, Point, draw
from benchmarks.paired import answers_of, relative
from benchmarks.real_audio import a_checkpoint, a_crawl, group_of, prepare, small_settings
from benchmarks.targets import show_targets
from benchmarks.truth import table
from benchmarks.warm_start import sizes_of
from model_training.evaluation.evaluation import Evaluation, read_evaluation
from model_training.evaluation.metrics import ErrorRate
from model_training.text.tokenizer import Tokenizer
from model_training.training.checkpoint import latest
from model_training.training.choosing import open_chosen

DOMAINS = ("audiobook", "cantonese", "classroom", "digits", "live", "newsread", "words")
MOST_SETS = 4
"""Curves in the picture of single test sets."""


def every_tenth(domain: str, recordings: list[dict[str, Any]]) -> list[str]:
    """Return the speakers or recordings of a domain that are held out: every tenth by name, but at least one."""
    names = sorted({group_of(domain, recording, s) for recording in recordings for s in recording["segments"]})
    return names[min(5, len(names) // 2) :: 10][: max(1, len(names) // 10)]


@dataclass(frozen=True, slots=True)
class Run:
    """A Run is one training of the curve."""

    folder: Path
    hours: float
    """in effect; 0: of the whole hand-off"""
    seed: int
    evaluation: Evaluation


def commands(folder: Path, hours: float, seed: int, data: str, options: argparse.Namespace) -> list[list[str]]:
    """Return the two commands of a run: its training and its evaluation, without Python's name."""
    given = [f"data.hours={hours:g}", f"train.seed={seed}", f"train.max_steps={options.steps}"]
    if options.init:
        given += [f"train.init_from={options.init}", *([] if options.config else sizes_of(options.init))]
    if options.crawl:
        given += small_settings(options.steps, options.rate, options.precision)
        given.append(f"data.max_frames={options.frames}")
    config = options.config or "tiny"
    train = ["train", "--data", data, "--config", config, "--out", str(folder), *given, *options.settings]
    on = [part for each in options.set for part in ("--set", each)] or ["--data", data, "--split", options.split]
    return [
        ["-m", "model_training", *train],
        ["-m", "model_training", "eval", str(folder), *on, "--methods", options.method, "--out", str(folder / "test")],
    ]


def run(folder: Path, hours: float, seed: int, data: str, options: argparse.Namespace) -> None:
    """Train and evaluate one point of the curve, unless that was done."""
    if (folder / "test" / "eval.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.log").open("a") as log:
        for command in commands(folder, hours, seed, data, options):
            done = subprocess.run([sys.executable, *command], stdout=log, stderr=log, check=False)
            if done.returncode:
                sys.exit(f"{shlex.join(command)} failed; {folder / 'bench.log'} says why")
            checkpoint = latest(folder)
            if checkpoint is None or checkpoint.step < options.steps:  # train.max_minutes
                sys.exit(f"{folder.name} has not taken all of its steps yet: the same command goes on")
    print(f"{folder.name}: trained and evaluated", file=sys.stderr, flush=True)


def measured(work: Path) -> list[Run]:
    """Return the runs of WORK that were evaluated, by hours and seed."""
    found = []
    for path in work.glob("hours-*/test/eval.json"):
        folder = path.parent.parent
        checkpoint = latest(folder)
        if checkpoint is None:
            continue
        record = checkpoint.record
        hours = record["settings"]["data"]["hours"] or round(record["hours"], 2)
        found.append(Run(folder, hours, record["settings"]["train"]["seed"], read_evaluation(path)))
    return sorted(found, key=lambda one: (one.hours, one.seed))


def report(work: Path, plot: Path | None) -> None:
    """Print error rates by size and hours and by set and hours, and draw them."""
    by_hours: dict[float, list[Run]] = defaultdict(list)
    for one in measured(work):
        by_hours[one.hours].append(one)
    if not by_hours:
        print(f"nothing was measured in {work} yet")
        return
    first = next(iter(by_hours.values()))[0].evaluation
    method, hours = first.methods[0], list(by_hours)
    sizes, sets = sorted(first.groups), _sets(first)
    by_size = [
        Curve(f"N={n}" if n else "dense", _points(by_hours, lambda made, n=n: made.pooled(n, method).characters))
        for n in sizes
    ]
    columns = ["size", *(f"{each:g} h" for each in hours)]
    rows = [[curve.name, *map(_cell, curve.points)] for curve in by_size]
    table(f"Characters wrong, %, all test sets, {method}, {_seeds(by_hours)}", columns, rows)
    changes = [
        [curve.name, "", *(_against(by_hours[a], by_hours[b], n) for a, b in pairwise(hours))]
        for n, curve in zip(sizes, by_size, strict=True)
    ]
    table("The same against the point before, relative, %, 95 % over voices", columns, changes)
    largest = sizes[-1]

    def of_set(name: str) -> Callable[[Evaluation], ErrorRate]:
        def rate(made: Evaluation) -> ErrorRate:
            scores = made.scores(name, largest, method)
            assert scores is not None, f"{made.model} was not evaluated on {name}"
            return scores.characters

        return rate

    by_set = [Curve(name, _points(by_hours, of_set(name))) for name in sets]
    rows = [[curve.name, *map(_cell, curve.points)] for curve in by_set]
    table(f"Characters wrong by test set, %, N={largest}", ["set", *columns[1:]], rows)
    falls = [
        (f"{curve.name}, {q.hours:g} h over {p.hours:g} h", 1.0, q.percent / p.percent)
        for curve in by_size
        for p, q in pairwise(curve.points)
    ]
    if falls:
        show_targets(falls, digits=3)
    if plot is not None:
        draw([Panel("all test sets", by_size), Panel(f"single test sets, N={largest}", by_set[:MOST_SETS])], plot)
        print(f"\ndrawn: {plot}")


def _sets(made: Evaluation) -> list[str]:
    """Return the sets that have text, those with most of it first."""
    text = {r.set: r.scores.characters.reference for r in made.results if r.scores.characters.reference}
    return sorted(text, key=lambda name: -text[name])


def _points(by_hours: dict[float, list[Run]], rate: Callable[[Evaluation], ErrorRate]) -> list[Point]:
    """Return the mean of the seeds, and the mean of their intervals, which are over voices: seeds share the voices."""
    points = []
    for hours, runs in by_hours.items():
        rates = [rate(one.evaluation) for one in runs]
        bounds = [each.interval for each in rates if each.interval is not None]
        interval = (mean(low for low, _ in bounds), mean(high for _, high in bounds)) if bounds else None
        points.append(Point(hours, mean(each.percent or 0.0 for each in rates), interval))
    return points


def _cell(point: Point) -> str:
    return f"{point.percent:.2f}" + (f" [{point.interval[0]:.1f}, {point.interval[1]:.1f}]" if point.interval else "")


def _against(before: Sequence[Run], after: Sequence[Run], n_experts: int) -> str:
    seeds = {one.seed for one in before} & {one.seed for one in after}
    both = [
        [
            answer
            for one in runs
            if one.seed in seeds
            for answer in answers_of(one.folder / "test/eval.jsonl", n_experts)
        ]
        for runs in (before, after)
    ]
    return str(relative(*both)) if seeds else ""


def _seeds(by_hours: dict[float, list[Run]]) -> str:
    counts = sorted({len(runs) for runs in by_hours.values()})
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seed(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of every training")
    parser.add_argument("--crawl", type=a_crawl, help="real audio of which a hand-off is made")
    parser.add_argument("--data", metavar="HANDOFF", help="a hand-off of yours instead")
    parser.add_argument(
        "--init", type=a_checkpoint, metavar="CKPT", help="what every training begins from (default: nothing)"
    )
    parser.add_argument("--config", metavar="CONFIG", help="preset or YAML file (default: tiny, or the sizes of CKPT)")
    parser.add_argument("--hours", default="0.5,1,2,4", metavar="H,H", help="0: all (default 0.5,1,2,4)")
    parser.add_argument("--seeds", default="0", metavar="S,S", help="a seed also draws the recordings (default 0)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--split", default="test", help="of the hand-off that is evaluated (default test)")
    parser.add_argument("--set", action="append", default=[], metavar="SET", help="published sets instead, as of eval")
    parser.add_argument("--method", default="ctc_greedy", help="of decoding (default ctc_greedy)")
    parser.add_argument("--frames", type=int, default=6000, help="with --crawl, of 10 ms in a step (default: a minute)")
    parser.add_argument("--rate", type=float, default=0.003, help="with --crawl, the learning rate (default 0.003)")
    parser.add_argument("--precision", default="bf16", help="with --crawl (default bf16)")
    parser.add_argument("--commands", action="store_true", help="print the commands of every run, for other machines")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the curves")
    options = parser.parse_intermixed_args()
    if not options.report:
        if (options.crawl is None) == (options.data is None):
            parser.error("give --crawl or --data")
        data = options.data
        if options.crawl is not None:
            known = Tokenizer.load(open_chosen(options.init).path) if options.init else None
            data = str(prepare(options.crawl, options.work, DOMAINS, every_tenth, known))
        for seed in map(int, options.seeds.split(",")):
            for hours in map(float, options.hours.split(",")):
                folder = options.work / f"hours-{hours:g}-seed-{seed}"
                if options.commands:
                    for command in commands(folder, hours, seed, data, options):
                        print(shlex.join(["python", *command]))
                else:
                    run(folder, hours, seed, data, options)
    if not options.commands:
        report(options.work, options.plot)


if __name__ == "__main__":
    main()
