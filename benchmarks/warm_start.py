"""A start from weights against a start from nothing, on real audio, at equal steps, at every size.

    python -m benchmarks.warm_start WORK --crawl CRAWL --init CKPT [--steps 300]

CRAWL and the clips that are made of it are those of benchmarks.elastic: two hours of digits, classroom reading, news
and sounds, the last fifth of every domain's recordings (by name) held out. CKPT is a checkpoint or a run; all runs have
its sizes, the same seed, data, rate and steps. Runs go on where they stopped, and at the same time. Errors are those of
greedy CTC, in characters.

    clips ──from nothing───────────────────> cold   ┐
    clips ──train.init_from=CKPT───────────> warm   ├──eval on the held-out clips──> one table
    a dialect and a sound more ──the same──> grown  ┘
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.real_audio import DOMAINS, a_checkpoint, a_crawl, evaluate, prepare, train
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen

SIZES = ("encoder", "d_model", "heads", "d_ff", "encoder_layers", "decoder_layers", "kernel", "causal")
MOE = ("ffn", "shared", "experts", "top_k", "expert_width", "norm_topk", "group_weights")
STARTS = ("cold", "warm", "grown")


def sizes_of(checkpoint: str) -> list[str]:
    """Return the settings that give a model the checkpoint's sizes."""
    model: dict[str, Any] = open_chosen(checkpoint).record["settings"]["model"]
    given = [f"model.{key}={json.dumps(model[key])}" for key in SIZES if key in model]
    return [*given, *(f"model.moe.{key}={json.dumps(model['moe'][key])}" for key in MOE)]


def grown(handoff: Path) -> Path:
    """Return the same clips with a tokenizer that knows a dialect and a sound more."""
    out = handoff.with_name(f"{handoff.name}-grown")
    if not out.exists():
        made = out.with_name(f".{out.name}")
        shutil.copytree(handoff, made, ignore=shutil.ignore_patterns("audio"), dirs_exist_ok=True)
        old = Tokenizer.load(made / "tokenizer")
        scheme = replace(old.scheme, languages=(*old.scheme.languages, "wuu"), events=(*old.scheme.events, "kettle"))
        Tokenizer(scheme, old.characters, old.alphabet, old.merges).save(made / "tokenizer")
        made.rename(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=a_crawl, required=True)
    parser.add_argument("--init", type=a_checkpoint, required=True, metavar="CKPT")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--frames", type=int, default=6000, help="of 10 ms in a step (default: a minute)")
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    options = parser.parse_args()
    handoff = prepare(options.crawl, options.work, DOMAINS["elastic"])
    fixed = [*sizes_of(options.init), f"train.seed={options.seed}", f"train.precision={options.precision}"]
    fixed.append(f"data.max_frames={options.frames}")
    runs = {start: options.work / f"{start}-{options.steps}-{options.seed}" for start in STARTS}
    data = {"cold": handoff, "warm": handoff, "grown": grown(handoff)}

    def one(start: str) -> dict[int, float]:
        settings = fixed if start == "cold" else [*fixed, f"train.init_from={options.init}"]
        train(data[start], {runs[start]: settings}, options)
        made = evaluate(data[start], runs[start] / "test", runs[start], "--methods", "ctc_greedy")
        return {size: made.pooled(size, "ctc_greedy").characters.percent for size in made.parameters}

    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip(STARTS, pool.map(one, STARTS), strict=True))
    print(f"\ncharacter error rate (%) of greedy CTC on held-out clips after {options.steps} steps\n")
    print("| size | from nothing | from weights | relative | and a dialect and a sound more | relative |")
    print("|---|--:|--:|--:|--:|--:|")
    for size, cold in found["cold"].items():
        cells = [f"{cold:.2f}"]
        for start in ("warm", "grown"):
            rate = found[start][size]
            cells += [f"{rate:.2f}", f"{100 * (rate / cold - 1):+.1f} %"]
        print(f"| N={size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
