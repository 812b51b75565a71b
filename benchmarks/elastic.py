"""The elastic claim and joint perception on real audio (TouchASP, Tables 4, 8 and 9), with tiny models on a CPU.

    python -m benchmarks.elastic WORK --crawl CRAWL --init CKPT --seeds 0,1,2     three ways to train sizes together
    python -m benchmarks.elastic WORK --crawl CRAWL --only sandwich --against exposure     one way, from nothing
    python -m benchmarks.elastic WORK --crawl CRAWL --init CKPT --report          what was measured so far, again
    python -m benchmarks.elastic WORK --crawl CRAWL --experiment perception       one model for all tasks, one per task
    python -m benchmarks.elastic WORK --crawl CRAWL --experiment missing          90 % of attribute labels dropped

CRAWL is the unpacked set of real recordings with truth.jsonl. Its segments become FLAC shards in WORK with a hand-off;
the last fifth of every domain's recordings (by name; of the classroom's speakers) is the test set. Runs go on where
they stopped; as many at once as there are cores, one thread each.

    one training of all sizes: drawn by step | by micro-batch | sandwich ──evaluated at 3, 7, 15──┐
    N=3, N=7, N=15 trained alone, for as many steps | until experts saw as many frames ───────────┴──> tables over seeds

A step is a minute of audio in four micro-batches. All three ways have as many passes: the sandwich takes a third of the
steps. At equal steps a twin takes as many as the elastic model. At equal exposure it takes so many that each of its
experts sees as many frames as in the elastic model on the average; its attention then learns for fewer steps.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.paired import answers_of, relative
from benchmarks.real_audio import DOMAINS, a_checkpoint, a_crawl, evaluate, prepare, small_settings, train
from benchmarks.targets import show_targets
from benchmarks.truth import table
from benchmarks.warm_start import sizes_of
from model_training.config import MoESettings, restore
from model_training.evaluation.answers import Answer
from model_training.evaluation.metrics import Scores
from model_training.evaluation.terminal import render
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen
from model_training.training.optimizer import draw_n_experts

TASKS = ("language", "gender", "age", "event")
SIZES = (3, 7, 15)
SAMPLINGS = ("step", "micro_batch", "sandwich")
AGAINST = ("exposure", "steps")
MICRO_BATCHES = 4
COLUMNS = ["trained", "size", "seeds", "steps", "twin's", "elastic", "trained alone", "relative, %, 95 % over voices"]


def passes(sampling: str, steps: int, seed: int) -> dict[int, float]:
    """Return how much of a step's audio passed through each size in so many steps, in steps."""
    if sampling == "sandwich":
        return dict.fromkeys(SIZES, float(steps))
    numbers = range(steps * (MICRO_BATCHES if sampling == "micro_batch" else 1))
    drawn = Counter(draw_n_experts(seed, number, SIZES, MoESettings()) for number in numbers)
    return {size: drawn[size] * steps / len(numbers) for size in SIZES}


def exposure(passed: Mapping[int, float]) -> dict[int, float]:
    """Return for each size in how many steps of its own its experts see as many frames as they did in these passes.

    Of a pass through N experts each sees K / N of the frames on the average.
    """
    found = {}
    for size in passed:
        # Each of the size's experts, by the smallest size that has it
        seen = [sum(steps / each for each, steps in passed.items() if each > expert) for expert in range(size)]
        found[size] = sum(seen)
    return found


def twins(sampling: str, against: str, steps: int, seed: int) -> dict[int, int]:
    """Return the steps that each size's twin takes."""
    if against == "steps":
        return dict.fromkeys(SIZES, steps)
    return {size: max(1, round(own)) for size, own in exposure(passes(sampling, steps, seed)).items()}


def steps_of(sampling: str, options: argparse.Namespace) -> int:
    """Return the steps of an elastic training: a sandwich of three passes takes a third."""
    steps: int = options.steps
    return max(1, steps // len(SIZES)) if sampling == "sandwich" else steps


def elastic(handoff: Path, work: Path, options: argparse.Namespace) -> None:
    """Train what the comparisons need, each once, evaluate it, and print the comparisons."""
    begin: list[str] = []
    width = 96
    if options.init:
        begin = [*sizes_of(options.init), f"train.init_from={options.init}", "model.moe.group_weights=[]"]
        begin.append(f"model.moe.experts={list(SIZES)}")
        width = restore(open_chosen(options.init).record["settings"]).model.expert_width()
    micro = [f"data.micro_batches={MICRO_BATCHES}", f"data.max_frames={options.frames // MICRO_BATCHES}"]
    micro.append(f"data.max_clip_frames={options.frames // MICRO_BATCHES}")
    runs: dict[Path, list[str]] = {}

    def wanted(run: Path, steps: int, seed: int, *own: str) -> None:
        small = small_settings(steps, options.rate, options.precision)
        runs[run] = [*begin, *small, *micro, f"train.seed={seed}", f"train.max_steps={steps}", *own]

    samplings, kinds = options.only.split(","), options.against.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        for sampling in samplings:
            steps = steps_of(sampling, options)
            wanted(work / f"{sampling}-{steps}-{seed}", steps, seed, f"model.moe.sampling={sampling}")
            for against in kinds:
                for size, own in twins(sampling, against, steps, seed).items():
                    one = [f"model.moe.experts=[{size}]", f"model.moe.expert_width={width}"]
                    wanted(work / f"n{size}-{own}-{seed}", own, seed, *one)
    if not options.report:
        left = {run: settings for run, settings in runs.items() if not (run / "test" / "eval.json").exists()}

        def one(run: Path) -> None:
            train(handoff, {run: left[run]}, options)
            evaluate(handoff, run / "test", run, "--methods", options.method)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, left))
    differences: list[tuple[str, float, float]] = []
    for against in kinds:
        rows = []
        for sampling in samplings:
            for size in SIZES:
                row, percent = _compared(work, sampling, against, size, seeds, options)
                rows += row
                if percent is not None:
                    differences.append(
                        (f"{sampling}, N={size}, worse than its twin at equal {against}, %", 3.0, percent)
                    )
        if rows:
            table(f"Characters wrong, %, at equal {against}, {options.method}", COLUMNS, rows)
        else:
            print(f"\nnothing was measured at equal {against} yet")
    for sampling in samplings:
        ends = [_answers(work, sampling, size, seeds, options) for size in (SIZES[-1], SIZES[0])]
        if all(ends):
            large, small = (Scores.of(some).characters.percent or 0.0 for some in ends)
            differences.append((f"{sampling}, N={SIZES[-1]} over N={SIZES[0]}", 1.0, large / small))
    if differences:
        show_targets(differences)


