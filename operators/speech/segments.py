"""Clips of 2-30 s from speech: join what a pause parts, cut what runs too long at its quietest point, lose no sample.

    list[Span] of speech ──pad──> islands ──split over-long──> atoms ──partition──> Cutting
                            │                  │                                  clips       2 <= d <= 30 s
                            └─ quiet_point(pcm) ┘                                 too_short   speech that fits no clip
                                                                                  non_speech  the rest

Where to join is one small optimisation over the pauses (`_partition`), not a chain of special cases: speech is lost
only when no join is allowed, pauses are swallowed only when that saves a clip, and the widest pauses become borders.
Everything is integer arithmetic over integer samples, so the answer does not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from operators.clip import SAMPLE_RATE, Span
from operators.errors import UserError
from operators.settings import check, setting

_FRAME = SAMPLE_RATE // 10
"""samples of the short-time energy: long enough to bridge a stop consonant, shorter than a pause."""
_HOP = SAMPLE_RATE // 100

_LOSS_WEIGHT = 1000
"""a lost second of speech weighs as much as this many seconds of pause: joining always wins where it is allowed."""


@dataclass(kw_only=True)
class CutSettings:
    """CutSettings say how speech becomes clips. The defaults come from a study (docs/benchmarks/curation.md).

    They are the section `cut` of the settings. Raises UserError.
    """

    min_seconds: float = setting(2.0, "shorter speech is rejected, unless a pause can join it to more", at_least=0.1)
    max_seconds: float = setting(30.0, "Whisper sees no more of a clip", at_most=30)
    target_seconds: float = setting(
        20.0, "joining stops about here: a longer clip costs less GPU, but is lost whole for one wrong word"
    )
    max_gap_seconds: float = setting(0.8, "a pause up to this long stays inside a clip", at_least=0)
    rescue_gap_seconds: float = setting(2.5, "or this long, where an island would be too short otherwise", at_least=0)
    pad_seconds: float = setting(0.2, "of silence kept at each end, less where a neighbour is nearer", at_least=0)

    def __post_init__(self) -> None:
        check(self, "cut")
        if not 2 * self.min_seconds <= self.max_seconds:
            raise UserError(
                f"cut.max_seconds={self.max_seconds}: must be at least twice cut.min_seconds={self.min_seconds}, "
                "or speech that runs on could not be cut"
            )
        if not self.min_seconds <= self.target_seconds <= self.max_seconds:
            raise UserError(
                f"cut.target_seconds={self.target_seconds}: must lie between cut.min_seconds={self.min_seconds} and "
                f"cut.max_seconds={self.max_seconds}"
            )
        if self.max_gap_seconds > self.rescue_gap_seconds:
            raise UserError(
                f"cut.max_gap_seconds={self.max_gap_seconds}: must be at most "
                f"cut.rescue_gap_seconds={self.rescue_gap_seconds}"
            )


@dataclass(frozen=True, slots=True)
class Cutting:
    """A Cutting is a piece of audio cut up. The three lists tile [0, total): ordered, disjoint, nothing left over."""

    clips: list[tuple[Span, int]]
    """spans of 2-30 s, each with the samples in it that the VAD called speech."""
    too_short: list[tuple[Span, int]]
    """speech that no allowed join makes long enough, likewise."""
    non_speech: list[Span]


def cut(speech: list[Span], pcm: np.ndarray, settings: CutSettings | None = None) -> Cutting:
    """Cut `pcm` (int16 [samples], 16 kHz) into clips around its `speech`: ordered, disjoint spans inside the array."""
    settings = settings or CutSettings()
    total = len(pcm)
    speech = [span for span in speech if span.samples]
    if any(left.end > right.start for left, right in pairwise(speech)) or (speech and speech[-1].end > total):
        raise ValueError("speech spans must be ordered, disjoint and inside the array")

    islands = _pad(speech, pcm, round(settings.pad_seconds * SAMPLE_RATE))
    atoms: list[Span] = []
    gaps: list[int] = []  # pause in front of each atom; 0 where speech was cut
    for index, island in enumerate(islands):
        pieces = _split(island, pcm, settings)
        atoms += pieces
        gaps += [speech[index].start - speech[index - 1].end if index else 0] + [0] * (len(pieces) - 1)
    counts = _speech_samples(atoms, speech)

    clips: list[tuple[Span, int]] = []
    too_short: list[tuple[Span, int]] = []
    for first, last, is_clip in _partition(atoms, gaps, counts, settings):
        span = Span(atoms[first].start, atoms[last].end)
        (clips if is_clip else too_short).append((span, sum(counts[first : last + 1])))
    taken = sorted([span for span, _ in clips] + [span for span, _ in too_short])
    return Cutting(clips, too_short, _complement(taken, total))


def quiet_point(pcm: np.ndarray, centre: int, radius: int) -> int:
    """Return the sample in the middle of the quietest 100 ms within `radius` of `centre`; of equals the nearest one.

    `pcm` is int16 [samples]. A function of the samples in [centre - radius, centre + radius) alone: two workers that
    hold that window, cut from different parts of a recording, find the same point. At an end of the array the window is
    what is there. Quiet is the least variance, so that a constant offset of the converter does not count as sound.
    """
    low, high = max(0, centre - radius), min(len(pcm), centre + radius)
    if high - low < _FRAME:
        return min(max(centre, 0), len(pcm))
    window = pcm[low:high].astype(np.int64)
    starts = np.arange(0, len(window) - _FRAME + 1, _HOP)
    sums = np.concatenate(([0], np.cumsum(window)))
    squares = np.concatenate(([0], np.cumsum(window * window)))
    mean = sums[starts + _FRAME] - sums[starts]
    variance = _FRAME * (squares[starts + _FRAME] - squares[starts]) - mean * mean  # times frame squared, still exact
    quietest = low + starts[variance == variance.min()] + _FRAME // 2
    return int(quietest[np.argmin(np.abs(quietest - centre))])


def _pad(speech: list[Span], pcm: np.ndarray, pad: int) -> list[Span]:
    """Widen every span by `pad`; where two would meet, they touch at the quietest point of the pause between them."""
    starts = [max(0, span.start - pad) for span in speech]
    ends = [min(len(pcm), span.end + pad) for span in speech]
    for i in range(1, len(speech)):
        pause = Span(speech[i - 1].end, speech[i].start)
        if pause.samples <= 2 * pad:
            middle = pause.start + pause.samples // 2
            ends[i - 1] = starts[i] = quiet_point(pcm, middle, pause.samples // 2)
    return [Span(start, end) for start, end in zip(starts, ends, strict=True)]


def _split(island: Span, pcm: np.ndarray, settings: CutSettings) -> list[Span]:
    """Cut an island longer than `max_seconds` at quiet points, each in the later half of what one clip may hold."""
    longest, shortest = round(settings.max_seconds * SAMPLE_RATE), round(settings.min_seconds * SAMPLE_RATE)
    pieces: list[Span] = []
    start = island.start
    while island.end - start > longest:
        low, high = start + longest // 2, min(start + longest, island.end - shortest)
        point = quiet_point(pcm, (low + high) // 2, (high - low) // 2)
        pieces.append(Span(start, point))
        start = point
    return [*pieces, Span(start, island.end)]


def _speech_samples(atoms: list[Span], speech: list[Span]) -> list[int]:
    """Samples of speech in each atom: speech before its end, less speech before its start."""
    starts = np.array([span.start for span in speech], np.int64)
    lengths = np.array([span.samples for span in speech], np.int64)
    before = np.concatenate(([0], np.cumsum(lengths)))

    def until(edges: list[int]) -> np.ndarray:
        index = np.searchsorted(starts, edges, side="right") - 1  # the span that began last, -1 for none
        return np.where(index < 0, 0, before[index] + np.minimum(edges - starts[index], lengths[index]))

    if not speech:
        return []
    return (until([atom.end for atom in atoms]) - until([atom.start for atom in atoms])).tolist()


def _partition(
    atoms: list[Span], gaps: list[int], counts: list[int], settings: CutSettings
) -> list[tuple[int, int, bool]]:
    """Group neighbouring atoms into clips, or leave one out, at the least total cost in samples.

    A clip costs `max_gap_seconds` (so a pause shorter than that is worth swallowing), plus its pauses, plus what it
    exceeds the target by; an atom left out costs its speech a thousandfold. Dynamic programming over the last atom; of
    equal costs the longest clip. Returns (first, last, is_clip) in order, every atom in exactly one.
    """
    n = len(atoms)
    starts = np.array([atom.start for atom in atoms], np.int64)
    ends = np.array([atom.end for atom in atoms], np.int64)
    pauses = np.cumsum(np.array(gaps, np.int64))
    shortest, longest, target, clip_cost, widest = (
        round(seconds * SAMPLE_RATE)
        for seconds in (
            settings.min_seconds,
            settings.max_seconds,
            settings.target_seconds,
            settings.max_gap_seconds,
            settings.rescue_gap_seconds,
        )
    )
    # the earliest atom that a clip ending at each atom may begin with: no pause too wide, not too long
    wide = np.maximum.accumulate(np.where(np.array(gaps, np.int64) > widest, np.arange(n), 0)) if n else starts
    earliest = np.maximum(wide, np.searchsorted(starts, ends - longest))

    best = np.zeros(n + 1, np.int64)
    choice = np.full(n, -1, np.int64)  # first atom of the clip that ends here; -1: this atom is left out
    for last in range(n):
        best[last + 1] = best[last] + _LOSS_WEIGHT * max(counts[last], 1)
        # a clip long enough begins at `starts <= ends[last] - shortest`
        after = int(np.searchsorted(starts, ends[last] - shortest, side="right"))
        first = np.arange(int(earliest[last]), min(after, last + 1))
        if len(first) == 0:
            continue
        excess = np.maximum(ends[last] - starts[first] - target, 0)
        cost = best[first] + clip_cost + (pauses[last] - pauses[first]) + excess
        cheapest = int(np.argmin(cost))
        if cost[cheapest] <= best[last + 1]:
            best[last + 1], choice[last] = cost[cheapest], first[cheapest]

    groups: list[tuple[int, int, bool]] = []
    last = n - 1
    while last >= 0:
        first_atom = int(choice[last])
        groups.append((first_atom, last, True) if first_atom >= 0 else (last, last, False))
        last = groups[-1][0] - 1
    return groups[::-1]


def _complement(taken: list[Span], total: int) -> list[Span]:
    """What ordered, disjoint spans leave of [0, total)."""
    edges = [0, *(edge for span in taken for edge in (span.start, span.end)), total]
    return [Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
