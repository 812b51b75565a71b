"""The same sound at another speed or pitch, by FFmpeg's own filters.

pcm ──asetrate, aresample──> higher or lower, and shorter or longer ──atempo──> as long as was asked for
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np

from operators.clip import SAMPLE_RATE


def vary(pcm: np.ndarray, *, speed: float = 1.0, pitch: float = 1.0) -> np.ndarray:
    """Return int16 [samples / speed, about] of int16 [samples] at 16 kHz: `speed` times as fast, `pitch` times as high.

    Raises ValueError for a factor outside of 0.5 to 2.
    """
    if not 0.5 <= speed <= 2 or not 0.5 <= pitch <= 2 or not 0.5 <= speed / pitch <= 2:
        raise ValueError(f"speed {speed:g} and pitch {pitch:g} must lie between 0.5 and 2, and so must their ratio")
    if not len(pcm):
        return pcm
    graph = av.filter.Graph()
    nodes = [
        graph.add_abuffer(format="s16", sample_rate=SAMPLE_RATE, layout="mono", time_base=Fraction(1, SAMPLE_RATE)),
        graph.add("asetrate", str(round(SAMPLE_RATE * pitch))),
        graph.add("aresample", str(SAMPLE_RATE)),
        graph.add("atempo", f"{speed / pitch:.6f}"),
        graph.add("aformat", "sample_fmts=s16:channel_layouts=mono"),
        graph.add("abuffersink"),
    ]
    for one, other in pairwise(nodes):
        one.link_to(other)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm, np.int16)[None], "s16", "mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
    graph.push(frame)
    graph.push(None)
    parts: list[np.ndarray] = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    return np.concatenate(parts) if parts else pcm[:0]
