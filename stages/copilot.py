"""Copilot: a second, independent recogniser over the clips still in play, chosen by the language the ASR identified.

A language that no model serves rejects the clip as `no_copilot`: a label that nobody confirmed is never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from operators.asr.recogniser import CopilotRouter
from operators.clip import Rejection, Unit
from operators.shard import clip_language
from stages.base import Resources, Tell, counting, reject


@dataclass(kw_only=True)
class Copilot:
    load: Callable[[], CopilotRouter]
    resources: Resources = field(default_factory=Resources)
    name: str = "Copilot"
    tell: Tell | None = None
    """set by a runner that shows what is finished inside a unit."""

    def open(self) -> None:
        self._router = self.load()
        self._router.load()  # every model now: a wrong name must not surface an hour later

    def close(self) -> None:
        self._router.close()

    def process(self, unit: Unit) -> Unit:
        chosen = [index for index, clip in enumerate(unit.clips) if clip.in_play]
        if not chosen:
            return unit
        audio = unit.clip_audio()
        languages = [clip_language(unit.clips[index]) for index in chosen]
        progress = counting(self.tell, self.name, [unit.clips[index] for index in chosen])
        heard = self._router.transcribe([audio[index] for index in chosen], languages, progress)
        clips = list(unit.clips)
        for index, language, hypotheses in zip(chosen, languages, heard, strict=True):
            if hypotheses is None:
                missing = Rejection(stage="copilot", reason="no_copilot", detail=f"no model for {language}")
                clips[index] = reject(clips[index], missing)
            else:
                clips[index] = replace(clips[index], hypotheses=clips[index].hypotheses + tuple(hypotheses))
        return replace(unit, clips=tuple(clips))

    def heard_seconds(self, unit: Unit) -> float:
        return sum(clip.span.seconds for clip in unit.clips if len(clip.hypotheses) > 1)
