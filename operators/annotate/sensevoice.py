"""SenseVoice as an annotator: the tags that it writes before its words, <|zh|><|HAPPY|><|BGM|>.

a copilot that is SenseVoice ──its hypothesis' tags──┐
a SenseVoice of our own ──hears the clips────────────┴──> language, emotion, events
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from operators.annotate.annotator import Heard, Opinion, Progress
from operators.asr.funasr import FunAsr
from operators.clip import Hypothesis

EMOTIONS = {
    "HAPPY": "happiness",
    "SAD": "sadness",
    "ANGRY": "anger",
    "NEUTRAL": "neutral",
    "FEARFUL": "fear",
    "DISGUSTED": "disgust",
    "SURPRISED": "surprise",
}
"""By tag; EMO_UNKNOWN and whatever else there is abstains."""

EVENTS = {
    "BGM": "music",
    "Applause": "clapping",
    "Laughter": "laughing",
    "Cry": "crying",
    "Sneeze": "sneezing",
    "Breath": "breathing",
    "Cough": "coughing",
}
_SPEECH = "Speech"
"""The tag of a clip in which nothing but speech was heard."""


class SenseVoice:
    """A SenseVoice reads tags. Without a model those of the copilots, which cost nothing; with one it hears each clip.

    model: folder or hub name, as of the copilot. what: the part of the settings that names it, for errors. More
    arguments are those of FunAsr. Raises UserError for a model that cannot be loaded.
    """

    def __init__(self, model: str | None = None, *, what: str = "annotate.annotators", **options: Any) -> None:
        self._engine = None if model is None else FunAsr(model, what=what, **options)
        self.name = "sensevoice" if self._engine is None else f"sensevoice/{self._engine.name.rpartition('/')[2]}"

    def annotate(self, clips: Sequence[Heard], progress: Progress | None = None) -> list[Mapping[str, Opinion]]:
        """Return what the tags of each clip say; nothing of a clip without tags."""
        if self._engine is None:
            tagged = [next((each for each in clip.hypotheses if each.tags is not None), None) for clip in clips]
            return [{} if each is None else opinions_of(each) for each in tagged]
        heard = self._engine.transcribe([clip.pcm for clip in clips], [clip.language for clip in clips], progress)
        return [opinions_of(each) for each in heard]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def opinions_of(heard: Hypothesis) -> dict[str, Opinion]:
    """Return what the tags of a hypothesis say of emotion, events, and the language that the engine identified."""
    if heard.tags is None:
        return {}
    found: dict[str, Opinion] = {}
    if heard.language is not None and "nospeech" not in heard.tags:
        found["language"] = Opinion((heard.language,))
    emotions = [EMOTIONS[tag] for tag in heard.tags if tag in EMOTIONS]
    if len(emotions) == 1:
        found["emotion"] = Opinion((emotions[0],))
    events = tuple(EVENTS[tag] for tag in heard.tags if tag in EVENTS)
    if events or _SPEECH in heard.tags:
        found["events"] = Opinion(events)
    return found
