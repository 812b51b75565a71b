"""What was really said: a truth file, and the part of it that a clip holds.

    truth.jsonl ──read_truth──> TrueRecording by name ──align(clip, its silence)──> the clip's text, or why it has none

A line of the file is one recording, {"recording_id" or "path", "language", "segments": [{"start_s", "end_s", "text"}]};
other keys are not read. A segment without "text" was written down by nobody: clips that touch it cannot be scored.
"text": "" says that there are no words. A recording without segments has no speech at all. Of an annotated run the
attributes are scored too: "age", "gender", "emotion", "style" and "events" of a recording or of a segment, as a
manifest writes them.

Truth usually comes as whole sentences with silence at their edges, which a voice activity detector cuts away. So a
segment may stick out of its clip by a little (`Tolerance.edge`) anywhere, by more (`Tolerance.silence`) where no clip
took the rest.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from operators.annotate.annotator import tidy
from operators.annotate.manifest import known_labels
from operators.clip import KINDS, SAMPLE_RATE, Span
from operators.errors import UserError
from operators.shard import clean

Placement = Literal["scored", "cut", "overlapping", "no_text"]


@dataclass(frozen=True, slots=True)
class TrueSegment:
    span: Span
    text: str | None
    """None: nobody wrote down what is said here."""
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(kind, labels) of what is known of the speaker and the sound."""


@dataclass(frozen=True, slots=True)
class TrueRecording:
    """A TrueRecording holds one recording's segments, by start. `reached` is the furthest end up to each."""

    name: str
    language: str | None
    segments: tuple[TrueSegment, ...]
    reached: tuple[int, ...]
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(kind, labels) of what holds of the whole recording."""

    def near(self, span: Span) -> Iterator[TrueSegment]:
        """Return the segments that share a sample with `span`, in order."""
        first = bisect_right(self.reached, span.start)
        last = bisect_left(self.segments, span.end, key=lambda segment: segment.span.start)
        return (segment for segment in self.segments[first:last] if segment.span & span)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A Tolerance says how far a segment may stick out of the clip that it belongs to, in samples."""

    edge: int = round(0.3 * SAMPLE_RATE)
    """anywhere; a segment that reaches no further into a clip than this is not part of it."""
    silence: int = round(0.8 * SAMPLE_RATE)
    """where the voice activity detector heard nothing; no less than `edge`."""

    def __post_init__(self) -> None:
        if not 0 <= self.edge <= self.silence:
            raise UserError("the tolerances are seconds from 0, and --silence is no less than --tolerance")


def align(recording: TrueRecording, clip: Span, quiet: Span, tolerance: Tolerance) -> tuple[Placement, str]:
    """Return whether a clip can be scored, and the text of the segments that lie in it.

    `quiet` is the clip with the non-speech right before and after it. "cut": a segment lies partly in the clip;
    "overlapping": two voices at once, whose words have no order; "no_text": a segment that nobody wrote down.
    """
    begin = max(clip.start - tolerance.silence, quiet.start - tolerance.edge)
    end = min(clip.end + tolerance.silence, quiet.end + tolerance.edge)
    own: list[TrueSegment] = []
    is_cut = False
    for segment in recording.near(clip):
        start, stop = segment.span.start, segment.span.end
        shared = segment.span & clip
        inside = begin <= start and stop <= end
        if shared is None or (shared.samples <= tolerance.edge and not (inside and _middle_in(segment.span, clip))):
            continue
        own.append(segment)
        is_cut |= not inside
    if any(segment.text is None for segment in own):
        return "no_text", ""
    if is_cut:
        return "cut", ""
    ends = list(itertools.accumulate((segment.span.end for segment in own), max))
    if any(end - after.span.start > tolerance.edge for end, after in zip(ends, own[1:], strict=False)):
        return "overlapping", ""
    return "scored", " ".join(segment.text or "" for segment in own)


def _middle_in(segment: Span, clip: Span) -> bool:
    """Decide for segments so short that they are within the tolerance on both sides of a clip's edge."""
    return clip.start <= (segment.start + segment.end) // 2 < clip.end


