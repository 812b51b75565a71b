"""Transcribe: the ASR engine over every clip in play of a unit, many recordings in one batch, then our hallucination
rules.

clips in play ──sorted and batched by the engine──> Hypothesis each ──language, hallucination──> in play, or rejected
                └──<── unsure, and not in the language of its recording: once more, in that ──┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from operators.asr.hallucination import HallucinationRules, check
from operators.asr.language_vote import Ballot, overruled
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
    sure_language_prob: float = 0.0
    """a clip that is less sure of its language is overruled by its recording; 0: never."""
    retry_language: bool = True
    """whether such a clip is heard again in the recording's language, or rejected."""
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
        identified = [index for index, hint in zip(chosen, hints, strict=True) if hint is None]
        self._settle_languages(clips, identified, audio)
        return replace(unit, clips=tuple(clips))

    def _settle_languages(self, clips: list[Clip], identified: Sequence[int], audio: Sequence[np.ndarray]) -> None:
        """Hear the clips again, or reject them, that are unsure and not in the language of their recording.

        clips: of the unit, judged; changed in place. identified: places of those whose language nobody had given.
        """
        if not self.retry_language:
            for index in identified:
                (heard,) = clips[index].hypotheses
                if heard.identified_language is not None:  # the engine itself went by the recording
                    clips[index] = _uncertain(
                        clips[index], heard.identified_language, heard.identified_prob, heard.language
                    )
        majorities = overruled([_ballot(clips[index]) for index in identified], self.sure_language_prob)
        doubtful = [(identified[at], language) for at, language in majorities.items()]
        again: list[Hypothesis | None] = [None] * len(doubtful)
        if doubtful and self.retry_language:
            places, languages = zip(*doubtful, strict=True)
            again = [*transcribe(self._recogniser, [audio[index] for index in places], languages)]
        for (index, language), hypothesis in zip(doubtful, again, strict=True):
            (first,) = clips[index].hypotheses
            clip = replace(clips[index], verdict=None)
            # An engine that cannot be told a language answers with its own once more.
            if hypothesis is None or canonical(hypothesis.language or "") != canonical(language):
                clips[index] = _uncertain(clip, first.language, first.language_prob, language)
            else:
                settled = replace(hypothesis, identified_language=first.language, identified_prob=first.language_prob)
                clips[index] = self._judge(replace(clip, hypotheses=(settled,)), settled)

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


def _uncertain(clip: Clip, identified: str | None, probability: float | None, of_recording: str | None) -> Clip:
    said = f"{identified} with {probability or 0:.2f} in a recording of {of_recording}"
    return reject(clip, Rejection(stage="transcribe", reason="uncertain_language", detail=said))


def _ballot(clip: Clip) -> Ballot:
    """Return the vote of a clip that was judged: what looks made up, music say, votes for nothing."""
    (heard,) = clip.hypotheses
    rejection = clip.verdict.rejection if clip.verdict else None
    return Ballot(
        recording=clip.recording_id,
        samples=clip.span.samples,
        language=heard.language,
        probability=heard.language_prob,
        votes=rejection is None or rejection.reason == "other_language",
    )
