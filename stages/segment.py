"""Segment: read each piece's audio, find speech, cut it into clips of 2-30 s.

    piece ──fetch──> local file ──decode (in a child process)──> PCM ──move edges to quiet points──> VAD ──> cut
          └─ cannot be read: an unreadable stretch, with its reason      clips, too-short islands, non-speech: they tile
          it

Decoding runs in a process of its own, so a file that crashes or hangs the decoder costs that recording and nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from operators.audio.decode import AudioError, FileRange, Limits
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE, Clip, Piece, Rejection, Span, Stretch, Unit, Verdict, clip_id
from operators.errors import MachineTrouble
from operators.speech.segments import CutSettings, cut, quiet_point
from operators.speech.vad import VoiceActivity
from stages.base import Fetcher, Resources

_NEVER = 1 << 60
"""Decoding from here on gives no sample and counts them all."""


@dataclass(kw_only=True)
class Segment:
    fetcher: Fetcher
    load_vad: Callable[[], VoiceActivity]
    """builds the VAD engine in the worker that will run it."""
    cut_settings: CutSettings
    limits: Limits
    decode_timeout_seconds: float
    decode_attempts: int
    edge_radius: int
    """samples either side of a nominal edge that are searched for the quietest point."""
    most_samples: int | None = None
    """what a piece without an end may hold: memory is bounded however much longer than its plan a recording is."""
    resources: Resources = field(default_factory=Resources)
    name: str = "Segment"

    def open(self) -> None:
        self._decoder = IsolatedDecoder(
            self.limits, timeout_seconds=self.decode_timeout_seconds, attempts=self.decode_attempts
        )
        self._vad = self.load_vad()

    def close(self) -> None:
        self._decoder.close()

    def process(self, unit: Unit) -> Unit:
        clips: list[Clip] = []
        stretches: list[Stretch] = []
        audio: list[np.ndarray] = []
        for piece in unit.pieces:
            found = self._segment_piece(piece)
            clips += found.clips
            stretches += found.stretches
            audio += found.audio
        _check_deaths(unit, stretches)
        joined = np.concatenate(audio) if audio else np.zeros(0, np.int16)
        return replace(unit, clips=tuple(clips), stretches=tuple(stretches), audio=joined)

    def heard_seconds(self, unit: Unit) -> float:
        read = [stretch.span.samples for stretch in unit.stretches if stretch.outcome != "unreadable"]
        return sum(read + [clip.span.samples for clip in unit.clips]) / SAMPLE_RATE

    def _segment_piece(self, piece: Piece) -> _Found:
        if piece.problem is not None:
            return _unreadable(piece, piece.problem)
        try:
            with self.fetcher.fetch(piece.recording.uri, piece.member) as path:
                try:
                    pcm, region, lost = self._read(piece, path)
                except AudioError as error:
                    rejection = Rejection(stage="decode", reason=error.reason, detail=error.detail)
                    return _unreadable(piece, rejection, self._edges(piece, path, error.reason))
        except AudioError as error:
            return _unreadable(piece, Rejection(stage="fetch", reason=error.reason, detail=error.detail))
        except FileNotFoundError:
            return _unreadable(piece, Rejection(stage="fetch", reason="missing", detail="no such object"))
        except PermissionError as error:
            return _unreadable(piece, Rejection(stage="fetch", reason="permission", detail=str(error)))
        found = _Found()
        recording_id = piece.recording.recording_id
        for span, rejection in lost:
            found.stretches.append(
                Stretch(recording_id=recording_id, span=span, outcome="unreadable", rejection=rejection)
            )
        for run in _gaps(region, [span for span, _ in lost]):
            self._segment_run(recording_id, pcm[run.start - region.start : run.end - region.start], run.start, found)
        return found

    def _read(self, piece: Piece, path: str) -> tuple[np.ndarray, Span, list[tuple[Span, Rejection]]]:
        """The piece's PCM, the span it covers after its edges moved to quiet points, and what of its time was lost."""
        first = max(0, piece.start - self.edge_radius) if piece.start else 0
        last = None if piece.end is None else piece.end + self.edge_radius
        if last is None and self.most_samples is not None:
            last = piece.start + self.most_samples
        decoded = self._decoder.decode(_source(piece, path), (first, last))
        pcm, reached = decoded.pcm, first + len(decoded.pcm)

        start = self._edge(piece.start, pcm, first) if piece.start else 0
        end = reached if piece.end is None else self._edge(piece.end, pcm, first)
        end = max(start, end)
        beyond = self._beyond(piece, path, reached) if piece.end is None and not decoded.end_reached else []
        nominal = Span(piece.start, max(piece.start, piece.end if piece.end is not None else 1 << 62))
        lost: list[tuple[Span, Rejection]] = []
        for problem in decoded.problems:
            # What was lost inside the decoded audio belongs to whoever owns those samples; beyond its end, to the
            # nominal owner.
            owner = Span(start, end) if problem.span.start < reached else nominal
            part = problem.span & owner
            if part is None and not problem.span.samples:  # something is missing there, nobody knows how much
                last_place = end if decoded.end_reached and start < end else end - 1
                part = problem.span if start <= problem.span.start <= last_place else None
            if part is not None:
                lost.append((part, Rejection(stage="decode", reason=problem.reason)))
        return pcm[start - first : end - first], Span(start, end), lost + beyond

    def _beyond(self, piece: Piece, path: str, reached: int) -> list[tuple[Span, Rejection]]:
        """What lies past the most that a piece may hold, as one loss."""
        total = self._decoder.decode(_source(piece, path), (_NEVER, None)).total_samples or reached
        if total <= reached:
            return []
        detail = "its header declares far less than it holds, so the plan did not cut it: repair the header (remux it)"
        return [(Span(reached, total), Rejection(stage="decode", reason="too_large", detail=detail))]

    def _edge(self, nominal: int, pcm: np.ndarray, first: int) -> int:
        """Where two pieces part, given samples from `first` on. Both decode the whole window, so both find the same
        point.

        A recording that ends before the nominal edge belongs to the piece before it, to its last sample.
        """
        if first + len(pcm) <= nominal:
            return first + len(pcm)
        begin = max(first, nominal - self.edge_radius)
        around = pcm[begin - first : nominal + self.edge_radius - first]
        return begin + quiet_point(around, len(around) // 2, len(around) // 2)

    def _edges(self, piece: Piece, path: str, reason: str) -> Span:
        """What a piece that cannot be read owns: up to where its neighbours cut, if that much of the recording can be
        heard.
        """

        def edge(nominal: int) -> int:
            first = max(0, nominal - self.edge_radius)
            try:
                heard = self._decoder.decode(_source(piece, path), (first, nominal + self.edge_radius))
            except AudioError:
                return nominal
            return self._edge(nominal, heard.pcm, first)

        span = _nominal(piece)
        if reason == "decoder_timeout":  # a recording that hangs has cost enough
            return span
        start = edge(piece.start) if piece.start else 0
        return Span(start, max(start, span.end if piece.end is None else edge(piece.end)))

    def _segment_run(self, recording_id: str, pcm: np.ndarray, offset: int, found: _Found) -> None:
        cutting = cut(self._vad.speech(pcm), pcm, self.cut_settings)
        for span in cutting.non_speech:
            found.stretches.append(Stretch(recording_id=recording_id, span=span.shift(offset), outcome="non_speech"))
        too_short = Verdict(rejection=Rejection(stage="segment", reason="too_short"))
        parts: list[tuple[Span, int, Verdict | None]] = [(span, speech, None) for span, speech in cutting.clips]
        parts += [(span, speech, too_short) for span, speech in cutting.too_short]
        for span, speech, verdict in sorted(parts, key=lambda part: part[0]):
            moved = span.shift(offset)
            name = clip_id(recording_id, moved)
            clip = Clip(clip_id=name, recording_id=recording_id, span=moved, speech_samples=speech, verdict=verdict)
            found.clips.append(clip)
            found.audio.append(pcm[span.start : span.end])


def _check_deaths(unit: Unit, stretches: list[Stretch]) -> None:
    """Raises MachineTrouble when most recordings of a unit killed their decoder in the same way.

    So many bad ones do not lie side by side, and a machine that is short of something comes and goes.
    """
    tried = {piece.recording.recording_id for piece in unit.pieces if piece.problem is None}
    deaths: dict[str, set[str]] = {}
    for stretch in stretches:
        if stretch.rejection and stretch.rejection.reason in ("decoder_crash", "decoder_timeout"):
            deaths.setdefault(stretch.rejection.reason, set()).add(stretch.recording_id)
    for reason, died in deaths.items():
        if len(died) >= _MANY_DEATHS and 2 * len(died) > len(tried):
            raise MachineTrouble(
                f"{len(died)} of {len(tried)} recordings ended their decoder alike ({reason}): look for a limit on "
                "memory or time, or run fewer workers"
            )


_MANY_DEATHS = 3


@dataclass(slots=True)
class _Found:
    clips: list[Clip] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    audio: list[np.ndarray] = field(default_factory=list)


def _nominal(piece: Piece) -> Span:
    """Return what the plan gave to a piece, by declared length."""
    return Span(piece.start, piece.end if piece.end is not None else max(piece.start, piece.declared_samples or 0))


def _unreadable(piece: Piece, rejection: Rejection, span: Span | None = None) -> _Found:
    stretch = Stretch(
        recording_id=piece.recording.recording_id,
        span=span or _nominal(piece),
        outcome="unreadable",
        rejection=rejection,
        uri=piece.recording.uri,
    )
    return _Found(stretches=[stretch])


def _gaps(region: Span, taken: list[Span]) -> list[Span]:
    """Return what is left of `region` between the spans `taken`."""
    left: list[Span] = []
    start = region.start
    for span in sorted(taken):
        if span.start > start and start < region.end:
            left.append(Span(start, min(span.start, region.end)))
        start = max(start, span.end)
    if start < region.end:
        left.append(Span(start, region.end))
    return left


def _source(piece: Piece, path: str) -> str | FileRange:
    return FileRange(path, *piece.member) if piece.member else path


class LastFetched:
    """LastFetched holds on to the last file until another is asked for: clips of one recording share one download."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._asked: tuple[str, tuple[int, int] | None] | None = None
        self._path = ""
        self._held = ExitStack()

    @contextmanager
    def fetch(self, uri: str, member: tuple[int, int] | None = None) -> Iterator[str]:
        if self._asked != (uri, member):
            self.close()
            self._path = self._held.enter_context(self._fetcher.fetch(uri, member))
            self._asked = uri, member
        yield self._path

    def close(self) -> None:
        self._asked = None
        self._held.close()


def read_span(fetcher: Fetcher, decoder: IsolatedDecoder, piece: Piece, span: Span) -> np.ndarray:
    """Return int16 [samples] of a span of a recording, as when its clips were cut. Raises AudioError, OSError."""
    with fetcher.fetch(piece.recording.uri, piece.member) as path:
        return decoder.decode(_source(piece, path), (span.start, span.end)).pcm


def edge_radius_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
