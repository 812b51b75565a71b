"""Measured quality against what is known of the crawl: SNR of the live recordings, narrow-band files, and the cost.

    live, the truth's snr_db ──QualityMeter──> error of the SNR in dB
    wide-band segments ──to 8 kHz and back, in four ways──> share found narrow; as they are ──> share taken for narrow

    python -m benchmarks.annotate.quality            about two minutes on one core
    python -m benchmarks.annotate.quality --most 1e9     every segment

The pipeline hears everything at 16 kHz: what it hears of a narrow-band file has nothing above 4 kHz.
"""

from __future__ import annotations

import argparse
import io
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import soundfile
from scipy.signal import resample_poly

from benchmarks.annotate.crawl import add_crawl, crawl_folder, segments
from benchmarks.targets import show_targets
from benchmarks.truth import share, table
from operators.annotate.quality import QualityMeter, bandwidth_hz
from operators.audio.decode import encode_opus
from operators.clip import SAMPLE_RATE

NARROW_HZ = 4500
"""A clip counts as narrow-band below this."""
WIDE = ("audiobook", "classroom", "newsread", "words", "cantonese", "commands", "live")
NARROW = ("digits",)
"""Recorded at 8 kHz."""
RUN_CPU = 62.3 / 534
"""CPU seconds of a run for a second of input, with Whisper base and Moonshine tiny (docs/benchmarks/curation.md)."""


def _resample(pcm: np.ndarray, rate: int, to: int) -> np.ndarray:
    resampler = av.AudioResampler("s16", "mono", to)
    frame = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
    frame.sample_rate = rate
    return np.concatenate([out.to_ndarray()[0] for out in resampler.resample(frame) + resampler.resample(None)])


def _polyphase(pcm: np.ndarray, up: int, down: int) -> np.ndarray:
    return np.clip(np.rint(resample_poly(pcm.astype(np.float64), up, down)), -32768, 32767).astype(np.int16)


def _opus(pcm: np.ndarray) -> np.ndarray:
    data = encode_opus(_resample(_resample(pcm, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE), 24_000)
    return np.asarray(soundfile.read(io.BytesIO(data), dtype="int16")[0], np.int16)


def _through(rate: int, pcm: np.ndarray) -> np.ndarray:
    narrow = _resample(pcm, SAMPLE_RATE, 8000)
    return (
        _resample(_resample(narrow, 8000, rate), rate, SAMPLE_RATE)
        if rate != SAMPLE_RATE
        else _resample(narrow, 8000, rate)
    )


WAYS = {
    "libswresample, 8 to 16 kHz": lambda pcm: _through(16_000, pcm),
    "libswresample, 8 to 48 kHz": lambda pcm: _through(48_000, pcm),
    "polyphase, 8 to 16 kHz": lambda pcm: _polyphase(_polyphase(pcm, 1, 2), 2, 1),
    "polyphase, 8 to 48 kHz": lambda pcm: _polyphase(_polyphase(_polyphase(pcm, 1, 2), 6, 1), 1, 3),
    "8 to 16 kHz, then Opus at 24 kbit/s": _opus,
}


def snr(options: argparse.Namespace) -> float:
    """Print the error of the SNR on the live recordings, and return its median in dB."""
    meter = QualityMeter()
    with crawl_folder(options.crawl) as crawl:
        live = list(segments(crawl, "live"))
    started = time.process_time()
    found = [meter.measure(one.pcm, one.neighbours).snr_db for one in live]
    cost = (time.process_time() - started) / sum(len(one.pcm) / SAMPLE_RATE for one in live)
    told = [(one.truth["snr_db"], value) for one, value in zip(live, found, strict=True) if value is not None]
    true, measured = np.array(told).T

    def row(name: str, clips: str, errors: np.ndarray) -> list[str]:
        away = np.abs(errors)
        return [name, clips, f"{np.median(errors):+.1f}", f"{np.median(away):.1f}", f"{away.mean():.1f}"]

    errors = measured - true
    rows = [row(f"{level:g} dB", str((true == level).sum()), errors[true == level]) for level in sorted(set(true))]
    rows.append(row("all", f"{len(errors)} of {len(live)}", errors))
    for name, middle in (("its median", np.median), ("its mean", np.mean)):
        guess = min(np.arange(0, 15.5, 0.5), key=lambda value: float(middle(np.abs(true - value))))
        rows.append(row(f"always {guess:g} dB, best of {name}", str(len(errors)), guess - true))
    table("SNR of live (dB)", ["true", "clips", "median error", "median absolute", "mean absolute"], rows)
    print(
        f"\n{1000 * cost:.1f} ms of CPU for a second of audio: {100 * cost / RUN_CPU:.1f} % of a run's, if all is kept"
    )
    show_targets(
        [
            ("SNR, median absolute error, dB", 3, float(np.median(np.abs(errors)))),
            ("CPU of quality, % of a run's", 3, 100 * cost / RUN_CPU),
        ],
        digits=1,
    )
    return float(np.median(np.abs(errors)))


def bandwidth(options: argparse.Namespace) -> None:
    """Print what is found narrow-band, of narrow files and of wide ones."""
    rows, hits, tried = [], 0, 0
    with crawl_folder(options.crawl) as crawl:
        for domain in WIDE + NARROW:
            clips = [one.pcm for one in segments(crawl, domain, options.most, least_seconds=1)]
            narrow = [sum((bandwidth_hz(way(clip)) or 0) < NARROW_HZ for clip in clips) for way in WAYS.values()]
            asis = sum((bandwidth_hz(clip) or 0) < NARROW_HZ for clip in clips)
            rows.append([domain, str(len(clips)), *(share(count, len(clips)) for count in (*narrow, asis))])
            hits += sum(narrow[:-1])  # a codec of low bitrate puts noise where nothing was: told apart
            tried += len(clips) * (len(WAYS) - 1)
    table(f"Found narrow-band (below {NARROW_HZ} Hz), %", ["domain", "clips", *WAYS, "as it is"], rows)
    show_targets([("narrow-band files found, codec apart, %", 99, 100 * hits / max(tried, 1))], at_least=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_crawl(parser)
    parser.add_argument("--most", type=float, default=120, help="segments of a domain (default %(default)s)")
    options = parser.parse_args()
    snr(options)
    bandwidth(options)


if __name__ == "__main__":
    main()
