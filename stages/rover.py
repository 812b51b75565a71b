"""Rover: measure how far the transcripts of each clip in play agree, then keep or reject it.

Measured once (`Agreement`), judged separately (`Verdict`): `redecide` repeats only the second half, from the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from operators.agreement import AgreementJudge, AgreementRule
from operators.clip import Clip, Unit
from operators.shard import clip_language
from operators.text.folded import Folder
from stages.base import Resources, clip_seconds


@dataclass(kw_only=True)
class Rover:
    """The Rover stage runs the `AgreementJudge` over every clip in play."""

    rule: AgreementRule
    folder: Folder = field(default_factory=Folder)
    resources: Resources = field(default_factory=Resources)
    name: str = "Rover"

    def open(self) -> None:
        self._judge = AgreementJudge(self.rule, self.folder)

    def close(self) -> None:
        pass

    def process(self, unit: Unit) -> Unit:
        return replace(unit, clips=tuple(self._decide(clip) if clip.in_play else clip for clip in unit.clips))

    def heard_seconds(self, unit: Unit) -> float:
        return clip_seconds(unit)

    def _decide(self, clip: Clip) -> Clip:
        asr, *copilots = clip.hypotheses
        language = clip_language(clip)
        agreement = self._judge.measure(asr, copilots, language, clip.span.seconds)
        return replace(clip, agreement=agreement, verdict=self._judge.judge(agreement, clip.hypotheses, language))
