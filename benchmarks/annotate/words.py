"""Word times against the truth: how far aligners are off, and what agreement of two removes.

    recordings ──neighbouring segments──> clips of up to 20 s ──aligners──> Word ... ──agreed_words──> kept
    truth: an utterance's first word begins, and its last word ends, where the utterance does

    python -m benchmarks.annotate.words                              pocketsphinx alone
    python -m benchmarks.annotate.words --own EXPORTED               with a second opinion

Edges of the truth are those of sound (`tighten`), in `words` of the trimmed clips themselves. In noise sound has no
edge, so there a word is wrong where it lies more than 0.2 s outside of its own utterance, which is known exactly, or,
first and last of an utterance, more than 0.2 s away from the edge of speech as Silero hears it in the utterance.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.annotate.crawl import add_crawl, crawl_folder, records, segments
from benchmarks.targets import show_targets
from benchmarks.truth import share, table, tighten
from operators.align.aligners import PocketsphinxAligner
from operators.annotate.annotator import Heard
from operators.annotate.words import agreed_words, shifts, words_of
from operators.audio.decode import decode
from operators.clip import SAMPLE_RATE, Span, Word
from operators.resampling import Estimate, estimate, ratio, redraws
from operators.speech.vad import SileroVad
from operators.text.spoken import Normaliser

MOST_SECONDS = 20
NOISY = "audiobook under sounds"
WRONG = round(0.2 * SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class Utterance:
    """An utterance of a clip: how many words it has, and where it lies."""

    words: int
    span: Span
    """as the truth has it, in samples of the clip"""
    edges: Span
    """of its sound"""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """A clip of neighbouring utterances."""

    heard: Heard
    utterances: list[Utterance]

    def words(self) -> Iterator[tuple[Utterance, bool, bool]]:
        """Yield the utterance of every word, and whether it is the first and the last of it."""
        for utterance in self.utterances:
            for place in range(utterance.words):
                yield utterance, place == 0, place == utterance.words - 1


def joined(crawl: Path, domain: str, language: str, most: int) -> Iterator[Joined]:
    """Yield clips of a domain: neighbouring segments in one language, as many as fit."""
    vad, spoken, made = SileroVad(), Normaliser(), 0
    for record in records(crawl, domain):
        if record["language"] != language:
            continue
        audio = decode(str(crawl / record["path"])).pcm
        segments = [each for each in record["segments"] if each.get("text")]
        while segments and made < most:
            first = max(0, round((segments[0]["start_s"] - 0.3) * SAMPLE_RATE))
            chosen = [each for each in segments if each["end_s"] * SAMPLE_RATE - first < MOST_SECONDS * SAMPLE_RATE]
            segments = segments[max(1, len(chosen)) :]
            last = min(len(audio), round((chosen[-1]["end_s"] + 0.3) * SAMPLE_RATE)) if chosen else 0
            if not chosen:
                continue
            texts = [spoken.spoken(each["text"], language) for each in chosen]
            pcm, utterances = audio[first:last], []
            for each, text in zip(chosen, texts, strict=True):
                span = Span(round(each["start_s"] * SAMPLE_RATE) - first, round(each["end_s"] * SAMPLE_RATE) - first)
                utterances.append(Utterance(len(words_of(text)), span, _edges(domain, pcm, span, vad)))
            made += 1
            yield Joined(Heard(pcm=pcm, text=" ".join(texts), language=language), utterances)


def under(clips: list[Joined], sounds: list[np.ndarray]) -> list[Joined]:
    """Return clean clips with a sound under each utterance, 0 to 15 dB softer than it, as `live` has them.

    Here the edges are known exactly: they were measured before the sound came.
    """
    rng = np.random.default_rng(0)
    noisy = []
    for clip in clips:
        pcm = clip.heard.pcm.astype(np.float64)
        for utterance in clip.utterances:
            span, level = utterance.span, float(rng.choice((0, 5, 10, 15)))
            sound = np.resize(sounds[int(rng.integers(len(sounds)))].astype(np.float64), span.samples)
            power = (pcm[span.start : span.end] ** 2).mean() / max((sound**2).mean(), 1e-9)
            pcm[span.start : span.end] += sound * np.sqrt(power) * 10 ** (-level / 20)
        mixed = np.clip(np.rint(pcm), -32768, 32767).astype(np.int16)
        noisy.append(Joined(replace(clip.heard, pcm=mixed), clip.utterances))
    return noisy


def _edges(domain: str, pcm: np.ndarray, span: Span, vad: SileroVad) -> Span:
    if domain == "words":
        return span
    if domain != "live":
        return tighten(pcm, span)
    speech = [found & span for found in vad.speech(pcm)]
    inside = [found for found in speech if found is not None]
    return Span(inside[0].start, inside[-1].end) if inside else span


def is_wrong(word: Word, utterance: Utterance, first: bool, last: bool) -> bool:
    return (
        word.start < utterance.span.start - WRONG
        or word.end > utterance.span.end + WRONG
        or (first and abs(word.start - utterance.edges.start) > WRONG)
        or (last and abs(word.end - utterance.edges.end) > WRONG)
    )


def report(
    title: str, clips: list[Joined], found: dict[str, list[tuple[Word, ...] | None]], cpu: dict[str, float]
) -> dict[str, Any]:
    """Print a table of the aligners and of what they agree on; return its numbers by name."""
    agreed: list[tuple[Word, ...] | None] = []
    places: dict[str, list[list[Word | None]]] = {}
    for name, alignments in found.items():
        places[name] = [_in_place(clip, words) for clip, words in zip(clips, alignments, strict=True)]
    if len(found) > 1:
        agreed = [agreed_words(alignments) for alignments in zip(*found.values(), strict=True)]
        places["agreed"] = [_in_place(clip, words) for clip, words in zip(clips, agreed, strict=True)]
    total = sum(each.words for clip in clips for each in clip.utterances)
    rows, numbers = [], {}
    for name, placed in places.items():
        edges, kept, wrong = [], 0, [0] * len(clips)
        for number, (clip, words) in enumerate(zip(clips, placed, strict=True)):
            for (utterance, first, last), word in zip(clip.words(), words, strict=True):
                if word is None:
                    continue
                edges += [(word.start, utterance.edges.start)] * first + [(word.end, utterance.edges.end)] * last
                kept += 1
                wrong[number] += is_wrong(word, utterance, first, last)
        off = shifts(edges)
        numbers[name] = {"mean": off.mean_ms, "wrong": np.array(wrong)}
        rows.append(
            [
                name,
                str(off.edges),
                f"{off.mean_ms:.0f}",
                f"{100 * off.within_100_ms:.1f}",
                f"{100 * off.within_200_ms:.1f}",
                share(kept, total),
                str(sum(wrong)),
                f"{cpu.get(name, 0):.3f}",
            ]
        )
    columns = [
        "aligner",
        "edges",
        "mean shift ms",
        "within 100 ms %",
        "within 200 ms %",
        "words placed %",
        "wrong",
        "CPU s for a second",
    ]
    table(f"{title}: {len(clips)} clips, {total} words", columns, rows)
    return numbers


def removed_share(before: np.ndarray, left: np.ndarray) -> Estimate:
    """Return the share in % that is removed, and its interval over clips: in one clip words go wrong together.

    before, left: wrong words of each clip.
    """
    drawn = [
        100 * (1 - ratio(draws @ left, draws @ before)) for draws in redraws(len(before), np.random.default_rng(0))
    ]
    return estimate(100 * (1 - ratio(left.sum(), before.sum())), np.concatenate(drawn))


def _in_place(clip: Joined, words: tuple[Word, ...] | None) -> list[Word | None]:
    """Return words at their places among the clip's: what was not placed is None."""
    names = words_of(clip.heard.text)
    placed: list[Word | None] = [None] * len(names)
    at = 0
    for word in words or ():
        at = names.index(word.text, at)
        placed[at] = word
        at += 1
    return placed


