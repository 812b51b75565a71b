"""Annotate: what the clips that Rover kept carry besides words. Off where nothing is configured.

    kept clips ──every annotator──> opinions ──agree, the manifest's word first──> attributes
               ──meter, with the neighbours' pauses──> quality ──limits──> kept, or rejected
               ──diarisation, a recording at a time──> speaker     ──aligners, two that agree──> words

A clip is asked about before its quality is judged, so that `redecide` can move limits and the number of opinions
without a listen. Answers of endpoints, which do not come twice alike, are kept in the run (`annotate/`), so a unit that
is done again gets the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from operators.annotate.agree import agree
from operators.annotate.annotator import Aligner, Annotator, ClipSpeaker, Diarisation, Heard, Meter, opinions
from operators.annotate.limits import QualityLimits, reject
from operators.annotate.manifest import known_labels
from operators.annotate.words import agreed_words
from operators.clip import Attributes, Clip, NamedOpinion, Piece, Quality, Unit, Verdict, Word, clip_hash
from operators.shard import clip_language
from stages.base import Resources, Store, Tell, counting

NEIGHBOURS = 4
"""Clips of the recording around a clip, in whose pauses its noise is looked for as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationRule:
    """An AnnotationRule judges what was found of a clip. It listens to nothing: `redecide` uses it on ledgers."""

    min_opinions: int = 2
    limits: QualityLimits = field(default_factory=QualityLimits)

    def attributes(self, said: Sequence[NamedOpinion], piece: Piece) -> Attributes:
        """Return what holds of a clip of this piece: what the manifest says, else what annotators agree on."""
        return agree(said, manifest_labels(piece), self.min_opinions)

    def verdict(self, kept: Verdict, quality: Quality) -> Verdict:
        """Return the verdict of a clip that Rover kept."""
        rejection = reject(quality, self.limits)
        return kept if rejection is None else Verdict(rejection=rejection)


def manifest_labels(piece: Piece) -> dict[str, Any]:
    """Return what is known beforehand of the clips of a piece."""
    return known_labels(piece.recording.provenance) | {"language": piece.recording.language}


