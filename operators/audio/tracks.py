"""Choose the audio track of a file that is heard: FFmpeg's best one, or another where the best is silent.

    file ──one look at each track, up to its first sound──> (track, whether others hold sound too)

A screen recorder puts the desktop's silence on the first track and the voice on the second.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np

from operators.audio.media import AudioError, Limits, View, open_media

_LOOK_SECONDS = 600
"""How far a track is looked at; a function of the recording alone, so that all of its units hear the same track."""

_SILENT = 10 ** (-60 / 20)
"""Peak, of full scale, below which a track holds no sound: lossy codecs turn silence into a little noise."""


def choose_track(view: View, limits: Limits) -> tuple[int | None, bool]:
    """Return which audio track of a file is heard, None for FFmpeg's choice, and whether another one holds sound too.

    Raises:
        AudioError: the file cannot be read; the reason says why.
    """
    with open_media(view, limits) as media:
        streams = media.container.streams.audio
        if len(streams) == 1:
            return None, False
        best = list(streams).index(media.stream)
    sounding = [
        track for track in (best, *(t for t in range(len(streams)) if t != best)) if _sounds(view, limits, track)
    ]
    return sounding[0] if sounding else best, len(sounding) > 1


def _sounds(view: View, limits: Limits, track: int) -> bool:
    try:
        with open_media(view, limits, track) as media:
            return any(_peak(frame) > _SILENT for frame in _frames(media.container, media.stream))
    except (AudioError, av.FFmpegError):
        return False


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    heard = 0.0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            yield frame  # type: ignore[misc]
            heard += frame.samples / frame.sample_rate  # type: ignore[union-attr]
        if heard > _LOOK_SECONDS:
            return


def _peak(frame: av.AudioFrame) -> float:
    samples = frame.to_ndarray()
    if samples.dtype.kind == "i":
        return float(np.abs(samples.astype(np.float64)).max(initial=0)) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    if samples.dtype == np.uint8:
        return float(np.abs(samples.astype(np.float64) - 128).max(initial=0)) / 128
    return float(np.nan_to_num(np.abs(samples.astype(np.float64)), nan=0.0, posinf=0.0).max(initial=0))
