"""What somebody answered about the clips of a test set, beside what is true of them: all that an evaluation is made of.

    our model at a size ──evaluate.py──┐
    a language model, a service, ... ──┴──> Answer per clip ──evaluation.py──> counts, intervals, tables, page
                                              └──to_lines──> eval.jsonl ──from_lines──> Answer

An Answer knows no model, vocabulary or decoder, so whoever answers is measured alike. Its text is in written form; the
form in which texts are compared is metrics.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from operators.errors import UserError


class Located(Protocol):
    """A row of the index says where the audio of a clip lies."""

    @property
    def shard(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def start_sample(self) -> int | None: ...
    @property
    def end_sample(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPlace:
    """An AudioPlace is where a clip can be heard: bytes of a tar or file, and samples at 16 kHz in them."""

    shard: str
    offset: int
    size: int
    start_sample: int | None = None
    end_sample: int | None = None

    @classmethod
    def of(cls, row: Located) -> AudioPlace:
        return cls(**{each.name: getattr(row, each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An Answer is what one system, at one size, made of one clip, and what is true of the clip as far as it is known
    and was asked for.
    """

    set: str
    clip_id: str
    n_experts: int = 0
    """The size: the number of routed experts; 0 for a system of one size."""
    method: str = ""
    """How it was decoded, where one system has several ways."""
    recording: str = ""
    """What intervals are over: the speaker where known, else the recording. Empty: the clip is its own."""
    seconds: float = 0.0
    language: str | None = None
    """Of the reference, as the text rules call it."""
    reference: str | None = None
    """None: no transcript is known, or none was asked for."""
    hypothesis: str = ""
    truths: Mapping[str, str] = field(default_factory=dict)
    """Attribute (language, gender, age, emotion, or any other) to its true label, of those known and asked for."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Attribute to the label that was answered; one that is missing here and stands in `truths` is a wrong answer."""
    true_events: tuple[str, ...] | None = None
    """None: not known, or not asked for. (): known to have none."""
    events: tuple[str, ...] = ()
    audio: AudioPlace | None = None

    @property
    def voice(self) -> str:
        """Return what is drawn as a whole by intervals and comparisons."""
        return self.recording or self.clip_id

    @property
    def variant(self) -> tuple[int, str]:
        return self.n_experts, self.method


def to_lines(answers: Iterable[Answer]) -> bytes:
    """Return the answers as JSON Lines, one an answer; the same answers give the same bytes."""
    lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    return "".join(lines).encode("utf-8", "backslashreplace")


def from_lines(data: bytes, name: str) -> Iterator[Answer]:
    """Yield the answers that `to_lines` wrote into the file `name`. Raises UserError naming the line that is none."""
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield _answer(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{name}:{number} is no answer of an evaluation ({error}): evaluate again") from None


def _answer(plain: dict[str, Any]) -> Answer:
    audio, true_events = plain["audio"], plain["true_events"]
    more: dict[str, Any] = {
        "audio": None if audio is None else AudioPlace(**audio),
        "true_events": None if true_events is None else tuple(true_events),
        "events": tuple(plain["events"]),
    }
    return Answer(**plain | more)
