"""Voice activity against the truth of the crawl: speed, recall, purity, and how to join speech into clips.

    list[Sample] ──each engine and step──> scores ──hysteresis──> speech ──cut──> clips ──compare with truth──> tables

    python -m benchmarks.vad                      all tables on about 7 minutes of every domain: five minutes on one
    core python -m benchmarks.vad --minutes 1e9        the whole crawl
    python -m benchmarks.vad --engines pyannote-2.5,silero --study thresholds,joining

What truth, recall and "tight" mean: benchmarks/truth.py. Purity is the share of what was taken that lies in true spans.
Sounds hold no speech: whatever is kept of them is a false acceptance.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.truth import Sample, common, level_db, load_crawl, samples_of, share, table
from operators.clip import SAMPLE_RATE, Span
from operators.speech.segments import CutSettings, Cutting, cut
from operators.speech.vad import FsmnVad, PyannoteVad, Scores, SileroVad, Thresholds, VoiceActivity, hysteresis

SHARED = Path(__file__).resolve().parents[2] / "shared"


@dataclass(slots=True)
class Tally:
    """Sums over recordings, in samples unless the name says otherwise."""

    total: int = 0
    truth: int = 0
    speech: int = 0
    speech_true: int = 0
    clip: int = 0
    clip_true: int = 0
    clip_speech: int = 0
    tight: int = 0
    speech_tight: int = 0
    clip_tight: int = 0
    too_short_true: int = 0
    segments: int = 0
    segments_split: int = 0
    segments_cut: int = 0
    segments_lost: int = 0
    lengths: list[float] | None = None

    def add(self, sample: Sample, speech: list[Span], cutting: Cutting) -> None:
        clips = [span for span, _ in cutting.clips]
        self.total += len(sample.pcm)
        self.truth += samples_of(sample.truth)
        self.speech += samples_of(speech)
        self.speech_true += common(speech, sample.truth)
        self.clip += samples_of(clips)
        self.clip_true += common(clips, sample.truth)
        self.tight += samples_of(sample.tight_truth)
        self.speech_tight += common(speech, sample.tight_truth)
        self.clip_tight += common(clips, sample.tight_truth)
        self.clip_speech += sum(count for _, count in cutting.clips)
        self.too_short_true += common([span for span, _ in cutting.too_short], sample.truth)
        self.lengths = (self.lengths or []) + [span.seconds for span in clips]
        if sample.domain == "sounds":
            return
        edges = np.array(sorted({edge for span in clips for edge in (span.start, span.end)}), np.int64)
        near = SAMPLE_RATE // 20
        for segment in sample.tight:
            self.segments += 1
            self.segments_split += sum((segment & clip or Span(0, 0)).samples > near for clip in clips) > 1
            self.segments_lost += common([segment], clips) * 2 < segment.samples
            first, last = np.searchsorted(edges, [segment.start + near, segment.end - near])
            if last > first:
                noise, loud = np.percentile(level_db(sample.pcm[segment.start : segment.end]), (5, 95))
                around = [level_db(sample.pcm[edge - near : edge + near], 2 * near)[0] for edge in edges[first:last]]
                self.segments_cut += max(around) > (noise + loud) / 2


# --- engines ----------------------------------------------------------------------------------------------------------


def engines() -> dict[str, Callable[[], VoiceActivity]]:
    found: dict[str, Callable[[], VoiceActivity]] = {
        f"pyannote-{step:g}": lambda step=step: PyannoteVad(step=step) for step in (0.5, 1.0, 2.5, 5.0)
    }
    found["silero"] = SileroVad
    if (SHARED / "models" / "fsmn-vad").is_dir():
        found["fsmn"] = lambda: FsmnVad(SHARED / "models" / "fsmn-vad")
    return found


def agreement(one: Tally) -> list[str]:
    """Recall, tight recall and purity of speech, and the same of clips, in percent."""
    return [
        share(one.speech_true, one.truth),
        share(one.speech_tight, one.tight),
        share(one.speech_true, one.speech),
        share(one.clip_true, one.truth),
        share(one.clip_tight, one.tight),
        share(one.clip_true, one.clip),
    ]


def thresholds_of(name: str) -> Thresholds:
    """The defaults that the engine was built with, without building it."""
    engine = {"pyannote": PyannoteVad, "silero": SileroVad, "fsmn": FsmnVad}[name.split("-")[0]]
    defaults = {key: p.default for key, p in signature(engine).parameters.items()}
    return Thresholds(**{key: defaults[key] for key in Thresholds.__slots__})


def measure(crawl: list[Sample], build: Callable[[], VoiceActivity]) -> tuple[list[Scores], float]:
    """Scores of every recording, and CPU seconds of this process: fair also where cores are shared."""
    engine = build()
    engine.scores(crawl[0].pcm[: 10 * SAMPLE_RATE])
    began = time.process_time()
    return [engine.scores(sample.pcm) for sample in crawl], time.process_time() - began


def tally(
    crawl: list[Sample], scores: list[Scores], thresholds: Thresholds, settings: CutSettings
) -> tuple[dict[str, Tally], list[Cutting]]:
    tallies: dict[str, Tally] = defaultdict(Tally)
    cuttings = []
    for sample, score in zip(crawl, scores, strict=True):
        speech = hysteresis(score, len(sample.pcm), thresholds)
        cuttings.append(cut(speech, sample.pcm, settings))
        tallies[sample.domain].add(sample, speech, cuttings[-1])
    return tallies, cuttings


def pooled(tallies: dict[str, Tally], leave_out: tuple[str, ...] = ("sounds",)) -> Tally:
    total = Tally(lengths=[])
    for domain, one in tallies.items():
        if domain not in leave_out:
            for field in Tally.__slots__:
                setattr(total, field, getattr(total, field) + (getattr(one, field) or type(getattr(total, field))()))
    return total


def report_engines(crawl: list[Sample], names: list[str], settings: CutSettings) -> dict[str, list[Scores]]:
    seconds = sum(len(sample.pcm) for sample in crawl) / SAMPLE_RATE
    kept: dict[str, list[Scores]] = {}
    speed_rows, domain_rows = [], []
    for name in names:
        scores, cpu = measure(crawl, engines()[name])
        kept[name] = scores
        tallies, _ = tally(crawl, scores, thresholds_of(name), settings)
        every, sounds = pooled(tallies), tallies.get("sounds", Tally())
        speed_rows.append(
            [
                name,
                f"{seconds / cpu:.0f}",
                *agreement(every),
                share(every.segments_split, every.segments),
                share(every.segments_cut, every.segments),
                share(every.segments_lost, every.segments),
                share(sounds.speech, sounds.total),
                share(sounds.clip, sounds.total),
            ]
        )
        for domain, one in tallies.items():
            if domain != "sounds" and name not in ("pyannote-1", "pyannote-5"):
                lengths = one.lengths or [0.0]
                domain_rows.append(
                    [
                        domain,
                        name,
                        *agreement(one),
                        share(one.clip - one.clip_speech, one.clip),
                        share(one.too_short_true, one.truth),
                        share(one.segments_split, one.segments),
                        share(one.segments_cut, one.segments),
                        " / ".join(f"{q:.1f}" for q in np.percentile(lengths, (10, 50, 90))),
                    ]
                )
    measured = ["recall", "tight", "purity", "clips: recall", "tight", "purity"]
    columns = ["engine", "x real time, 1 core", *measured, "segments split", "in sound", "lost"]
    table(
        "Engines, all domains but sounds (%)",
        [*columns, "sounds taken", "sounds in clips"],
        speed_rows,
    )
    columns = ["domain", "engine", *measured, "pause in clips", "too short"]
    domain_rows.sort(key=lambda row: row[0])
    table("Per domain (%)", [*columns, "split", "in sound", "clip s p10 / p50 / p90"], domain_rows)
    return kept


def report_thresholds(crawl: list[Sample], scores: dict[str, list[Scores]], settings: CutSettings) -> None:
    rows = []
    for name, found in scores.items():
        default = thresholds_of(name)
        pairs = {
            (default.onset, default.offset),
            (0.2, 0.1),
            (0.3, 0.2),
            (0.4, 0.25),
            (0.5, 0.363),
            (0.5, 0.2),
            (0.6, 0.4),
            (0.7, 0.5),
        }
        for onset, offset in sorted(pairs):
            tallies, _ = tally(crawl, found, replace(default, onset=onset, offset=offset), settings)
            every, sounds = pooled(tallies), tallies.get("sounds", Tally())
            low = min((100 * one.clip_tight / one.tight, domain) for domain, one in tallies.items() if one.truth)
            rows.append(
                [
                    f"{name} {onset:g} / {offset:g}"
                    + (" *" if (onset, offset) == (default.onset, default.offset) else ""),
                    share(every.speech_true, every.truth),
                    share(every.speech_tight, every.tight),
                    share(every.speech_true, every.speech),
                    share(every.clip_true, every.truth),
                    share(every.clip_tight, every.tight),
                    share(every.clip_true, every.clip),
                    f"{low[0]:.1f} ({low[1]})",
                    share(every.segments_cut, every.segments),
                    share(sounds.clip, sounds.total),
                ]
            )
    table(
        "Thresholds (onset / offset, * default; %)",
        [
            "engine",
            "recall",
            "tight",
            "purity",
            "clips: recall",
            "tight",
            "purity",
            "worst domain, tight",
            "cut in sound",
            "sounds",
        ],
        rows,
    )


# --- joining ----------------------------------------------------------------------------------------------------------


def draw_errors(crawl: list[Sample], bursts: bool) -> list[list[int]]:
    """Wrong tokens per true segment. Even: every token 2 %. Bursts: 5 % of segments 40 %, the rest 0.5 % (2.5 % in
    all).
    """
    rng = np.random.default_rng(20)
    return [
        [
            int(rng.binomial(count, (0.4 if rng.random() < 0.05 else 0.005) if bursts else 0.02))
            for count in sample.tokens
        ]
        for sample in crawl
    ]


def rover(crawl: list[Sample], cuttings: list[Cutting], errors: list[list[int]]) -> tuple[float, float]:
    """Share of true tokens in clips that Rover would keep (10 % of tokens wrong at most), and share of those wrong."""
    total = kept = wrong = 0
    for sample, cutting, bad in zip(crawl, cuttings, errors, strict=True):
        counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        starts = [span.start for span, _ in cutting.clips]
        for segment, tokens, errored in zip(sample.segments, sample.tokens, bad, strict=True):
            total += tokens
            middle = (segment.start + segment.end) // 2
            index = int(np.searchsorted(starts, middle, side="right")) - 1
            if index >= 0 and middle < cutting.clips[index][0].end:
                counts[index][0] += tokens
                counts[index][1] += errored
        for tokens, errored in counts.values():
            if errored <= 0.1 * tokens:
                kept += tokens
                wrong += errored
    return kept / max(total, 1), wrong / max(kept, 1)


def report_joining(crawl: list[Sample], scores: list[Scores], thresholds: Thresholds, settings: CutSettings) -> None:
    even, bursts = draw_errors(crawl, False), draw_errors(crawl, True)
    grid = [
        replace(
            settings,
            target_seconds=target,
            max_gap_seconds=gap,
            rescue_gap_seconds=max(gap, settings.rescue_gap_seconds),
        )
        for target in (10.0, 20.0, 30.0)
        for gap in (0.3, 0.8, 1.2, 2.0)
    ]
    grid += [replace(settings, rescue_gap_seconds=rescue) for rescue in (0.8, 1.2, 2.5, 3.0)]
    grid += [replace(settings, pad_seconds=pad) for pad in (0.0, 0.1, 0.3, 0.4)]
    rows = []
    for one in [settings, *(s for s in grid if s != settings)]:
        tallies, cuttings = tally(crawl, scores, thresholds, one)
        every = pooled(tallies)
        lengths = every.lengths or [0.0]
        retained = [rover(crawl, cuttings, errors) for errors in (even, bursts)]
        name = f"{one.target_seconds:g} / {one.max_gap_seconds:g} / {one.rescue_gap_seconds:g} / {one.pad_seconds:g}"
        rows.append(
            [
                name + (" *" if one == settings else ""),
                f"{len(lengths) / (every.clip_true / SAMPLE_RATE / 3600):.0f}",
                f"{np.mean(lengths):.1f}",
                share(every.clip_tight, every.tight),
                share(every.clip_true, every.clip),
                share(every.clip - every.clip_speech, every.clip),
                share(every.too_short_true, every.truth),
                share(every.segments_split, every.segments),
                share(every.segments_cut, every.segments),
                *(f"{100 * kept:.1f} ({100 * wrong:.2f})" for kept, wrong in retained),
            ]
        )
    columns = [
        "target / gap / rescue / pad",
        "windows per speech hour",
        "mean clip s",
        "tight recall",
        "purity",
        "pause",
    ]
    table(
        "Joining, default engine, all domains but sounds (* default; %)",
        [*columns, "too short", "split", "in sound", "kept, even errors (label noise)", "kept, bursts (label noise)"],
        rows,
    )


def report_threads(crawl: list[Sample]) -> None:
    import torch

    engine, pcm = PyannoteVad(), crawl[0].pcm
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append((engine.scores(pcm).values, engine.speech(pcm)))
    torch.set_num_threads(1)
    difference = float(np.abs(found[0][0] - found[1][0]).max())
    print(
        f"\npyannote with 1 and 2 threads: scores differ by at most {difference:.1e}, same spans: "
        f"{found[0][1] == found[1][1]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="VAD engines and clip joining against the crawl's truth")
    parser.add_argument(
        "--crawl", type=Path, help="an unpacked crawl; default: unpack ../shared/data into a temporary folder"
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="audio per domain (default 7)")
    parser.add_argument("--engines", default="all", help=f"comma-separated of {', '.join(engines())} (default all)")
    parser.add_argument("--study", default="thresholds,joining,threads", help="comma-separated, empty for none")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        crawl_dir = options.crawl or Path(folder) / "crawl"
        if not options.crawl:
            subprocess.run([str(SHARED / "data" / "unpack.sh"), folder], check=True, stdout=subprocess.DEVNULL)
        crawl = load_crawl(crawl_dir, options.minutes)
    hours = sum(len(sample.pcm) for sample in crawl) / SAMPLE_RATE / 3600
    print(f"{len(crawl)} recordings, {hours:.2f} h, about {options.minutes:g} minutes a domain")
    names = list(engines()) if options.engines == "all" else options.engines.split(",")
    settings = CutSettings()
    scores = report_engines(crawl, names, settings)
    default = f"pyannote-{PyannoteVad.__init__.__kwdefaults__['step']:g}"
    if "thresholds" in options.study:
        report_thresholds(
            crawl, {name: s for name, s in scores.items() if name in (default, "silero", "fsmn")}, settings
        )
    if "joining" in options.study and default in scores:
        report_joining(crawl, scores[default], thresholds_of(default), settings)
    if "threads" in options.study:
        report_threads(crawl)


if __name__ == "__main__":
    main()
