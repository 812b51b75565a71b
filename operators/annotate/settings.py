"""The section `annotate` of the settings: who is asked, when labels agree, how good a clip must sound.

Nothing is named here by default, and then there is no stage Annotate at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operators.annotate.limits import QualityLimits
from operators.clip import KINDS
from operators.settings import setting


@dataclass(kw_only=True)
class EngineChoice:
    """An EngineChoice names an engine, its model, and what the engine takes besides."""

    engine: str = setting("", "a built-in name, or module:Class of yours; empty: none")
    model: str | None = setting(None, "folder or hub name, where the engine needs one")
    device: str = setting("cpu", "or cuda")
    options: dict[str, Any] = setting({}, "the engine's own", infinite=True)


@dataclass(kw_only=True)
class QualitySettings(QualityLimits):
    """QualitySettings say how good a clip must sound, and how that is measured."""

    measure: bool = setting(
        False, "SNR, bandwidth and clipping of every kept clip; always, where Annotate does anything"
    )
    dnsmos: str | None = setting(None, "file of the DNSMOS P.835 model (ONNX); null: not measured")


@dataclass(kw_only=True)
class WordSettings:
    """WordSettings say who aligns labels, and when two of them agree on a word."""

    aligners: list[EngineChoice] = setting(
        [], "two or more, e.g. [{engine: pocketsphinx}, {engine: exported, model: exported/n3}]"
    )
    tolerance_seconds: float = setting(
        0.2,
        "a word is kept where two aligners place its start and end this near, and those of a word beside it",
        above=0,
        at_most=5,
    )


@dataclass(kw_only=True)
class AnnotateSettings:
    """AnnotateSettings are everything that a kept clip may carry besides words."""

    annotators: list[EngineChoice] = setting(
        [], "e.g. [{engine: emotion2vec, model: iic/emotion2vec_plus_large}, {engine: sensevoice}]"
    )
    kinds: list[str] = setting(
        ["language", "emotion", "style", "events"],
        "attributes that are asked for; age and gender only where the annotators are good at them",
        choices=KINDS,
    )
    min_opinions: int = setting(
        2, "annotators that must give a label, none contradicting, before it is kept", at_least=1
    )
    quality: QualitySettings = setting(QualitySettings(), "how good the sound is")
    speaker: EngineChoice = setting(EngineChoice(), "who speaks, told apart within a recording")
    words: WordSettings = setting(WordSettings(), "when each word is spoken")

    @property
    def is_on(self) -> bool:
        """Return whether there is anything to do for the stage."""
        quality = self.quality.measure or self.quality.any_set or self.quality.dnsmos is not None
        return bool(self.annotators or quality or self.speaker.engine or self.words.aligners)
