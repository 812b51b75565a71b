"""What a right-to-left decoder gives in rescoring (U2++), on real audio with tiny models on a CPU.

    python -m benchmarks.reverse WORK --crawl CRAWL --init CKPT --seeds 0,1,2
    python -m benchmarks.reverse WORK --crawl CRAWL --init CKPT --report      what was measured so far, again

CRAWL and the clips that are made of it are those of benchmarks.elastic, the last fifth of every domain held out. Both
models begin with CKPT's weights; the second decoder, which CKPT lacks, begins with random ones. Runs go on where they
stopped.

    clips ──model.reverse_layers = 0 | 1──> two models ──attention rescoring, reverse weight 0 | 0.3 | 0.5──> table
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.paired import answers_of, relative
from benchmarks.real_audio import DOMAINS, a_checkpoint, a_crawl, evaluate, prepare, small_settings, train
from benchmarks.truth import table
from benchmarks.warm_start import sizes_of
from model_training.evaluation.metrics import Scores
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen

REVERSE_WEIGHTS = (0.0, 0.3, 0.5)
LAYERS = (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=a_crawl, required=True)
    parser.add_argument("--init", type=a_checkpoint, metavar="CKPT", required=True)
    parser.add_argument("--seeds", default="0", metavar="S,S", help="default 0")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--size", type=int, default=15, help="routed experts that are evaluated (default 15)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    known = Tokenizer.load(open_chosen(options.init).path)
    handoff = prepare(options.crawl, options.work, DOMAINS["elastic"], known=known)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if not options.report:
        for seed in seeds:
            work(handoff, seed, options)
    report(seeds, options)


def run_of(layers: int, seed: int, options: argparse.Namespace) -> Path:
    folder: Path = options.work / f"reverse-{layers}-{options.steps}-{seed}"
    return folder


def work(handoff: Path, seed: int, options: argparse.Namespace) -> None:
    """Train both models of a seed, and evaluate them with every weight that they can have."""
    begin = [*sizes_of(options.init), f"train.init_from={options.init}", f"train.seed={seed}"]
    for layers in LAYERS:
        run = run_of(layers, seed, options)
        own = [f"model.reverse_layers={layers}", f"train.max_steps={options.steps}"]
        own += small_settings(options.steps, options.rate, options.precision)
        train(handoff, {run: [*begin, *own]}, options)
        for weight in REVERSE_WEIGHTS[: None if layers else 1]:
            out = run / f"test-{weight:g}"
            if not (out / "eval.json").exists():
                chosen = ["--methods", "attention_rescoring", "--groups", str(options.size)]
                evaluate(handoff, out, run, *chosen, "--reverse-weight", str(weight))


def report(seeds: list[int], options: argparse.Namespace) -> None:
    """Print the error rates over the seeds that were measured, and how they differ from the model with one decoder."""

    def path(layers: int, weight: float, seed: int) -> Path:
        return run_of(layers, seed, options) / f"test-{weight:g}" / "eval.jsonl"

    asked = [(layers, weight) for layers in LAYERS for weight in REVERSE_WEIGHTS[: None if layers else 1]]
    done = [seed for seed in seeds if all(path(*one, seed).exists() for one in asked)]
    if not done:
        print(f"nothing was measured in {options.work} yet")
        return
    answers = {one: [a for seed in done for a in answers_of(path(*one, seed), options.size)] for one in asked}
    alone = answers[asked[0]]
    rows = []
    for one, own in answers.items():
        layers, weight = one
        change = str(relative(alone, own)) if layers else ""
        name = "left to right and back" if layers else "left to right"
        single = ", ".join(
            f"{Scores.of(answers_of(path(*one, seed), options.size)).characters.percent:.2f}" for seed in done
        )
        rate = f"{Scores.of(own).characters.percent:.2f}"
        rows.append([name, f"{weight:g}" if layers else "", rate, single, change])
    columns = ["decoders", "reverse weight", "all seeds", "by seed", "against one decoder, relative, %"]
    table(f"Characters wrong, %, attention rescoring, N={options.size}, {len(done)} seed(s)", columns, rows)


if __name__ == "__main__":
    main()