def aligners(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"pocketsphinx": PocketsphinxAligner()}
    if options.own:
        from model_training.decoding.align import ExportedAligner

        found["own CTC"] = ExportedAligner(options.own)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_crawl(parser)
    parser.add_argument("--own", metavar="FOLDER", help="an exported model of ours")
    parser.add_argument("--most", type=int, default=40, help="clips of a domain (default %(default)s)")
    parser.add_argument("--domain", action="append", default=[], help="one of them only; may be repeated")
    options = parser.parse_args()
    engines = aligners(options)
    with crawl_folder(options.crawl) as crawl:
        for domain, language in (("audiobook", "en"), (NOISY, "en"), ("live", "en"), ("words", "zh")):
            if options.domain and domain not in options.domain:
                continue
            clips = list(joined(crawl, "audiobook" if domain == NOISY else domain, language, options.most))
            if domain == NOISY:
                clips = under(clips, [one.pcm for one in segments(crawl, "sounds")])
            seconds = sum(len(clip.heard.pcm) for clip in clips) / SAMPLE_RATE
            found, cpu = {}, {}
            for name, engine in engines.items():
                started = time.process_time()
                alignments = engine.align([clip.heard for clip in clips])
                if any(alignments):
                    found[name], cpu[name] = alignments, (time.process_time() - started) / seconds
            if not found:
                continue
            numbers = report(domain, clips, found, cpu)
            if domain == "audiobook":
                best = min(each["mean"] for each in numbers.values())
                show_targets([("mean shift on clean English, ms", 60, best)], digits=0)
            if domain in ("live", NOISY) and "agreed" in numbers:
                before, left = numbers["pocketsphinx"]["wrong"], numbers["agreed"]["wrong"]
                removed = removed_share(before, left)
                told = f"{before.sum() - left.sum()} of {before.sum()} wrong words"
                print(f"\nremoved: {told}, 95 % interval {removed.low} to {removed.high} %")
                show_targets(
                    [("wrong words of pocketsphinx that agreement removes, %", 90, removed.value or 0.0)], at_least=True
                )


if __name__ == "__main__":
    main()