@dataclass(kw_only=True)
class Annotate:
    store: Store
    earlier: Store | None = None
    """the run whose answers of endpoints are good here too."""
    rule: AnnotationRule = field(default_factory=AnnotationRule)
    annotators: Sequence[Callable[[], Annotator]] = ()
    kinds: tuple[str, ...] = ()
    """those that annotators are listened to about."""
    meter: Callable[[], Meter] | None = None
    diarisation: Callable[[], Diarisation] | None = None
    aligners: Sequence[Callable[[], Aligner]] = ()
    tolerance_seconds: float = 0.2
    """how near two aligners must place a word."""
    resources: Resources = field(default_factory=Resources)
    name: str = "Annotate"
    tell: Tell | None = None
    """set by a runner that shows what is finished inside a unit."""

    def open(self) -> None:
        self._annotators = [load() for load in self.annotators]
        self._meter = self.meter() if self.meter else None
        self._diarisation = self.diarisation() if self.diarisation else None
        self._aligners = [load() for load in self.aligners]
        self._cache = RunCache(self.store, self.earlier)

    def close(self) -> None:
        for engine in (*self._annotators, self._meter, self._diarisation, *self._aligners):
            if engine is not None:
                engine.close()

    def process(self, unit: Unit) -> Unit:
        chosen = [index for index, clip in enumerate(unit.clips) if clip.verdict is not None and clip.verdict.kept]
        if not chosen:
            return unit
        audio = unit.clip_audio()
        clips = [unit.clips[index] for index in chosen]
        heard = [_heard(clip, audio[index]) for clip, index in zip(clips, chosen, strict=True)]
        said = self._opinions(clips, heard)
        measured = self._quality(unit.clips, audio, chosen)
        pieces = {piece.recording.recording_id: piece for piece in unit.pieces if piece.problem is None}
        speakers = self._speakers(clips, heard, pieces)
        words = self._words(heard)
        done = list(unit.clips)
        for place, index in enumerate(chosen):
            clip, (speaker, overlap) = clips[place], speakers[place]
            assert clip.verdict is not None
            done[index] = replace(
                clip,
                opinions=said[place],
                attributes=self.rule.attributes(said[place], pieces[clip.recording_id]),
                quality=measured[place],
                speaker=speaker,
                overlap=overlap,
                words=words[place],
                verdict=self.rule.verdict(clip.verdict, measured[place]),
            )
        return replace(unit, clips=tuple(done))

    def heard_seconds(self, unit: Unit) -> float:
        return sum(clip.span.seconds for clip in unit.clips if clip.attributes is not None)

    def _opinions(self, clips: Sequence[Clip], heard: Sequence[Heard]) -> list[tuple[NamedOpinion, ...]]:
        found: list[tuple[NamedOpinion, ...]] = [()] * len(heard)
        for annotator in self._annotators:
            progress = counting(self.tell, self.name, clips)
            said = opinions(annotator, heard, self.kinds, cache=self._cache, progress=progress)
            found = [before + more for before, more in zip(found, said, strict=True)]
        return found

    def _quality(self, clips: Sequence[Clip], audio: Sequence[np.ndarray], chosen: Sequence[int]) -> list[Quality]:
        """Return the quality of the chosen clips; rejected ones are neighbours too, their pauses are as quiet."""
        if self._meter is None:
            return [Quality()] * len(chosen)
        return [self._meter.measure(audio[index], [audio[at] for at in _around(clips, index)]) for index in chosen]

    def _speakers(
        self, clips: Sequence[Clip], heard: Sequence[Heard], pieces: Mapping[str, Piece]
    ) -> list[tuple[str | None, float | None]]:
        """Return the speaker of each clip and how much of it more than one speaks; the manifest's name comes first."""
        found: list[tuple[str | None, float | None]] = [(None, None)] * len(clips)
        for recording_id in dict.fromkeys(clip.recording_id for clip in clips):
            places = [place for place, clip in enumerate(clips) if clip.recording_id == recording_id]
            places.sort(key=lambda place: clips[place].span)
            told = self._diarised([heard[place] for place in places])
            named = manifest_labels(pieces[recording_id]).get("speaker")
            for place, speaker in zip(places, told, strict=True):
                own = None if speaker.number is None else speaker_name(pieces[recording_id], speaker.number)
                found[place] = (named or own, speaker.overlap)
        return found

    def _diarised(self, heard: Sequence[Heard]) -> list[ClipSpeaker]:
        if self._diarisation is None:
            return [ClipSpeaker(number=None)] * len(heard)
        return self._diarisation.speakers(heard)

    def _words(self, heard: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        if not self._aligners:
            return [None] * len(heard)
        aligned = [aligner.align(heard) for aligner in self._aligners]
        return [agreed_words(of_clip, self.tolerance_seconds) for of_clip in zip(*aligned, strict=True)]


def speaker_name(piece: Piece, number: int) -> str:
    """Return the name of a speaker of a recording. Where a unit owns but a later part of it, the name says from which
    sample on: nobody knows whether the first voice there is the first voice of the recording.
    """
    recording = clip_hash(piece.recording.recording_id)
    return f"{recording}-{number}" if not piece.start else f"{recording}-{piece.start}-{number}"


def _heard(clip: Clip, pcm: np.ndarray) -> Heard:
    assert clip.verdict is not None
    return Heard(pcm=pcm, text=clip.verdict.label or "", language=clip_language(clip), hypotheses=clip.hypotheses)


def _around(clips: Sequence[Clip], index: int) -> list[int]:
    """Return the places of the clips of its recording around a clip, the nearest first. Clips of one stand together."""
    span, recording_id = clips[index].span, clips[index].recording_id

    def gap(at: int) -> int:
        other = clips[at].span
        return max(other.start - span.end, span.start - other.end)

    near = range(max(0, index - NEIGHBOURS), min(len(clips), index + NEIGHBOURS + 1))
    others = [at for at in near if at != index and clips[at].recording_id == recording_id]
    return sorted(others, key=lambda at: (gap(at), at))[:NEIGHBOURS]


@dataclass(frozen=True, slots=True)
class RunCache:
    """A RunCache keeps answers as objects of the run directory. See operators.annotate.annotator.Cache."""

    store: Store
    earlier: Store | None = None
    """looked into as well, and copied from."""

    def get(self, key: str) -> bytes | None:
        for store in filter(None, (self.store, self.earlier)):
            try:
                data = store.read(_cache_place(key))
            except FileNotFoundError:
                continue
            if store is not self.store:
                self.put(key, data)
            return data
        return None

    def put(self, key: str, data: bytes) -> None:
        self.store.put(_cache_place(key), data)


def _cache_place(key: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z]{8,128}", key):
        raise ValueError(f"{key!r:.80} is no hash: a key of the cache is letters and digits")
    return f"annotate/{key[:2]}/{key}"
