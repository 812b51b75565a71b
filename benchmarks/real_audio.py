"""Real recordings as a hand-off, and small trainings on it: what several benchmarks of training share.

    crawl ──prepare──> WORK/handoff-DOMAINS: FLAC clips, indexes, tokenizer ──train──> runs ──evaluate──> scores

A run that is there goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from model_training.data.features import Cmvn
from model_training.evaluation.evaluation import from_json
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.training.choosing import open_chosen
from operators.audio.decode import decode
from operators.errors import UserError
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import HandoffRecord, Split
from operators.index import Row, write_index
from operators.shard import feature_frames

DOMAINS = {"elastic": ("digits", "classroom", "newsread", "sounds")}
DOMAINS["perception"] = DOMAINS["missing"] = (*DOMAINS["elastic"], "cantonese")
RATE = 16_000


def a_crawl(text: str) -> Path:
    """Return the folder of real recordings that an argument names. Raises ArgumentTypeError when it is none."""
    if not (Path(text) / "truth.jsonl").is_file():
        raise argparse.ArgumentTypeError(f"no {text}/truth.jsonl: give the unpacked set of real recordings")
    return Path(text)


def a_checkpoint(text: str) -> str:
    """Return the checkpoint that an argument names as it is. Raises ArgumentTypeError when it is none."""
    try:
        open_chosen(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def prepare(
    crawl: Path,
    work: Path,
    domains: tuple[str, ...],
    held_out: Callable[[str, list[dict[str, Any]]], list[str]] | None = None,
    known: Tokenizer | None = None,
) -> Path:
    """Return the hand-off directory of some domains, made once.

    Args:
        held_out: names a domain's recordings, or the classroom's speakers, of the test set; None: the last fifth.
        known: a tokenizer whose units are kept; None: it is made of the labels.
    """
    out = work / f"handoff-{'-'.join(domains)}"
    if (out / "handoff.json").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    sums, labels = MelSums(), []
    truth = [json.loads(line) for line in (crawl / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    for domain in domains:
        recordings = sorted((r for r in truth if r["domain"] == domain), key=lambda r: r["recording_id"])
        held = set((held_out or _held_out)(domain, recordings))
        for recording in recordings:
            print(f"{domain} {recording['recording_id']}", file=sys.stderr)
            for row, segment in cut(crawl, work, recording, lambda one: bool(one.get("text") or one.get("event"))):
                split = "test" if group_of(domain, recording, segment) in held else "train"
                rows[split].append(row)
                if split == "train":
                    sums = sums.add(filterbank(soundfile.read(row.shard, dtype="int16")[0]))
                    labels.append(row.label)
    # English by letters: two hours hold too few of every longer unit
    tokenizer = Tokenizer.train(labels, Scheme(), bpe_size=40) if known is None else known.grown(labels)
    tokenizer.save(out / "tokenizer")
    (out / "cmvn.json").write_text(json.dumps(Cmvn.of(sums).to_dict(sums.frames)))
    splits: dict[str, Split] = {}
    for split, made in rows.items():
        write_index(out / f"{split}.arrow", made)
        hours = sum(row.frames for row in made) / 360_000
        splits[split] = Split(index=f"{split}.arrow", clips=len(made), hours=hours)
        print(f"{split}: {len(made)} clips, {hours:.2f} h", file=sys.stderr)
    (out / "handoff.json").write_text(HandoffRecord(splits=splits).to_json())
    return out


def cut(
    crawl: Path, work: Path, recording: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield the wanted segments of a recording, each a FLAC file in WORK/audio with its row, made once."""
    pcm: np.ndarray | None = None
    for number, segment in enumerate(recording["segments"]):
        if not wanted(segment):
            continue
        name = f"{recording['recording_id']}-{number:04d}".replace("/", "_")
        path = work / "audio" / f"{name}.flac"
        if not path.exists():
            if pcm is None:
                pcm = decode(str(crawl / recording["path"])).pcm
            _write(path, pcm[int(segment["start_s"] * RATE) : int(segment["end_s"] * RATE)])
        yield _row(path, soundfile.info(path).frames, recording, segment), segment


def group_of(domain: str, recording: dict[str, Any], segment: dict[str, Any]) -> str:
    """Return what may not be in two splits."""
    return segment["speaker"] if domain == "classroom" and segment.get("speaker") else recording["recording_id"]


def _held_out(domain: str, recordings: list[dict[str, Any]]) -> list[str]:
    groups = sorted(
        {group_of(domain, recording, segment) for recording in recordings for segment in recording["segments"]}
    )
    return groups[-max(1, len(groups) // 5) :]


def _write(path: Path, clip: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    soundfile.write(part, clip, RATE, format="FLAC")
    part.rename(path)


def _row(path: Path, samples: int, recording: dict[str, Any], segment: dict[str, Any]) -> Row:
    text = segment.get("text") or ""
    return Row(
        clip_id=path.stem,
        shard=str(path.absolute()),
        offset=0,
        size=path.stat().st_size,
        frames=feature_frames(samples),
        label_tokens=max(1, len(text)),
        label=text,
        domain=recording["domain"],
        language=recording["language"] if recording["language"] not in (None, "none") else None,
        age=segment.get("age"),
        gender=segment.get("gender"),
        events=(segment["event"],) if segment.get("event") else None,
        recording_id=recording["recording_id"],
        speaker=segment.get("speaker"),
    )


def train(handoff: Path, runs: dict[Path, list[str]], options: argparse.Namespace) -> None:
    """Train each run with its settings, several at once."""
    fixed = [f"train.max_steps={options.steps}", *small_settings(500, options.rate), "data.max_frames=6000"]

    def one(run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "model_training", "train", "--config", "tiny"]
        command += ["--data", str(handoff), "--out", str(run)]
        with (run / "train.log").open("a") as log:
            subprocess.run([*command, *fixed, *runs[run]], check=True, stdout=log, stderr=log)
        print(f"trained {run}", file=sys.stderr)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, runs))


def small_settings(steps: int, rate: float, precision: str = "auto") -> list[str]:
    """Return the settings of a training of minutes on hours of audio, one thread, rate falling to nothing.

    Nothing is masked or dropped: with so little audio the first thing to reach is an alignment at all.
    """
    fixed = ["train.threads=1", "train.checkpoint_steps=50", "train.log_steps=50", f"train.precision={precision}"]
    fixed += ["train.eval_steps=100000", "train.keep_checkpoints=3", "train.tensorboard=false"]
    fixed += ["model.dropout=0.0", "loss.ctc_weight=0.5"]
    fixed += [
        f"data.augment.{name}=0"
        for name in ("noise_probability", "reverb_probability", "frequency_masks", "time_masks")
    ]
    fixed += [f"optimizer.learning_rate={rate}", f"optimizer.warmup_steps={max(1, steps // 10)}"]
    return [*fixed, "optimizer.schedule=cosine"]


def evaluate(handoff: Path, out: Path, run: Path, *more: str) -> Any:
    command = [sys.executable, "-m", "model_training", "eval", str(run), "--data", str(handoff), "--out", str(out)]
    subprocess.run([*command, "--beam", "5", "--threads", "1", *more], check=True, stdout=subprocess.DEVNULL)
    return from_json((out / "eval.json").read_bytes())