class Truth:
    """A Truth finds the recordings of a truth file: by recording_id, by path, or by a path that ends in theirs."""

    def __init__(self, recordings: Sequence[tuple[Sequence[str], TrueRecording]]) -> None:
        self._by_name = {name: recording for names, recording in recordings for name in names}
        self._taken: dict[str, str] = {}
        self.recordings = len(recordings)
        every = [recording for _, recording in recordings]
        self.has_attributes = any(each.labels or any(part.labels for part in each.segments) for each in every)
        """whether anything is known of speakers or sounds, the languages of recordings among it."""

    def find(self, recording_id: str, uri: str) -> TrueRecording | None:
        """Return the truth of one of the run's recordings, None without one.

        Raises UserError when it is that of another recording as well.
        """
        for name in (recording_id, uri, *_endings(uri)):
            found = self._by_name.get(name)
            if found is not None:
                other = self._taken.setdefault(found.name, recording_id)
                if other != recording_id:
                    raise UserError(
                        f"the truth of {found.name!r} fits two recordings of the run, {other!r} and {recording_id!r}: "
                        "give their recording_id in the truth file"
                    )
                return found
        return None


def _endings(uri: str) -> Iterator[str]:
    """Yield the path without its first part, its first two, ...: a crawl may lie anywhere when it is curated."""
    for cut in re.finditer(r"/+|(?<=\.tar)#", uri):
        yield uri[cut.end() :]


def read_truth(data: bytes, name: str) -> Truth:
    """Return what a truth file holds. Raises UserError naming the line that is wrong."""
    recordings: list[tuple[Sequence[str], TrueRecording]] = []
    taken: set[str] = set()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            names, recording = _recording(json.loads(line))
        except json.JSONDecodeError as error:
            why = f"{error.msg}, column {error.colno}"
            raise UserError(f"{name}:{number} is no JSON ({why}): expected one object per recording") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}:{number}: {error}") from None
        if taken & names:
            raise UserError(f"{name}:{number}: {min(taken & names)!r} came before")
        taken |= names
        recordings.append((sorted(names), recording))
    if not recordings:
        raise UserError(f"{name} holds no truth: expected one JSON object per recording")
    return Truth(recordings)


def _recording(line: Any) -> tuple[set[str], TrueRecording]:
    if not isinstance(line, dict):
        raise ValueError("expected a JSON object")
    # As ledgers have them: what UTF-8 cannot hold is escaped.
    names = {clean(str(line[key])) for key in ("recording_id", "path") if line.get(key)}
    if not names:
        raise ValueError("no recording_id and no path")
    listed = line.get("segments")
    if not isinstance(listed, list):
        raise ValueError("no list of segments")
    segments = sorted((_segment(segment) for segment in listed), key=lambda segment: segment.span)
    reached = itertools.accumulate((segment.span.end for segment in segments), max)
    language = line.get("language")
    name = clean(str(line.get("recording_id") or line["path"]))
    language = clean(str(language)).lower() if language else None
    labels = _labels(line | {"language": language})
    return names, TrueRecording(name, language, tuple(segments), tuple(reached), labels)


def _labels(record: dict[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    known = known_labels(record) | {"language": record.get("language")}
    found: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        if kind == "events" and kind in known:
            found[kind] = tuple(sorted({tidy(kind, event) for event in known[kind]}))
        elif isinstance(known.get(kind), str) and (label := tidy(kind, known[kind])):
            found[kind] = (label,)
    return tuple(found.items())


def _segment(segment: Any) -> TrueSegment:
    if not isinstance(segment, dict):
        raise ValueError("a segment is a JSON object")
    start, end = (_seconds(segment.get(key)) for key in ("start_s", "end_s"))
    if not 0 <= start <= end:
        raise ValueError(f"a segment runs from start_s to end_s, in seconds, not from {start} to {end}")
    text = segment.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the text of the segment at {start} s is no string")
    span = Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
    if text and span.start == span.end:
        raise ValueError(f"the segment at {start} s has a text and no length")
    return TrueSegment(span, clean(text) if text else text, _labels(segment))


def _seconds(value: object) -> float:
    try:
        if isinstance(value, (int, float)) and math.isfinite(value * SAMPLE_RATE):
            return value
    except OverflowError:  # an integer that no float can hold
        pass
    raise ValueError(f"start_s and end_s are seconds, not {value!r:.40}")
