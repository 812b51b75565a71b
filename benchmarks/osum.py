"""OSUM with real parts: Whisper base and SmolLM2-135M on real English, on two cores or fewer.

    python benchmarks/osum.py data CRAWL OUT               truth.jsonl and its recordings -> a hand-off of English
    python benchmarks/osum.py train OUT WHISPER LLM RUN [minutes] [key=value ...]    go on for so many minutes
    python -m model_training osum eval RUN --data OUT --ema      error rates, accuracies: unseen clips, seen voices

CRAWL holds recordings with a truth.jsonl: segments with text, speaker, gender, age; those with `class` are orders whose
drink is asked for. Every tenth clip, by a hash of its place, is held out for the test and every twentieth for dev, so
their voices are known and the clips are not. WHISPER is a folder of CTranslate2 or transformers, LLM of transformers;
training goes on where it stopped, so several calls make one run.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import soundfile

from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from operators.audio.decode import decode
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import Domain, HandoffRecord, Split
from operators.index import Row, write_index
from operators.shard import feature_frames

RATE = 16_000
DOMAINS = ("audiobook", "classroom", "commands", "digits")
SETTINGS = [
    "model.adaptor.width=512",
    "model.adaptor.inner=1024",
    "model.adaptor.layers=2",
    "model.adaptor.dropout=0.1",
    "model.encoder.window=own",
    "model.encoder.remember=true",
    "model.checkpointing=false",
    "model.llm.lora_dropout=0.0",
    "phases=[{steps: 1400, parts: [adaptor], align: 1, answers: false}, {steps: 0, parts: [adaptor, llm], align: 0.3}]",
    "rates={adaptor: 1.0, llm: 0.5}",
    "data.languages=[en]",
    "data.loaders=0",
    "data.max_clips=8",
    "data.max_frames=4800",
    "data.max_clip_frames=1500",
    "data.micro_batches=1",
    "data.max_answer_tokens=64",
    "optimizer.learning_rate=0.001",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=30",
    "optimizer.clip_norm=20",
    "optimizer.ema=0.98",
    "train.threads=1",
    "train.precision=bf16",
    "train.checkpoint_steps=200",
    "train.keep_checkpoints=2",
    "train.max_steps=10000",
    "train.eval_steps=10000",
    "train.eval_clips=60",
    "train.log_steps=20",
    "train.tensorboard=false",
]
TASKS = "data.tasks={asr: 2.0, asr+gender: 3.0, gender: 1.0, style: 1.0}"


def make_data(crawl: Path, out: Path) -> None:
    """Cut the English segments into FLAC tars and write a hand-off of them."""
    out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    tars = {split: tarfile.open(out / f"{split}.tar", "w") for split in rows}  # noqa: SIM115
    clips = dict.fromkeys(DOMAINS, 0)
    sums, texts = MelSums(), []
    for line in (crawl / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        recording = json.loads(line)
        if recording["domain"] not in DOMAINS:
            continue
        with open(crawl / recording["path"], "rb") as file:
            pcm = decode(file, (0, None)).pcm
        for number, segment in enumerate(recording["segments"]):
            drink = (segment.get("class") or {}).get("slots", {}).get("coffeeDrink")
            # Some sets are in capitals, which a language model reads as other, longer words.
            text = " ".join(re.findall(r"[a-z']+", segment.get("text", "").lower()))
            if not text and not drink:
                continue
            piece = pcm[round(segment["start_s"] * RATE) : round(segment["end_s"] * RATE)]
            key = f"{recording['recording_id']}-{number}"
            lot = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 20
            split = "test" if lot < 2 else "dev" if lot == 2 else "train"
            written = io.BytesIO()
            soundfile.write(written, piece, RATE, format="FLAC", subtype="PCM_16")
            info = tarfile.TarInfo(f"{key.replace('/', '_').replace('.', '_')}.flac")
            info.size = len(written.getvalue())
            tars[split].addfile(info, io.BytesIO(written.getvalue()))
            # From behind: a name beyond ASCII has more than one block of header.
            offset = tars[split].offset - -(-info.size // 512) * 512
            rows[split].append(
                Row(
                    clip_id=key,
                    shard=str(out.absolute() / f"{split}.tar"),
                    offset=offset,
                    size=info.size,
                    frames=feature_frames(len(piece)),
                    label_tokens=len(text.split()),
                    label=text,
                    domain=recording["domain"],
                    language="en",
                    recording_id=key,
                    speaker=segment.get("speaker"),
                    gender=segment.get("gender"),
                    age=segment.get("age"),
                    style=drink,
                )
            )
            if split == "train":
                clips[recording["domain"]] += 1
                sums, texts = sums.add(filterbank(piece)), [*texts, text]
    for split, tar in tars.items():
        tar.close()
        write_index(out / f"{split}.arrow", rows[split])
    mean, istd = sums.cmvn()
    cmvn = {"frames": sums.frames, "mean": np.asarray(mean).tolist(), "istd": np.asarray(istd).tolist()}
    (out / "cmvn.json").write_text(json.dumps(cmvn))
    Tokenizer.train([text for text in texts if text], Scheme(), bpe_size=100).save(out / "tokenizer")
    record = HandoffRecord(
        seed=0,
        splits={split: Split(index=f"{split}.arrow", clips=len(made)) for split, made in rows.items()},
        domains={domain: Domain(clips=count) for domain, count in clips.items()},
        attributes={},
    )
    (out / "handoff.json").write_text(record.to_json())
    for split, made in rows.items():
        print(f"{split}: {len(made)} clips, {sum(row.frames for row in made) / 6_000:.1f} min")


def train(data: str, whisper: str, llm: str, run: str, minutes: str, *more: str) -> None:
    """Go on with a training for so many minutes."""
    from model_training.osum.settings import load
    from model_training.osum.train import train as train_osum

    parts = [f"model.encoder.source={whisper}", f"model.llm.source={llm}", f"train.max_minutes={minutes}"]
    done = train_osum(data, run, load(None, [*SETTINGS, TASKS, *parts, *more]))
    print(f"step {done.step}, finished: {done.finished}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["data", crawl, out]:
            make_data(Path(crawl), Path(out))
        case ["train", data, whisper, llm, run, minutes, *more]:
            train(data, whisper, llm, run, minutes, *more)
        case _:
            sys.exit(__doc__)
