"""How much of what the recognisers compute is padding, and what identifying the language of every clip costs.

    ../shared/data ──unpack, decode, VAD, cut──> clip lengths of real units ─┐
    seeded draws: merged to 30 s, short commands, uniform ───────────────────┴─> batches of each policy ──> Markdown
    tables
    random Whisper of the base size ──> seconds to encode, to identify languages, to decode

    python -m benchmarks.batching                 all tables, about two minutes on one core
    python -m benchmarks.batching --minutes 30    more of each domain of the crawl
    python -m benchmarks.batching --no-engine     arithmetic only

Three kinds of waste, kept apart. The copilot pads a batch to its longest clip: padded over true seconds less 1.
Whisper's encoder always computes windows of 30 s: its use is true seconds over 30 s per clip, and no batching changes
it, only how clips are cut. Whisper's decoder runs a batch until its longest transcript ends: with transcripts as long
as their clips, the idle share of its slots.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from operators.asr.funasr import plan_batches
from operators.clip import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
UNIT_SECONDS = 1800.0
BATCH_SECONDS, BATCH_CLIPS = 300.0, 16  # the defaults of FunAsr and of WhisperX

Plan = Callable[[list[int]], list[list[int]]]


def by_count(lengths: list[int], clips: int, *, by_length: bool) -> list[list[int]]:
    """Batches of a fixed number of clips, as they come or the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i]) if by_length else list(range(len(lengths)))
    return [order[start : start + clips] for start in range(0, len(order), clips)]


def by_seconds(lengths: list[int], *, by_length: bool) -> list[list[int]]:
    """Batches filled up to a bound on padded seconds and no other rule: FunASR's own dynamic batches."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i]) if by_length else list(range(len(lengths)))
    batches: list[list[int]] = []
    for index in order:
        grown = [*batches[-1], index] if batches else [index]
        if batches and max(lengths[i] for i in grown) * len(grown) <= BATCH_SECONDS * SAMPLE_RATE:
            batches[-1] = grown
        else:
            batches.append([index])
    return batches


COPILOT_PLANS: dict[str, Plan] = {
    "as they come, 16 clips": lambda lengths: by_count(lengths, 16, by_length=False),
    "as they come, 300 s": lambda lengths: by_seconds(lengths, by_length=False),
    "longest first, 16 clips": lambda lengths: by_count(lengths, 16, by_length=True),
    "longest first, 300 s": lambda lengths: by_seconds(lengths, by_length=True),
    "ours": lambda lengths: plan_batches(lengths, int(BATCH_SECONDS * SAMPLE_RATE)),
}


def padding(units: list[list[int]], plan: Plan) -> tuple[float, float]:
    """(padded over true samples less 1, seconds of audio per batch) over all units, each batched by itself."""
    padded = true = batches = 0
    for lengths in units:
        for batch in plan(lengths):
            padded += max(lengths[i] for i in batch) * len(batch)
            true += sum(lengths[i] for i in batch)
            batches += 1
    return padded / true - 1, true / batches / SAMPLE_RATE


def crawl_units(minutes: float) -> Iterator[tuple[str, list[list[int]]]]:
    """(domain, clip lengths per unit) of the real crawl, found by the pipeline's default VAD and cut."""
    from operators.audio.decode import decode
    from operators.speech.segments import CutSettings, cut
    from operators.speech.vad import load_vad

    vad = load_vad("pyannote")
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([str(SHARED / "data" / "unpack.sh"), scratch], check=True, stdout=subprocess.DEVNULL)
        crawl = Path(scratch) / "crawl"
        for domain in sorted(folder for folder in crawl.iterdir() if folder.is_dir() and folder.name != "broken"):
            units: list[list[int]] = [[]]
            heard = filled = 0.0
            for path in sorted(file for file in domain.iterdir() if file.is_file()):
                if heard >= minutes * 60:
                    break
                pcm = decode(str(path)).pcm
                seconds = len(pcm) / SAMPLE_RATE
                if filled and filled + seconds > UNIT_SECONDS:
                    units.append([])
                    filled = 0.0
                heard, filled = heard + seconds, filled + seconds
                units[-1] += [span.samples for span, _ in cut(vad.speech(pcm), pcm, CutSettings()).clips]
            if any(units):
                yield domain.name, [unit for unit in units if unit]


