"""What a stream costs and how well it hears, by the size of its chunks, on real audio with a tiny model on a CPU.

    python -m benchmarks.streaming WORK --crawl CRAWL --init CKPT [--steps 600]      begun with a causal model
    python -m benchmarks.streaming WORK --crawl CRAWL [--minutes 8]                  from nothing

CRAWL and the clips that are made of it are those of benchmarks.elastic, the last fifth of every domain held out. One
model is trained by chunks; a run that reached --minutes goes on with the same command. Its export hears the held-out
clips chunk by chunk, as recognize --stream does, and whole.

    clips ──dynamic chunks──> one model ──export──> greedy CTC by chunk: errors in characters, compute of a chunk
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import reduce
from pathlib import Path

import numpy as np

from benchmarks.real_audio import DOMAINS, a_checkpoint, a_crawl, prepare, small_settings, train
from benchmarks.warm_start import sizes_of
from model_training.data.index import Index
from model_training.decoding.recognize import Recognizer
from model_training.decoding.search import SearchSettings
from model_training.decoding.streaming import StreamingRecognizer, StreamSettings
from model_training.evaluation.metrics import ErrorRate, reference_tokens
from model_training.export.export import export
from model_training.text.tokenizer import Tokenizer
from model_training.training.choosing import open_chosen
from operators.audio.decode import decode
from operators.index import Row

CHUNKS = ((4, None), (8, None), (16, None), (32, None), (16, 4))


def text_of(recognizer: StreamingRecognizer, pcm: np.ndarray, settings: StreamSettings) -> str:
    heard = recognizer.stream([pcm], settings, SearchSettings(method="ctc_greedy"))
    return " ".join(one.recognition.text for one in heard if one.final)


def errors(rows: list[Row], texts: list[str]) -> str:
    """Return the rate of wrong characters in percent, with its interval over recordings (or speakers)."""
    counts: dict[str, ErrorRate] = defaultdict(ErrorRate)
    for row, text in zip(rows, texts, strict=True):
        reference, heard = (list("".join(reference_tokens(one, row.language))) for one in (row.label, text))
        whose = row.speaker or row.recording_id or row.clip_id
        counts[whose] = counts[whose].plus(ErrorRate.of(reference, heard))
    found = reduce(ErrorRate.plus, (one.as_one() for one in counts.values()), ErrorRate())
    low, high = found.interval or (0.0, 0.0)
    return f"{found.percent:.2f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--crawl", type=a_crawl, required=True)
    parser.add_argument(
        "--init", type=a_checkpoint, metavar="CKPT", help="what the training begins from (default: nothing)"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=0.0, help="of one call's training; 0: to its end")
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--size", type=int, default=15, help="routed experts")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    known = Tokenizer.load(open_chosen(options.init).path) if options.init else None
    handoff = prepare(options.crawl, options.work, DOMAINS["elastic"], known=known)
    run = options.work / "streaming"
    by_chunks = [*sizes_of(options.init), f"train.init_from={options.init}"] if options.init else []
    by_chunks += ["model.causal=true", "model.dynamic_chunks=true", "train.precision=bf16", "train.seed=0"]
    by_chunks += small_settings(options.steps, options.rate, "bf16")
    train(handoff, {run: [*by_chunks, f"train.max_minutes={options.minutes}"]}, options)
    (done,) = export(run, options.size, "onnx", options.work / "streaming-onnx", measure=False)
    index = Index.open(str(handoff / "test.arrow"))
    rows = [row for row in map(index.row, range(len(index))) if row.label]
    audio = [decode(row.shard).pcm for row in rows]
    whole = Recognizer(done.folder, threads=1).recognize(audio, method="ctc_greedy")
    print(f"{len(rows)} clips, N={options.size}, greedy CTC\n")
    print("| chunk, frames of 40 ms | looks back | characters wrong, % | compute of a chunk, ms | 95th percentile |")
    print("|--:|---|--:|--:|--:|")
    for chunk, left in CHUNKS:
        recognizer = StreamingRecognizer(done.folder, threads=1)
        settings = StreamSettings(chunk=chunk, left=left, pause_seconds=0)
        wrong = errors(rows, [text_of(recognizer, pcm, settings) for pcm in audio])
        took = 1000 * np.array(recognizer.chunk_seconds)
        back = "all" if left is None else f"{left} chunks"
        print(f"| {chunk} | {back} | {wrong} | {took.mean():.1f} | {np.percentile(took, 95):.1f} |", flush=True)
    print(f"| whole | all | {errors(rows, [one.text for one in whole])} | | |", flush=True)


if __name__ == "__main__":
    main()
