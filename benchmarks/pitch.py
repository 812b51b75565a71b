"""Gender by a limit on pitch, in the folds of `benchmarks.speakers`: what a model has to beat, which labels to doubt.

python -m benchmarks.pitch WORK          WORK as benchmarks.speakers made it

clips of a fold's other speakers ──pitch──> the limit that parts their genders best ──> gender of the fold's clips
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.real_audio import RATE
from benchmarks.speakers import FOLDS
from benchmarks.truth import table
from model_training.data.handoff import Handoff
from operators.index import Row

WINDOW, LEAST = 640, 0.5
"""samples, and the autocorrelation from which a frame is voiced."""


def pitch_hz(pcm: np.ndarray) -> float:
    """Return the median pitch of a clip's voiced frames, 70 to 500 Hz; not a number where fewer than five are voiced.

    The first peak of the autocorrelation that reaches nine tenths of the highest (Boersma 1993, window divided out).
    """
    frames = np.lib.stride_tricks.sliding_window_view(pcm.astype(float), WINDOW)[:: WINDOW // 2]
    frames = frames - frames.mean(1, keepdims=True)
    energy = (frames**2).mean(1)
    window = np.hanning(WINDOW)
    loud = frames[energy > 0.1 * np.percentile(energy, 95)] * window
    of_loud, of_window = (
        np.fft.irfft(np.abs(np.fft.rfft(x, 4 * WINDOW)) ** 2)[..., : RATE // 70] for x in (loud, window)
    )
    shape = (of_loud / of_loud[:, :1] / (of_window / of_window[0]))[:, RATE // 500 :]
    found = []
    for lags in shape[shape.max(1) > LEAST]:
        lag = int(np.argmax(lags > 0.9 * lags.max()))
        while lag + 1 < len(lags) and lags[lag + 1] > lags[lag]:
            lag += 1
        found.append(RATE / (lag + RATE // 500))
    return float(np.median(found)) if len(found) >= 5 else float("nan")


def report(handoffs: Sequence[Path]) -> None:
    """Print how far a limit on pitch tells gender, set by each fold's training speakers, and who is far beyond it."""
    heard: dict[str, tuple[Row, float]] = {}
    for row in (row for folder in handoffs for row in _rows(folder, "test")):
        heard[row.clip_id] = row, pitch_hz(soundfile.read(row.shard, dtype="int16")[0])
    middle = float(np.nanmedian([hertz for _, hertz in heard.values()]))
    said: list[tuple[Row, str]] = []
    for folder in handoffs:
        asked = {row.clip_id for row in _rows(folder, "test")}
        known = [(row.gender == "female", hertz) for key, (row, hertz) in heard.items() if key not in asked]
        female, hertz = (np.array(values) for values in zip(*known, strict=True))
        rates = [
            ((hertz[female] > limit).mean() + (hertz[~female] <= limit).mean(), limit) for limit in range(100, 300)
        ]
        limit = max(rates)[1]
        for key in asked:
            row, at = heard[key]
            said.append((row, "female" if (middle if np.isnan(at) else at) > limit else "male"))
    rows = []
    for name, ages in (("all", {"adult", "child", None}), ("adults", {"adult"}), ("children", {"child"})):
        some = [(row, answer) for row, answer in said if row.age in ages]
        rates = [
            100 * float(np.mean([answer == gender for row, answer in some if row.gender == gender]))
            for gender in ("female", "male")
        ]
        rows.append([name, f"{np.mean(rates):.1f}", *(f"{rate:.1f}" for rate in rates), str(len(some))])
    table("Gender by a limit on pitch", ["speakers", "balanced, %", "female", "male", "clips"], rows)
    of_speaker: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row, at in heard.values():
        of_speaker[row.speaker or "", row.gender or "", row.age or ""].append(at)
    rows = [
        [speaker, f"{gender} {age}", f"{at:.0f}"]
        for (speaker, gender, age), values in sorted(of_speaker.items())
        for at in [float(np.nanmedian(values))]
        if age == "adult" and (at < 130 if gender == "female" else at > 200)
    ]
    table("Adults whose pitch is the other gender's", ["speaker", "label", "median pitch, Hz"], rows)


def _rows(folder: Path, split: str) -> list[Row]:
    index = Handoff.open(str(folder)).index(split)
    return [index.row(number) for number in range(len(index))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    work = parser.parse_args().work
    report([work / f"fold-{fold}" for fold in range(FOLDS)])


if __name__ == "__main__":
    main()