def drawn_units() -> Iterator[tuple[str, list[list[int]]]]:
    """(name, clip lengths per unit) of made-up domains, eight units of 30 minutes each, seeded."""
    shapes = {
        "drawn: merged up to 30 s": lambda rng: 30 - min(28.0, rng.exponential(4)),
        "drawn: short commands": lambda rng: 2 + min(28.0, rng.exponential(1)),
        "drawn: uniform 2-30 s": lambda rng: rng.uniform(2, 30),
    }
    for name, draw in shapes.items():
        rng = np.random.default_rng(0)
        units: list[list[int]] = []
        for _ in range(8):
            unit: list[int] = []
            while sum(unit) < UNIT_SECONDS * SAMPLE_RATE:
                unit.append(int(draw(rng) * SAMPLE_RATE))
            units.append(unit)
        yield name, units


def print_tables(domains: list[tuple[str, list[list[int]]]]) -> None:
    print("\nCopilot: padded over true seconds less 1, and seconds of audio per batch\n")
    print("| clips of | " + " | ".join(COPILOT_PLANS) + " |")
    print("|---|" + "--:|" * len(COPILOT_PLANS))
    crawl = [unit for name, units in domains if not name.startswith("drawn") for unit in units]
    everything = [("all of the crawl", crawl)] if crawl else []
    for name, units in domains + everything:
        cells = (padding(units, plan) for plan in COPILOT_PLANS.values())
        print(f"| {name} | " + " | ".join(f"{waste:.1%}, {seconds:.0f} s" for waste, seconds in cells) + " |")

    print(f"\nASR, {BATCH_CLIPS} clips a batch: use of the encoder's 30 s windows, and idle decoder slots\n")
    print(
        "| clips of | clips | mean seconds | encoder windows in use | decoder idle, as they come | decoder idle, ours |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name, units in domains + everything:
        lengths = [length for unit in units for length in unit]
        idle = []
        for by_length in (False, True):
            waste, _ = padding(units, functools.partial(by_count, clips=BATCH_CLIPS, by_length=by_length))
            idle.append(waste / (1 + waste))
        mean = sum(lengths) / len(lengths) / SAMPLE_RATE
        print(f"| {name} | {len(lengths)} | {mean:.1f} | {mean / 30:.1%} | {idle[0]:.1%} | {idle[1]:.1%} |")


def print_language_cost() -> None:
    """Time the three steps of one ASR batch on a random Whisper of the base size, in int8 on one thread."""
    import torch
    from whisperx.asr import WhisperModel
    from whisperx.audio import log_mel_spectrogram

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("make", ROOT / "examples" / "random_engines" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make.make_whisper(Path(scratch) / "base", width=512, layers=6, heads=8)
        whisper = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(int(rng.uniform(2, 30) * SAMPLE_RATE)).astype(np.float32) * 0.1 for _ in range(8)]
    seconds: dict[str, float] = {}

    def timed(step: str, call: Callable[[], object]) -> object:
        started = time.perf_counter()
        answer = call()
        seconds[step] = time.perf_counter() - started
        return answer

    mels = timed("mel", lambda: torch.stack([log_mel_spectrogram(c, 80, padding=480_000 - len(c)) for c in clips]))
    whisper.encode(mels[:1])  # CTranslate2 packs weights on the first call
    encoded = timed("encode", lambda: whisper.encode(mels))
    timed("identify languages", lambda: whisper.model.detect_language(encoded))
    prompt = [
        whisper.hf_tokenizer.token_to_id(f"<|{t}|>") for t in ("startoftranscript", "zh", "transcribe", "notimestamps")
    ]
    results = timed("decode, beam 5", lambda: whisper.model.generate(encoded, [prompt] * len(clips), beam_size=5))
    tokens = sum(len(result.sequences_ids[0]) for result in results) / len(clips)
    print(
        f"\nOne batch of {len(clips)} clips, random Whisper of the base size, int8, one thread, {tokens:.0f} "
        "tokens a clip\n"
    )
    print("| step | seconds | share |\n|---|--:|--:|")
    for step, value in seconds.items():
        print(f"| {step} | {value:.2f} | {value / sum(seconds.values()):.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Padding of the recognisers' batches, and the cost of language per clip."
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of each domain of the crawl")
    parser.add_argument("--no-engine", action="store_true", help="skip the timing of a random Whisper")
    options = parser.parse_args()
    domains = list(drawn_units())
    if (SHARED / "data" / "unpack.sh").exists():
        domains += crawl_units(options.minutes)
    else:
        print("no ../shared/data beside the project: made-up lengths only")
    print_tables(domains)
    if not options.no_engine:
        print_language_cost()


if __name__ == "__main__":
    main()
