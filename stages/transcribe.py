"""Transcribe: the ASR engine over every clip in play of a unit, many recordings in one batch, then our hallucination
rules.

clips in play ──sorted and batched by the engine──> Hypothesis each ──language, hallucination──> in play, or rejected
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from operators.asr.hallucination import HallucinationRules, check
from operators.asr.recogniser import Recogniser, transcribe
from operators.clip import Clip, Hypothesis, Rejection, Unit
from operators.language import canonical
from stages.base import Resources, Tell, clip_seconds, counting, reject


@dataclass(kw_only=True)
class Transcribe:
    load: Callable[[], Recogniser]
    rules: HallucinationRules
    language: str | None = None
    """one language for every clip; None: the source's where trusted and given, else identified per clip."""
    trust_source_language: bool = True
    languages: tuple[str, ...] = ()
    """languages to keep, as Whisper writes them; empty for all."""
    min_language_prob: float = 0.0
    resources: Resources = field(default_factory=Resources)
    name: str = "Transcribe"
    tell: Tell | None = None
    """set by a runner that shows what is finished inside a unit."""

    def open(self) -> None:
        self._recogniser = self.load()

    def close(self) -> None:
        self._recogniser.close()

    def process(self, unit: Unit) -> Unit:
        chosen = [index for index, clip in enumerate(unit.clips) if clip.in_play]
        if not chosen:
            return unit
        audio = unit.clip_audio()
        # A duplicate may share the id of the recording that was read, and claim another language.
        known = {
            piece.recording.recording_id: piece.recording.language for piece in unit.pieces if piece.problem is None
        }
        hints = [self._hint(known[unit.clips[index].recording_id]) for index in chosen]
        heard = transcribe(
            self._recogniser,
            [audio[index] for index in chosen],
            hints,
            recordings=[unit.clips[index].recording_id for index in chosen],
            progress=counting(self.tell, self.name, [unit.clips[index] for index in chosen]),
        )
        clips = list(unit.clips)
        for index, hypothesis in zip(chosen, heard, strict=True):
            clips[index] = self._judge(replace(clips[index], hypotheses=(hypothesis,)), hypothesis)
        return replace(unit, clips=tuple(clips))

    def heard_seconds(self, unit: Unit) -> float:
        return clip_seconds(unit)

    def _hint(self, source_language: str | None) -> str | None:
        return self.language or (source_language if self.trust_source_language else None)

    def _judge(self, clip: Clip, heard: Hypothesis) -> Clip:
        rejection = check(heard.text, clip.span.seconds, heard.language, heard.avg_logprob, self.rules)
        if rejection is None and self.languages and canonical(heard.language) not in self.languages:
            rejection = Rejection(stage="transcribe", reason="other_language", detail=f"{heard.language}")
        if rejection is None and heard.language_prob is not None and heard.language_prob < self.min_language_prob:
            rejection = Rejection(stage="transcribe", reason="uncertain_language", detail=f"{heard.language_prob:.2f}")
        return clip if rejection is None else reject(clip, rejection)