def _answers(work: Path, sampling: str, size: int, seeds: Sequence[int], options: argparse.Namespace) -> list[Answer]:
    found = []
    for seed in seeds:
        path = work / f"{sampling}-{steps_of(sampling, options)}-{seed}" / "test" / "eval.jsonl"
        found += answers_of(path, size) if path.exists() else []
    return found


def _compared(
    work: Path, sampling: str, against: str, size: int, seeds: Sequence[int], options: argparse.Namespace
) -> tuple[list[list[str]], float | None]:
    """Return a row of the table over the seeds that were measured, and the relative difference; nothing without any."""
    steps, ours, alone, own = steps_of(sampling, options), list[Answer](), list[Answer](), list[int]()
    for seed in seeds:
        twin = twins(sampling, against, steps, seed)[size]
        paths = [work / f"{name}-{seed}" / "test" / "eval.jsonl" for name in (f"{sampling}-{steps}", f"n{size}-{twin}")]
        if all(path.exists() for path in paths):
            ours += answers_of(paths[0], size)
            alone += answers_of(paths[1], size)
            own.append(twin)
    if not own:
        return [], None
    change = relative(alone, ours)
    rates = [f"{Scores.of(some).characters.percent or 0.0:.2f}" for some in (ours, alone)]
    taken = " to ".join(dict.fromkeys((str(min(own)), str(max(own)))))
    return [[sampling, f"N={size}", str(len(own)), str(steps), taken, *rates, str(change)]], change.percent


def perception(handoff: Path, work: Path, options: argparse.Namespace) -> None:
    runs: dict[Path, list[str]] = {work / "joint": []}
    for task in TASKS:
        runs[work / f"only-{task}"] = [f"data.tasks={{transcribe: 0.0, {task}: 1.0}}", "loss.ctc_weight=0.0"]
    train(handoff, runs, options)
    together = evaluate(handoff, work / "joint" / "test", work / "joint")
    rows = []
    for task in TASKS:
        run = work / f"only-{task}"
        alone = evaluate(handoff, run / "test", run, "--task", task, "--methods", "attention")
        rows.append((task, _share(together, task, "attention_rescoring"), _share(alone, task, "attention")))
    render([together])
    print("\n| task | one model for all | a model for this task | clips |\n|---|--:|--:|--:|")
    for task, (ours, clips), (alone_share, _) in rows:
        print(f"| {task} | {ours:.1f} % | {alone_share:.1f} % | {clips} |")


def missing(handoff: Path, work: Path, options: argparse.Namespace) -> None:
    """All attribute labels against one in ten: what is lost, and whether an answer is ever a default."""
    names = ("joint", "forgetful")
    train(handoff, {work / "joint": [], work / "forgetful": ["data.attribute_dropout=0.9"]}, options)
    print("| attribute | all labels | one in ten | clips |\n|---|--:|--:|--:|")
    found = [evaluate(handoff, work / name / "test", work / name) for name in names]
    for task in ("language", "gender", "age"):
        (full, clips), (few, _) = (_share(evaluation, task, "attention_rescoring") for evaluation in found)
        print(f"| {task} | {full:.1f} % | {few:.1f} % | {clips} |")


def _share(evaluation: Any, task: str, method: str) -> tuple[float, int]:
    scores = evaluation.pooled(15, method)
    share = scores.events.accuracy if task == "event" else scores.attributes[task].accuracy
    return share.percent or 0.0, share.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=a_crawl, required=True)
    parser.add_argument("--experiment", choices=sorted(DOMAINS), default="elastic")
    parser.add_argument(
        "--init", type=a_checkpoint, metavar="CKPT", help="elastic: what every training begins from (default: nothing)"
    )
    parser.add_argument("--seeds", default="0", metavar="S,S", help="elastic: default 0")
    parser.add_argument("--only", default=",".join(SAMPLINGS), metavar="S,S", help="elastic: of model.moe.sampling")
    parser.add_argument("--against", default=",".join(AGAINST), metavar="A,A", help="elastic: exposure, steps")
    parser.add_argument("--report", action="store_true", help="elastic: train nothing")
    parser.add_argument("--method", default="attention_rescoring", help="elastic: of decoding")
    parser.add_argument("--frames", type=int, default=6000, help="elastic: of 10 ms in a step (default: a minute)")
    parser.add_argument("--precision", default="auto", help="elastic: of training")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    options = parser.parse_args()
    known = Tokenizer.load(open_chosen(options.init).path) if options.init else None
    handoff = prepare(options.crawl, options.work, DOMAINS[options.experiment], known=known)
    {"elastic": elastic, "perception": perception, "missing": missing}[options.experiment](
        handoff, options.work, options
    )


if __name__ == "__main__":
    main()
