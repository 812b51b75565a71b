"""A start from weights against a start from nothing, on real audio, at equal steps, at every size.

    python -m benchmarks.warm_start WORK --crawl CRAWL --init CKPT [--steps 300]

CRAWL and the clips that are made of it are those of benchmarks.elastic: two hours of digits, classroom reading, news
and sounds, the last fifth of every domain's recordings (by name) held out. They stand here as dev, so that each run
says its own error rate after the last step: greedy CTC, in words and Han characters. CKPT is a checkpoint or a run; all
runs have its sizes, the same seed, data, rate and steps. Runs go on where they stopped, and at the same time.

    clips ──from nothing───────────────────> cold   ┐
    clips ──train.init_from=CKPT───────────> warm   ├──log.jsonl: errors on the held-out clips──> one table
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

from benchmarks.elastic import DOMAINS, prepare, train
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen
from operators.handoff_record import HandoffRecord

SIZES = ("encoder", "d_model", "heads", "d_ff", "encoder_layers", "decoder_layers", "kernel", "causal")
MOE = ("ffn", "shared", "experts", "top_k", "expert_width", "norm_topk", "group_weights")
STARTS = ("cold", "warm", "grown")


def sizes_of(checkpoint: str) -> list[str]:
    """Return the settings that give a model the checkpoint's sizes."""
    model: dict[str, Any] = open_chosen(checkpoint).record["settings"]["model"]
    given = [f"model.{key}={json.dumps(model[key])}" for key in SIZES if key in model]
    return [*given, *(f"model.moe.{key}={json.dumps(model['moe'][key])}" for key in MOE)]


def held_out_as_dev(handoff: Path, *, grown: bool) -> Path:
    """Return the same clips with the test set as dev; `grown`: a dialect and a sound more in the vocabulary."""
    out = handoff.with_name(f"{handoff.name}-{'grown' if grown else 'dev'}")
    if out.exists():
        return out
    made = out.with_name(f".{out.name}")
    shutil.copytree(handoff, made, ignore=shutil.ignore_patterns("audio"), dirs_exist_ok=True)
    record = HandoffRecord.from_json((made / "handoff.json").read_bytes(), str(made))
    splits = {"train": record.splits["train"], "dev": record.splits["test"]}
    (made / "handoff.json").write_text(replace(record, splits=splits).to_json())
    if grown:
        old = Tokenizer.load(made / "tokenizer")
        scheme = replace(old.scheme, languages=(*old.scheme.languages, "wuu"), events=(*old.scheme.events, "kettle"))
        Tokenizer(scheme, old.characters, old.alphabet, old.merges).save(made / "tokenizer")
    made.rename(out)
    return out


def errors(run: Path) -> dict[int, float]:
    """Return the last error rate of every size, in percent."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {int(line["group"]): line["dev_error_rate"] for line in lines if "dev_error_rate" in line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=Path, required=True)
    parser.add_argument("--init", required=True, metavar="CKPT")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--frames", type=int, default=6000, help="of 10 ms in a step (default: a minute)")
    parser.add_argument("--clips", type=int, default=10_000, help="held out, at most (default: all)")
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    options = parser.parse_args()
    handoff = prepare(options.crawl, options.work, DOMAINS["elastic"])
    fixed = [*sizes_of(options.init), f"train.seed={options.seed}", f"train.precision={options.precision}"]
    fixed += [f"data.max_frames={options.frames}", f"train.eval_clips={options.clips}"]
    runs = {start: options.work / f"{start}-{options.steps}-{options.seed}" for start in STARTS}
    data = {start: held_out_as_dev(handoff, grown=start == "grown") for start in STARTS}

    def one(start: str) -> None:
        settings = fixed if start == "cold" else [*fixed, f"train.init_from={options.init}"]
        train(data[start], {runs[start]: settings}, options)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, STARTS))
    found = {start: errors(run) for start, run in runs.items()}
    print(f"\nerrors (%) of greedy CTC on held-out clips after {options.steps} steps\n")
    print("| size | from nothing | from weights | relative | and a dialect and a sound more | relative |")
    print("|---|--:|--:|--:|--:|--:|")
    for size, cold in found["cold"].items():
        warm, grown = found["warm"][size], found["grown"][size]
        print(
            f"| N={size} | {cold:.2f} | {warm:.2f} | {100 * (warm / cold - 1):+.1f} % | {grown:.2f} | "
            f"{100 * (grown / cold - 1):+.1f} % |"
        )


if __name__ == "__main__":
    main()
