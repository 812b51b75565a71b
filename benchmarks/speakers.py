"""Gender and age of speakers never heard before, with a speaker head and without, from all labels and from one in ten.

    python -m benchmarks.speakers WORK --crawl CRAWL --init CKPT                         all folds and conditions
    python -m benchmarks.speakers WORK --crawl CRAWL --init CKPT --folds 0               one fold
    python -m benchmarks.speakers WORK --crawl CRAWL --init CKPT --only head-all,plain-all
    python -m benchmarks.speakers WORK --crawl CRAWL --init CKPT --report                what was measured so far, again
    python -m benchmarks.pitch WORK                                    what pitch alone says of gender in these folds

CRAWL is the unpacked set of real recordings with truth.jsonl: all transcribed clips of speakers whose gender is known,
at most 20 of a speaker. CKPT is what every run begins from; the starter model has heard synthetic voices only. Speakers
are dealt into five folds, each gender and age in turn, so every fold has as many of each; a fold's speakers are tested
by models that were trained on the other four. Runs go on where they stopped.

    clips of four folds ──head─────all | tenth of the labels──> model ──surer, head, decoder──┐
                        └─no head──all | tenth────────────────> model ──decoder───────────────┴──> one table over folds
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.real_audio import a_checkpoint, a_crawl, cut
from benchmarks.targets import show_targets
from benchmarks.truth import table
from benchmarks.warm_start import sizes_of
from model_training.data.features import Cmvn
from model_training.data.handoff import Handoff
from model_training.data.speaker_labels import forgetful
from model_training.evaluation.answers import Answer, from_lines, to_lines
from model_training.evaluation.evaluate import evaluate
from model_training.evaluation.metrics import Balanced, Scores
from model_training.evaluation.sets import labelled_sets, load_model
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import HandoffRecord, Split
from operators.index import Row, write_index

FOLDS, MOST = 5, 20
DOMAINS = ("audiobook", "cantonese", "classroom", "digits", "live")
KINDS = ("gender", "age")
TENTH = "data.attribute_dropout=0.9"
HEAD = "model.speaker_head.attributes=[gender,age,language]"
QUICK = "train.lr_by_part={speaker_head: 3}"
"""The head begins from nothing, all else from weights."""
CONDITIONS: dict[str, list[str]] = {
    "plain-all": [],
    "head-all": [HEAD, QUICK],
    "plain-tenth": [TENTH],
    "head-tenth": [HEAD, QUICK, TENTH, "data.labelled_weight=2"],
}
WORDS = ("surer", "head", "decoder")


def clips(crawl: Path, work: Path) -> list[Row]:
    """Return the clips, each a FLAC file, made once."""
    made: list[Row] = []
    of_speaker: Counter[str] = Counter()

    def wanted(segment: dict[str, Any]) -> bool:
        if not (segment.get("gender") and segment.get("text")):
            return False
        of_speaker[segment["speaker"]] += 1
        return of_speaker[segment["speaker"]] <= MOST

    for line in (crawl / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        recording = json.loads(line)
        if recording["domain"] in DOMAINS:
            made += [row for row, _ in cut(crawl, work, recording, wanted)]
    return made


def fold_of(rows: Sequence[Row]) -> dict[str, int]:
    """Return the fold of every speaker: each gender and age is dealt out in turn, in the order of names."""
    strata = sorted({(row.gender or "", row.age or "", row.speaker or "") for row in rows})
    return {speaker: place % FOLDS for place, (_, _, speaker) in enumerate(strata)}


def prepare(crawl: Path, work: Path, init: str) -> list[Path]:
    """Return the hand-off of every fold, made once."""
    folders = [work / f"fold-{fold}" for fold in range(FOLDS)]
    if all((folder / "handoff.json").exists() for folder in folders):
        return folders
    rows = clips(crawl, work)
    folds = fold_of(rows)
    sums: dict[int, MelSums] = defaultdict(MelSums)
    for row in rows:
        fold = folds[row.speaker or ""]
        sums[fold] = sums[fold].add(filterbank(soundfile.read(row.shard, dtype="int16")[0]))
    known = Tokenizer.load(open_chosen(init).path)
    for fold, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        parts = {
            "train": [row for row in rows if folds[row.speaker or ""] != fold],
            "test": [row for row in rows if folds[row.speaker or ""] == fold],
        }
        known.grown(row.label for row in parts["train"]).save(folder / "tokenizer")
        total = MelSums()
        for other in range(FOLDS):
            total = total + sums[other] if other != fold else total
        (folder / "cmvn.json").write_text(json.dumps(Cmvn.of(total).to_dict(total.frames)))
        splits = {}
        for split, part in parts.items():
            write_index(folder / f"{split}.arrow", part)
            hours = sum(row.frames for row in part) / 360_000
            splits[split] = Split(index=f"{split}.arrow", clips=len(part), hours=hours)
        (folder / "handoff.json").write_text(HandoffRecord(splits=splits).to_json())
    return folders


def describe(handoffs: Sequence[Path]) -> None:
    """Print how many speakers and clips each fold has, and how many keep a label of one in ten."""
    rows = []
    for fold, folder in enumerate(handoffs):
        train, test = (Handoff.open(str(folder)).index(split) for split in ("train", "test"))
        heard = [train.row(number) for number in range(len(train))]
        asked = [test.row(number) for number in range(len(test))]
        voices = {row.speaker: (row.gender, row.age or "of unknown age") for row in asked}
        assert not voices.keys() & {row.speaker for row in heard}, "a speaker is in train and test"
        kept = [forgetful(row, 0.9) for row in heard]
        cells = Counter(voices.values())
        rows.append(
            [
                str(fold),
                f"{len({row.speaker for row in heard})} / {len(heard)}",
                ", ".join(
                    f"{kind} {len({r.speaker for r in kept if getattr(r, kind)})} / "
                    f"{sum(getattr(r, kind) is not None for r in kept)}"
                    for kind in KINDS
                ),
                f"{len(voices)} / {len(asked)}",
                ", ".join(f"{count} {gender} {age}" for (gender, age), count in sorted(cells.items())),
            ]
        )
    columns = ["fold", "train: speakers / clips", "of these with a label in ten", "test", "test speakers"]
    table("Folds", columns, rows)


def run(handoff: Path, out: Path, settings: Sequence[str], options: argparse.Namespace) -> None:
    """Train a model of one fold and condition, and keep its answers by size and by whose word counts."""
    wanted = WORDS if HEAD in settings else WORDS[-1:]
    if all((out / f"{word}.jsonl").exists() for word in wanted):
        return
    out.mkdir(parents=True, exist_ok=True)
    fixed = [*sizes_of(options.init), f"train.init_from={options.init}", f"train.seed={options.seed}"]
    fixed += [f"train.max_steps={options.steps}", "train.threads=1", "train.checkpoint_steps=50", "train.log_steps=10"]
    fixed += ["train.keep_checkpoints=1", "train.tensorboard=false", "data.loaders=0", "model.dropout=0.0"]
    fixed += [f"data.max_frames={options.frames}", "loss.ctc_weight=0.5", f"train.precision={options.precision}"]
    fixed += [f"data.augment.{name}=0" for name in ("noise_probability", "reverb_probability", "time_masks")]
    fixed += ["data.augment.frequency_masks=0", f"optimizer.learning_rate={options.rate}"]
    fixed += ["optimizer.warmup_steps=10", "optimizer.schedule=cosine"]
    command = [sys.executable, "-m", "model_training", "train", "--data", str(handoff), "--config", "tiny"]
    if options.weight is not None and HEAD in settings:
        fixed.append(f"loss.speaker_weight={options.weight}")
    began = time.process_time(), os.times().children_user
    with (out / "train.log").open("a") as log:
        subprocess.run([*command, "--out", str(out), *fixed, *settings], check=True, stdout=log, stderr=log)
    trained = os.times().children_user - began[1]
    loaded = load_model(str(out))
    for word in wanted:
        made = evaluate(
            loaded.model,
            loaded.tokenizer,
            labelled_sets(Handoff.open(str(handoff)), "test", loaded),
            groups=[loaded.model.sizes[0], loaded.model.sizes[-1]],
            beam=2,
            known_labels=loaded.known_labels,
            speaker=word,
        )
        part = out / f"{word}.part"
        part.write_bytes(to_lines(made.answers))
        part.rename(out / f"{word}.jsonl")
    print(
        f"{out.name}: {trained:.0f} CPU s of training, {time.process_time() - began[0]:.0f} of evaluation",
        file=sys.stderr,
        flush=True,
    )


def answers(work: Path, condition: str, word: str, size: int) -> list[Answer]:
    """Return the answers of the folds that were measured, at one size."""
    found: list[Answer] = []
    for fold in range(FOLDS):
        path = work / f"{condition}-{fold}" / f"{word}.jsonl"
        if path.exists():
            found += [one for one in from_lines(path.read_bytes(), str(path)) if one.n_experts == size]
    return found


def report(work: Path, sizes: tuple[int, int]) -> None:
    """Print what was measured so far, over the folds of each condition."""
    balanced: dict[tuple[str, str], float] = {}
    for size in sizes:
        for kind in KINDS:
            rows = []
            for condition in CONDITIONS:
                for word in WORDS:
                    some = answers(work, condition, word, size)
                    if not some:
                        continue
                    counts = Scores.of(some).attributes[kind]
                    others = [
                        f"{age} {found.percent:.1f}"
                        for age in ("adult", "child")
                        if kind == "gender" and (found := _gender_of(some, age)) is not None
                    ]
                    label, always = counts.constant
                    even = counts.balanced
                    if word == "surer" or condition.startswith("plain"):
                        balanced[condition, f"{kind}-{size}"] = even.percent or 0.0
                    rows.append(
                        [
                            condition,
                            word,
                            f"{even.percent:.1f} {_interval(even.interval)}",
                            f"{counts.accuracy.percent:.1f} {_interval(counts.accuracy.interval)}",
                            f"{always.percent:.1f} ({label}), balanced {100 / len(counts.labels):.0f}",
                            ", ".join(f"{truth}→{said} {n}" for (truth, said), n in counts.counts.items()),
                            ", ".join(others),
                            f"{len({one.voice for one in some})} / {len(some)}",
                        ]
                    )
            columns = ["condition", "whose word", "balanced, %", "right, %", "a constant answer", "true→said, clips"]
            table(f"{kind.capitalize()}, N={size}", [*columns, "balanced by age", "speakers / clips"], rows)
    rows = []
    worse: list[float] = []
    for size in sizes:
        for labels in ("all", "tenth"):
            plain, head = (answers(work, f"{kind}-{labels}", "decoder", size) for kind in ("plain", "head"))
            folds = {one.clip_id for one in plain} & {one.clip_id for one in head}
            if not folds:
                continue
            before, after = (_errors([one for one in some if one.clip_id in folds]) for some in (plain, head))
            change = 100 * (after[:, 0].sum() / before[:, 0].sum() - 1)
            rows.append(
                [f"N={size}", labels, _percent(before), _percent(after), f"{change:+.2f}", _drawn(before, after)]
            )
            worse.append(change)
    table(
        "Transcription, tokens wrong, %",
        ["size", "labels", "without a head", "with", "relative, %", "95 % over speakers"],
        rows,
    )
    targets = [
        (f"gender, {name}, balanced, N={size}", wanted, balanced[f"head-{name}", f"gender-{size}"])
        for size in sizes
        for name, wanted in (("all", 88.0), ("tenth", 80.0))
        if (f"head-{name}", f"gender-{size}") in balanced
    ]
    targets += [
        (f"age, {name}, points above a constant answer, balanced, N={size}", 10.0,
         balanced[f"head-{name}", f"age-{size}"] - 50)
        for size in sizes
        for name in ("all", "tenth")
        if (f"head-{name}", f"age-{size}") in balanced
    ]  # fmt: skip
    show_targets(targets, at_least=True, digits=1)
    if worse:
        show_targets([("transcription, worse with a head, relative, %", 1.0, max(worse))])


def _gender_of(some: Sequence[Answer], age: str) -> Balanced | None:
    """Return the balanced accuracy of gender over speakers of an age; None without any."""
    counts = Scores.of(one for one in some if one.truths.get("age") == age).attributes.get("gender")
    return None if counts is None else counts.balanced


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]"


def _errors(some: Sequence[Answer]) -> np.ndarray:
    """Return errors and tokens of every speaker, float64 [speakers, 2], speakers in order."""
    by_speaker: dict[str, list[Answer]] = defaultdict(list)
    for one in some:
        by_speaker[one.voice].append(one)
    rates = [Scores.of(by_speaker[name]).tokens for name in sorted(by_speaker)]
    return np.array([[rate.errors, rate.reference] for rate in rates], float)


def _percent(errors_S2: np.ndarray) -> str:
    return f"{100 * errors_S2[:, 0].sum() / errors_S2[:, 1].sum():.2f}"


def _drawn(before_S2: np.ndarray, after_S2: np.ndarray) -> str:
    """Return the interval of the relative difference, the same speakers drawn again for both."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(before_S2), (2000, len(before_S2)))
    changes = 100 * (after_S2[drawn, 0].sum(1) / before_S2[drawn, 0].sum(1) - 1)
    low, high = np.percentile(changes, (2.5, 97.5))
    return f"[{low:+.2f}, {high:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=a_crawl, required=True)
    parser.add_argument("--init", type=a_checkpoint, required=True, metavar="CKPT")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--only", default=",".join(CONDITIONS), metavar="C,C", help=", ".join(CONDITIONS))
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--frames", type=int, default=6000, help="of 10 ms in a step (default: a minute)")
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--weight", type=float, help="of the head in the objective (default: the trainer's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args()
    handoffs = prepare(options.crawl, options.work, options.init)
    describe(handoffs)
    for fold in [] if options.report else map(int, options.folds.split(",")):
        for condition in options.only.split(","):
            run(handoffs[fold], options.work / f"{condition}-{fold}", CONDITIONS[condition], options)
    experts: list[int] = open_chosen(options.init).record["settings"]["model"]["moe"]["experts"]
    report(options.work, (experts[0], experts[-1]))


if __name__ == "__main__":
    main()
