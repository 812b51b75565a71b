"""The crawl and its truth, for benchmarks: recordings with true spans, overlap of span lists, Markdown tables.

    ../shared/data ──unpack.sh──> crawl/ ──decode, truth.jsonl──> list[Sample]

Truth spans are whole source clips, natural silence at their edges included, except in words, cantonese, commands and
sounds, whose clips were trimmed: elsewhere recall counts edge silence as missed speech. "Tight" is the same truth with
each span's edges moved in to the first and last 30 ms that are loud for that span (within 30 dB of its 95th percentile
and a third of the way up from its 5th), so that what a tight recall misses is sound. The meeting domain's truth is
turns that overlap and may be very faint. Sounds hold no speech.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from operators.audio.decode import decode
from operators.clip import SAMPLE_RATE, Span


@dataclass(frozen=True, slots=True)
class Sample:
    """One recording with its truth: spans in order, and how many words or Han characters each holds (0: no text)."""

    name: str
    domain: str
    pcm: np.ndarray
    segments: list[Span]
    tight: list[Span]
    tokens: list[int]

    @property
    def truth(self) -> list[Span]:
        """Speech as disjoint spans; none in sounds."""
        return [] if self.domain == "sounds" else union(self.segments)

    @property
    def tight_truth(self) -> list[Span]:
        return [] if self.domain == "sounds" else union(self.tight)


def union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def samples_of(spans: Iterable[Span]) -> int:
    return sum(span.samples for span in spans)


def common(left: list[Span], right: list[Span]) -> int:
    """Samples in both of two ordered, disjoint lists."""
    shared = i = j = 0
    while i < len(left) and j < len(right):
        overlap = left[i] & right[j]
        shared += overlap.samples if overlap else 0
        if left[i].end < right[j].end:
            i += 1
        else:
            j += 1
    return shared


def level_db(pcm: np.ndarray, frame: int = SAMPLE_RATE * 30 // 1000) -> np.ndarray:
    """Level of every whole 30 ms."""
    frames = pcm[: len(pcm) // frame * frame].astype(np.float64).reshape(-1, frame)
    return 10 * np.log10(np.maximum(frames.var(axis=1), 1e-3))


def tighten(pcm: np.ndarray, span: Span) -> Span:
    """`span` without the quiet at its edges, where quiet is relative to the span's own speech and noise."""
    frame = SAMPLE_RATE * 30 // 1000
    level = level_db(pcm[span.start : span.end])
    if len(level) == 0:
        return span
    noise, speech = np.percentile(level, (5, 95))
    loud = np.flatnonzero(level >= max(speech - 30, noise + (speech - noise) / 3))
    return Span(span.start + int(loud[0]) * frame, span.start + int(loud[-1] + 1) * frame)


def load_crawl(crawl: Path, minutes: float) -> list[Sample]:
    """Of every domain, the first two minutes or so of recordings in a seeded order, until `minutes` are reached.

    A start of a recording ends between two segments, so no truth is cut by the sampling.
    """
    by_domain: dict[str, list[dict]] = defaultdict(list)
    for line in (crawl / "truth.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        by_domain[record["domain"]].append(record)
    chosen: list[Sample] = []
    for domain, records in by_domain.items():
        random.Random(f"vad {domain}").shuffle(records)
        seconds = 0.0
        for record in records:
            if seconds >= minutes * 60:
                break
            pcm = decode(str(crawl / record["path"])).pcm
            segments = sorted(record["segments"], key=lambda s: (s["start_s"], s["end_s"]))
            if minutes < 1000:
                pcm = pcm[: _end_of_start(segments, len(pcm))]
            seconds += len(pcm) / SAMPLE_RATE
            spans, tokens = [], []
            for segment in segments:
                start, end = (round(segment[key] * SAMPLE_RATE) for key in ("start_s", "end_s"))
                if start < len(pcm):
                    spans.append(Span(start, min(end, len(pcm))))
                    text = segment.get("text", "")
                    tokens.append(sum("\u3400" <= c <= "\u9fff" for c in text) or len(text.split()))
            tight = [tighten(pcm, span) for span in spans]
            chosen.append(Sample(record["recording_id"], domain, pcm, spans, tight, tokens))
    return chosen


def _end_of_start(segments: list[dict], total: int, seconds: float = 120.0) -> int:
    """The first sample after `seconds` where no segment is running."""
    at = seconds
    for segment in segments:
        if segment["start_s"] < at < segment["end_s"]:
            at = segment["end_s"]
    return min(total, round(at * SAMPLE_RATE))


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n\n| " + " | ".join(columns) + " |")
    print("|" + "|".join("--" if i == 0 else "--:" for i in range(len(columns))) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
