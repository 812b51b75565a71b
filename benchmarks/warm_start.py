"""A start from weights against a start from nothing, on real audio, at equal steps, at every size.

    python -m benchmarks.warm_start WORK --crawl CRAWL --init CKPT [--steps 300]

CRAWL and the hand-off that is made of it are those of benchmarks.elastic: two hours of digits, classroom reading, news
and sounds, the last fifth of every domain's recordings (by name) held out. CKPT is a checkpoint, a run or an exported
folder; all runs have its sizes, the same seed, data, rate and steps. Runs go on where they stopped.

    hand-off ──from nothing──────────────> cold  ┐
    hand-off ──train.init_from=CKPT──────> warm  ├──eval on the held-out recordings──> one table
    a dialect and a sound more ──the same──> grown ┘
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.elastic import DOMAINS, evaluate, prepare, train
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen

SIZES = ("encoder", "d_model", "heads", "d_ff", "encoder_layers", "decoder_layers", "kernel", "causal")
MOE = ("ffn", "shared", "experts", "top_k", "expert_width", "norm_topk", "group_weights")


def sizes_of(checkpoint: str) -> tuple[list[str], list[int]]:
    """Return the settings that give a model the checkpoint's sizes, and its numbers of routed experts."""
    model: dict[str, Any] = open_chosen(checkpoint).record["settings"]["model"]
    moe = model["moe"]
    given = [f"model.{key}={json.dumps(model[key])}" for key in SIZES if key in model]
    return [*given, *(f"model.moe.{key}={json.dumps(moe[key])}" for key in MOE)], moe["experts"]


def grown(handoff: Path) -> Path:
    """Return the same data with a tokenizer that knows a dialect and a sound more."""
    out = handoff.with_name(f"{handoff.name}-grown")
    if not out.exists():
        shutil.copytree(handoff, out, ignore=shutil.ignore_patterns("audio"))
        old = Tokenizer.load(out / "tokenizer")
        scheme = replace(old.scheme, languages=(*old.scheme.languages, "wuu"), events=(*old.scheme.events, "kettle"))
        Tokenizer(scheme, old.characters, old.alphabet, old.merges).save(out / "tokenizer")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=Path, required=True)
    parser.add_argument("--init", required=True, metavar="CKPT")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--frames", type=int, default=6000, help="of 10 ms in a step (default: a minute)")
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="ctc_greedy")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--only", nargs="*", default=["cold", "warm", "grown"], help="of cold, warm, grown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    options = parser.parse_args()
    handoff = prepare(options.crawl, options.work, DOMAINS["elastic"])
    sizes, groups = sizes_of(options.init)
    fixed = [*sizes, f"train.seed={options.seed}", f"train.precision={options.precision}"]
    fixed.append(f"data.max_frames={options.frames}")
    start = f"train.init_from={options.init}"
    runs = {"cold": (handoff, fixed), "warm": (handoff, [*fixed, start]), "grown": (grown(handoff), [*fixed, start])}
    found = {}
    for name in options.only:
        data, settings = runs[name]
        run = options.work / f"{name}-{options.steps}-{options.seed}"
        train(data, {run: settings}, options)
        found[name] = evaluate(data, run / "test", run, "--methods", options.method)
    print(f"\ncharacter error rate (%), {options.method}, all test sets, {options.steps} steps\n")
    print("| size | " + " | ".join(found) + " |\n|---|" + "--:|" * len(found))
    for group in groups:
        rates = {
            name: evaluation.pooled(group, options.method).characters.percent for name, evaluation in found.items()
        }
        cells = [
            f"{rate:.2f}"
            + (f" ({100 * (rate / rates['cold'] - 1):+.0f} %)" if name != "cold" and "cold" in rates else "")
            for name, rate in rates.items()
        ]
        print(f"| N={group} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
