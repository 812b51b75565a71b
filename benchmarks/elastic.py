"""The elastic claim and joint perception on real audio (TouchASP, Tables 4, 8 and 9), with tiny models on a CPU.

    python -m benchmarks.elastic WORK --crawl CRAWL                    one eMoE and three twins of its sizes, one seed
    python -m benchmarks.elastic WORK --crawl CRAWL --seeds 3
    python -m benchmarks.elastic WORK --crawl CRAWL --experiment perception     one model for all tasks against one per
    task python -m benchmarks.elastic WORK --crawl CRAWL --experiment missing        90 % of attribute labels dropped

CRAWL is the unpacked set of real recordings with truth.jsonl. Its segments become FLAC shards in WORK with a hand-off;
the last fifth of every domain's recordings (by name; of the classroom's speakers) is the test set. Runs go on where
they stopped; as many at once as there are cores, one thread each.

    eMoE, N = sample[3, 7, 15] ──evaluated at 3, 7, 15──┐
    S=1 N=3, S=1 N=7, S=1 N=15 trained alone ───────────┴──> one table per seed, and relative differences over seeds
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from model_training.data.features import Cmvn
from model_training.evaluation.evaluation import from_json
from model_training.evaluation.terminal import render
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from operators.audio.decode import decode
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import HandoffRecord, Split
from operators.index import Row, write_index
from operators.shard import feature_frames

DOMAINS = {"elastic": ("digits", "classroom", "newsread", "sounds")}
DOMAINS["perception"] = DOMAINS["missing"] = (*DOMAINS["elastic"], "cantonese")
TASKS = ("language", "gender", "age", "event")
RATE = 16_000
GROUPS = (3, 7, 15)


def prepare(crawl: Path, work: Path, domains: tuple[str, ...]) -> Path:
    """The hand-off directory of some domains, made once."""
    out = work / f"handoff-{'-'.join(domains)}"
    if (out / "handoff.json").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    sums, labels = MelSums(), []
    truth = [json.loads(line) for line in (crawl / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    for domain in domains:
        recordings = sorted((r for r in truth if r["domain"] == domain), key=lambda r: r["recording_id"])
        held = set(_held_out(domain, recordings))
        for recording in recordings:
            print(f"{domain} {recording['recording_id']}", file=sys.stderr)
            pcm = decode(str(crawl / recording["path"])).pcm
            for number, segment in enumerate(recording["segments"]):
                split = "test" if _group(domain, recording, segment) in held else "train"
                clip = pcm[int(segment["start_s"] * RATE) : int(segment["end_s"] * RATE)]
                row = _row(out, split, domain, recording, segment, number, clip)
                if row is None:
                    continue
                rows[split].append(row)
                if split == "train":
                    sums = sums.add(filterbank(clip))
                    labels.append(row.label)
    # English by letters: two hours hold too few of every longer unit
    Tokenizer.train(labels, Scheme(), bpe_size=40).save(out / "tokenizer")
    (out / "cmvn.json").write_text(json.dumps(Cmvn.of(sums).to_dict(sums.frames)))
    splits: dict[str, Split] = {}
    for split, made in rows.items():
        write_index(out / f"{split}.arrow", made)
        hours = sum(row.frames for row in made) / 360_000
        splits[split] = Split(index=f"{split}.arrow", clips=len(made), hours=hours)
        print(f"{split}: {len(made)} clips, {hours:.2f} h", file=sys.stderr)
    (out / "handoff.json").write_text(HandoffRecord(splits=splits).to_json())
    return out


def _group(domain: str, recording: dict[str, Any], segment: dict[str, Any]) -> str:
    """What may not be in two splits."""
    return segment["speaker"] if domain == "classroom" and segment.get("speaker") else recording["recording_id"]


def _held_out(domain: str, recordings: list[dict[str, Any]]) -> list[str]:
    groups = sorted(
        {_group(domain, recording, segment) for recording in recordings for segment in recording["segments"]}
    )
    return groups[-max(1, len(groups) // 5) :]


def _row(
    out: Path,
    split: str,
    domain: str,
    recording: dict[str, Any],
    segment: dict[str, Any],
    number: int,
    clip: np.ndarray,
) -> Row | None:
    text = segment.get("text") or ""
    events = (segment["event"],) if segment.get("event") else None
    if not text and not events:
        return None
    language = recording["language"] if recording["language"] not in (None, "none") else None
    name = f"{recording['recording_id']}-{number:04d}".replace("/", "_")
    path = out / "audio" / split / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    soundfile.write(encoded, clip, RATE, format="FLAC")
    path.write_bytes(encoded.getvalue())
    return Row(
        clip_id=name,
        shard=str(path),
        offset=0,
        size=path.stat().st_size,
        frames=feature_frames(len(clip)),
        label_tokens=max(1, len(text)),
        label=text,
        domain=domain,
        language=language,
        age=segment.get("age"),
        gender=segment.get("gender"),
        events=events,
        recording_id=recording["recording_id"],
        speaker=segment.get("speaker"),
    )


def train(handoff: Path, runs: dict[Path, list[str]], options: argparse.Namespace) -> None:
    """Train each run with its settings, several at once."""
    fixed = [f"train.max_steps={options.steps}", "train.threads=1", "train.checkpoint_steps=200", "train.log_steps=50"]
    fixed += ["train.eval_steps=100000", "train.keep_checkpoints=3", "train.tensorboard=false"]
    # A minute a step, nothing masked or dropped: with two hours of audio the first thing to reach is an alignment at
    # all
    fixed += ["data.max_frames=6000", "model.dropout=0.0", "loss.ctc_weight=0.5"]
    fixed += [
        f"data.augment.{name}=0"
        for name in ("noise_probability", "reverb_probability", "frequency_masks", "time_masks")
    ]
    fixed += [f"optimizer.learning_rate={options.rate}", "optimizer.warmup_steps=50", "optimizer.schedule=cosine"]

    def one(run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "model_training",
            "train",
            "--data",
            str(handoff),
            "--config",
            "tiny",
            "--out",
            str(run),
        ]
        with (run / "train.log").open("a") as log:
            subprocess.run([*command, *fixed, *runs[run]], check=True, stdout=log, stderr=log)
        print(f"trained {run}", file=sys.stderr)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, runs))


def evaluate(handoff: Path, out: Path, run: Path, *more: str) -> Any:
    command = [sys.executable, "-m", "model_training", "eval", str(run), "--data", str(handoff), "--out", str(out)]
    subprocess.run([*command, "--beam", "5", "--threads", "1", *more], check=True, stdout=subprocess.DEVNULL)
    return from_json((out / "eval.json").read_bytes())


def elastic(handoff: Path, work: Path, options: argparse.Namespace) -> None:
    differences: dict[int, list[float]] = defaultdict(list)
    runs: dict[Path, list[str]] = {}
    for seed in range(options.seeds):
        runs[work / f"emoe-{seed}"] = [f"train.seed={seed}"]
        for group in GROUPS:
            runs[work / f"n{group}-{seed}"] = [
                f"train.seed={seed}",
                f"model.moe.experts=[{group}]",
                "model.moe.expert_width=96",
            ]
    train(handoff, runs, options)
    with ThreadPoolExecutor(options.jobs) as pool:
        evaluations = dict(zip(runs, pool.map(lambda run: evaluate(handoff, run / "test", run), runs)))
    for seed in range(options.seeds):
        names = {"eMoE": f"emoe-{seed}"} | {f"N={group}": f"n{group}-{seed}" for group in GROUPS}
        found = {name: evaluations[work / run] for name, run in names.items()}
        render(list(found.values()))
        print(f"\nseed {seed}: error rate (%), all test sets, attention rescoring\n")
        print("| size | eMoE | trained alone | relative |\n|---|--:|--:|--:|")
        for group in GROUPS:
            ours, twin = (
                evaluation.pooled(group, "attention_rescoring").characters.percent
                for evaluation in (found["eMoE"], found[f"N={group}"])
            )
            differences[group].append(ours / twin - 1)
            print(f"| N={group} | {ours:.2f} | {twin:.2f} | {100 * (ours / twin - 1):+.1f} % |", flush=True)
    print("\n| size | mean relative difference | seeds |\n|---|--:|--:|")
    for group, values in differences.items():
        print(f"| N={group} | {100 * np.mean(values):+.1f} % | {len(values)} |")


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
    parser.add_argument("--crawl", type=Path, required=True)
    parser.add_argument("--experiment", choices=sorted(DOMAINS), default="elastic")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    options = parser.parse_args()
    handoff = prepare(options.crawl, options.work, DOMAINS[options.experiment])
    {"elastic": elastic, "perception": perception, "missing": missing}[options.experiment](
        handoff, options.work, options
    )


if __name__ == "__main__":
    main()
