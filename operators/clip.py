"""The nouns every stage shares: a `Clip` of a recording, travelling in a `Unit` of work.

    Recording ──cut at quiet points──> Piece ──VAD──> Clip ──engines──> Hypothesis ──Rover──> Verdict
    a kept Clip ──annotators──> NamedOpinion ... ──agree──> Attributes      ──meters──> Quality, speaker, Word ...
    Unit = some pieces of one domain (about 30 minutes) and the clips found in them

Time is integer samples at 16 kHz counted from the start of the recording, so spans never drift. Records are frozen: a
stage answers with new ones. What was measured (`Agreement`) is apart from what was decided (`Verdict`), so that
thresholds can change without a second listen.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SAMPLE_RATE = 16_000
"""Everything after decoding is 16 kHz mono int16: engines hear exactly the samples that the shard holds."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A Span is a half-open stretch [start, end) in samples at 16 kHz."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not a span: [{self.start}, {self.end})")

    @property
    def samples(self) -> int:
        return self.end - self.start

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def __and__(self, other: Span) -> Span | None:
        """The overlap of two spans, None when they share no sample."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Span(start, end) if start < end else None

    def shift(self, samples: int) -> Span:
        return Span(self.start + samples, self.end + samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A Rejection says why something was dropped: the stage that decided, a reason from a closed list, and detail for a
    reader.
    """

    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A Hypothesis is what one engine heard in a clip."""

    engine: str
    text: str
    language: str | None = None
    language_prob: float | None = None
    avg_logprob: float | None = None
    window: int | None = None
    """the window of the unit that the clip was heard in; clips of one number shared it. None: no window is shared."""
    retaken: bool | None = None
    """whether the clip was in doubt there and heard again, alone."""
    identified_language: str | None = None
    """what the clip was taken for at first, where it was heard again in the language of its recording."""
    identified_prob: float | None = None
    """the probability of that; `language_prob` is then that of the recording's language."""
    tags: tuple[str, ...] | None = None
    """what the engine wrote of the clip besides words, as SenseVoice does (HAPPY, BGM); None: it writes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """An Agreement says how far two transcripts agree. Rates are in percent of the reference's length and may exceed
    100.
    """

    wer: float
    per: float
    asr_norm: str
    """spoken form: what the label may be."""
    copilot_norm: str
    reference: str
    """which transcript was the reference: "asr" or "copilot"."""
    tokens_per_second: float
    numbers_agree: bool | None = None
    """whether both hold the same numbers in the same order; None: not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A Verdict is kept with a label, or rejected with a reason: never both, never neither."""

    label: str | None = None
    rejection: Rejection | None = None

    def __post_init__(self) -> None:
        if (self.label is None) == (self.rejection is None):
            raise ValueError("a verdict is a label or a rejection")

    @property
    def kept(self) -> bool:
        return self.rejection is None


KINDS = ("language", "age", "gender", "emotion", "style", "events")
"""The kinds of attribute that annotators give opinions of; a clip has one label of each but the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedOpinion:
    """A NamedOpinion is what one annotator said of one kind of attribute of a clip."""

    annotator: str
    kind: str
    """one of KINDS."""
    labels: tuple[str, ...]
    """one label; of events any number in the order of their names, () where the annotator says that there are none."""
    score: float | None = None
    """the annotator's own, 0-1 where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Attributes are what was agreed of a clip's speaker and sound. None is unknown; a default stands for nothing."""

    language: str | None = None
    age: str | None = None
    gender: str | None = None
    emotion: str | None = None
    style: str | None = None
    events: tuple[str, ...] | None = None
    """(): known to have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Quality is what was measured of a clip's sound. None is not measured, or cannot be told of this clip."""

    snr_db: float | None = None
    """of speech over the noise between it."""
    bandwidth_hz: float | None = None
    """the highest frequency that holds speech: about 3,400 for a telephone, at most 8,000."""
    clipped: float | None = None
    """share of the samples that lie in a run at full scale, 0-1."""
    dnsmos_sig: float | None = None
    """DNSMOS P.835 (Reddy et al. 2022), 1-5: the speech, the background, both."""
    dnsmos_bak: float | None = None
    dnsmos_ovrl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A Word is one word of a label and where it is spoken, in samples at 16 kHz from the start of its clip."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A Recording is one source file and what the manifest says of it."""

    recording_id: str
    uri: str
    domain: str
    language: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """Every other manifest column (source_url, license, ...), passed through to the ledger unread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A Clip is a stretch of one recording and what we know about it. `verdict` None means still in play."""

    clip_id: str
    recording_id: str
    span: Span
    speech_samples: int = 0
    """samples of the span that the VAD called speech; the rest is pause."""
    hypotheses: tuple[Hypothesis, ...] = ()
    """in engine order: the ASR first, then the copilots."""
    agreement: Agreement | None = None
    verdict: Verdict | None = None
    # What Annotate found, of clips that Rover kept.
    opinions: tuple[NamedOpinion, ...] = ()
    """in the order of annotators, then of KINDS."""
    attributes: Attributes | None = None
    """agreed from the opinions and the manifest; None: nobody was asked."""
    quality: Quality | None = None
    speaker: str | None = None
    """`<recording hash>-<n>`, or as the manifest names the speaker."""
    overlap: float | None = None
    """share of the clip in which more than one speaks, 0-1, where the diarisation tells."""
    words: tuple[Word, ...] | None = None
    """those that two aligners place alike, in order; None: not aligned."""

    @property
    def in_play(self) -> bool:
        return self.verdict is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A Piece is the part of a recording that one unit owns: [start, end) nominal, moved to quiet points when the audio
    is read.
    """

    recording: Recording
    start: int = 0
    end: int | None = None
    """None: to the end of the recording, wherever that turns out to be."""
    declared_samples: int | None = None
    """length the container declares, None when it declares none or could not be probed."""
    estimated_samples: int | None = None
    """about how long it is where it declares nothing, for sizes of units and forecasts only."""
    member: tuple[int, int] | None = None
    """(offset, size) in bytes when the recording is a member of an uncompressed tar."""
    problem: Rejection | None = None
    """why the plan already knows that this recording cannot be used (a duplicate, not a file)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A Stretch is a part of a piece that holds no clip: "non_speech", or "unreadable" with its reason."""

    recording_id: str
    span: Span
    outcome: str
    rejection: Rejection | None = None
    uri: str | None = None
    """set where the recording id alone would mislead: a duplicate has another's id, or the same twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A Unit is one row of work: pieces of one domain on the way in, clips and stretches that tile them on
    the way out.
    """

    unit_id: str
    domain: str
    pieces: tuple[Piece, ...]
    clips: tuple[Clip, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    """int16 [samples]: the audio of `clips`, in order, end to end; the rest is not carried along."""
    busy_seconds: dict[str, float] = field(default_factory=dict)
    """seconds each stage worked on the unit; for the progress display, never part of what is written."""
    heard_seconds: dict[str, float] = field(default_factory=dict)
    """seconds of audio that each stage worked on; likewise."""

    def clip_audio(self) -> list[np.ndarray]:
        """Return int16 [samples] of every clip, in order; views, not copies."""
        ends = np.cumsum([clip.span.samples for clip in self.clips])
        return np.split(self.audio, ends[:-1]) if self.clips else []


def clip_id(recording_id: str, span: Span) -> str:
    """Name of a clip: a function of recording and span, safe as a WebDataset key and as a file name.

    The readable part is for people; the hash keeps two recordings whose names differ only in odd characters apart.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", recording_id).strip("-")[-40:].strip("-") or "recording"
    return f"{readable}-{clip_hash(recording_id)}_{span.start:010d}_{span.end:010d}"


def clip_hash(recording_id: str) -> str:
    """Return the part of a clip's name that tells its recording apart from every other."""
    return hashlib.sha256(recording_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def pcm_bytes(pcm: np.ndarray) -> bytes:
    """Return int16 samples as little-endian bytes, the form audio has between stages and under content hashes."""
    return np.ascontiguousarray(pcm, dtype="<i2").tobytes()
