"""Made-up clips with a truth whose errors follow a law that is known: what a calibration must find."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.synthetic_run import EN, ZH
from tests.support.truths import SECOND, clip, heard, truth_bytes, truth_line

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn of a clip before anything is said: the law of its errors is a function of this."""

    avg_logprob: float
    language_prob: float
    words_per_second: float
    number: bool


def by_logprob(drawn: Drawn) -> float:
    """Share of words that both engines get wrong alike: one in three where the ASR is unsure, none elsewhere."""
    return 0.3 if drawn.avg_logprob < -0.6 else 0.001


def checked_run(
    error_rate: Callable[[Drawn], float] = by_logprob,
    *,
    recordings: int = 40,
    clips: int = 25,
    seed: int = 0,
    language: str = "en",
    name: str = "talk",
    disagreeing: float = 0.15,
) -> tuple[list[Row], bytes]:
    """Rows of a run and its truth file. Both engines write the same (WER 0) but in a share of clips (WER 50)."""
    draw = random.Random(seed)
    vocabulary = sorted(set((EN if language == "en" else ZH).split()))
    rows: list[Row] = []
    lines = []
    for number in range(recordings):
        recording, segments, at = f"{name}-{seed}-{number:03d}", [], 0.0
        for _ in range(clips):
            drawn = Drawn(
                avg_logprob=draw.uniform(-1.0, -0.1),
                language_prob=draw.uniform(0.6, 1.0),
                words_per_second=draw.uniform(1.5, 4.0),
                number=draw.random() < 0.2,
            )
            seconds = draw.uniform(2, 15)
            said = [draw.choice(vocabulary) for _ in range(max(4, round(seconds * drawn.words_per_second)))]
            written = [draw.choice(vocabulary) if draw.random() < error_rate(drawn) else word for word in said]
            if drawn.number:
                said.append("seven" if language == "en" else "二十三")
                written.append(said[-1])
            space = " " if language == "en" else ""
            label = space.join(written)
            apart = draw.random() < disagreeing
            columns = heard(at, at + seconds, language, label, label + space + "boat" if apart else label)
            columns["hypotheses"][0] |= {"avg_logprob": drawn.avg_logprob, "language_prob": drawn.language_prob}
            columns["tokens_per_second"] = len(written) / seconds
            columns["numbers_agree"] = True
            if apart:
                columns |= {"wer": 50.0, "per": 40.0, "outcome": "rejected", "stage": "rover", "reason": "wer_and_per"}
            rows.append(clip("talks", recording, **columns, label=None if apart else label))
            segments.append((at, at + seconds, space.join(said)))
            at += seconds + 1
        lines.append(truth_line(recording, language, *segments))
    return rows, truth_bytes(*lines)


def clip_seconds(row: Row) -> float:
    return float(row["end"] - row["start"]) / SECOND
