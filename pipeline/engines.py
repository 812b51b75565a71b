"""Engines by import string: which class a setting names, and what it is built with in the worker that will use it.

    vad.engine, asr.engine, copilot.engine, copilot.models, annotate.annotators, .speaker, .words.aligners, .quality
        └──> EngineSpec("module:Class", arguments) ──pickled──> worker ──> engine

A built-in name stands for an engine of ours; `module:Class` is the user's own, which gets its model and its `options`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.annotate.settings import AnnotateSettings, EngineChoice
from operators.asr.recogniser import ANY_LANGUAGE, CopilotRouter
from operators.asr.whisperx import LANGUAGES
from operators.errors import UserError
from operators.language import PROMPTED_AS, canonical
from pipeline.config import AsrSettings, CopilotSettings, Settings, VadSettings
from pipeline.copilots import CopilotModel, entries

WHISPERX, FUNASR, EXPORTED, CHAT = "whisperx", "funasr", "exported", "chat"
_OWN = {EXPORTED: "model_training.decoding.engine:ExportedRecogniser"}
BUILT_IN = {
    "vad": dict.fromkeys(("pyannote", "silero", "fsmn"), "operators.speech.vad:load_vad"),
    "asr": {WHISPERX: "operators.asr.whisperx:WhisperX"} | _OWN,
    "copilot": {FUNASR: "operators.asr.funasr:FunAsr"} | _OWN,
    "annotate.annotators": {
        "emotion2vec": "operators.annotate.emotion:FunAsrEmotion",
        "sensevoice": "operators.annotate.sensevoice:SenseVoice",
        "classifier": "operators.annotate.classifier:HubClassifier",
        "onnx": "operators.annotate.onnx_classifier:OnnxClassifier",
        CHAT: "operators.annotate.chat:ChatAnnotator",
        EXPORTED: "model_training.decoding.annotate:ExportedAnnotator",
    },
    "annotate.speaker": {"clusters": "operators.annotate.speakers:SpeakerClusters"},
    "annotate.words.aligners": {
        "pocketsphinx": "operators.align.aligners:PocketsphinxAligner",
        "whisperx": "operators.align.aligners:WhisperxAligner",
        "funasr": "operators.align.aligners:FunAsrAligner",
        EXPORTED: "model_training.decoding.align:ExportedAligner",
    },
}
"""Import strings of the engines that come with the package, by section of the settings."""

_METER = "operators.annotate.quality:QualityMeter"


@dataclass(frozen=True)
class EngineSpec:
    """An EngineSpec is a picklable call of `module:name`, made in the worker that will use the engine."""

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    offered: dict[str, Any] = field(default_factory=dict)
    """more arguments, given where the engine names them."""
    setting: str = field(default="", compare=False)
    """the part of the settings that names the engine, given as `what` where it takes that: its errors then say which
    setting was wrong. Two languages that name one engine alike still share it."""

    def __call__(self) -> Any:
        """Build the engine. Raises UserError for an argument that it does not take, or that it refuses."""
        engine, name = imported(self.target), self.target.partition(":")[2]
        known = inspect.signature(engine).parameters
        if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
            for argument in self.arguments.keys() - known.keys():
                raise UserError(f"{name} has no {argument}: it takes {', '.join(known)}")
        offered = self.offered | ({"what": self.setting} if self.setting else {})
        arguments = {key: value for key, value in offered.items() if key in known} | self.arguments
        try:
            return engine(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {error}") from None


@dataclass(frozen=True)
class CopilotSpec:
    """A CopilotSpec is a picklable call that builds the router, with an EngineSpec for each model of each language."""

    models: dict[str, list[EngineSpec]]

    def __call__(self) -> CopilotRouter:
        return CopilotRouter(self.models)


def vad(settings: VadSettings) -> EngineSpec:
    """Return how voice activity detection is built. Raises UserError for an engine that nobody knows."""
    arguments = dict(settings.options)
    if settings.model is not None:
        arguments["model"] = settings.model
    if settings.device != "cpu":
        arguments["device"] = settings.device
    if settings.engine in BUILT_IN["vad"]:
        arguments = {"engine": settings.engine} | arguments
    return EngineSpec(target("vad", settings.engine), arguments)


def recogniser(settings: AsrSettings, threads: int) -> EngineSpec:
    """Return how the ASR is built. `threads` are those of its native library. Raises UserError as `vad`."""
    arguments: dict[str, Any] = {"model": settings.model}
    if settings.engine == WHISPERX:
        arguments |= {
            "device": settings.device,
            "compute_type": settings.compute_type,
            "batch_size": settings.batch_size,
            "share_windows": settings.share_windows,
            "window_gap_seconds": settings.window_gap_seconds,
            "sure_language_prob": settings.sure_language_prob,
            "threads": threads,
        }
    elif settings.engine == EXPORTED:
        arguments |= {"device": settings.device, "threads": threads}
    return EngineSpec(target("asr", settings.engine), arguments | settings.options, setting="asr")


def copilots(settings: CopilotSettings, threads: int) -> CopilotSpec:
    """Return how the copilots are built. Raises UserError as `vad`, and for a language that stands there twice."""
    models: dict[str, list[EngineSpec]] = {}
    for language, listed in entries(settings.models, settings.engine, settings.options).items():
        code = language.strip().lower().replace("_", "-")
        if code in models:
            raise UserError(f"copilot.models: {language} stands there twice: give one entry a list of models")
        models[code] = [_copilot(each, f"copilot.models.{language}", settings, threads) for each in listed]
    for code in list(models):  # zh-CN serves what is reported as zh, unless zh has an entry of its own
        models.setdefault(canonical(code) or code, models[code])
    return CopilotSpec(models)


def _copilot(entry: CopilotModel, key: str, settings: CopilotSettings, threads: int) -> EngineSpec:
    arguments: dict[str, Any] = {"model": entry.model}
    if entry.engine == FUNASR:
        arguments |= {"device": settings.device, "batch_seconds": settings.batch_seconds, "threads": threads}
    elif entry.engine == EXPORTED:
        arguments |= {"device": settings.device, "threads": threads}
    named = "copilot.engine" if entry.engine == settings.engine else f"{key}.engine"
    setting = "copilot" if entry.engine == FUNASR else key  # FunASR's device is the section's
    return EngineSpec(target("copilot", entry.engine, named), arguments | dict(entry.options), setting=setting)


def annotators(settings: AnnotateSettings, threads: int) -> list[EngineSpec]:
    """Return how the annotators are built, in order. Raises UserError as `vad`."""
    return _chosen(settings.annotators, "annotate.annotators", threads)


def meter(settings: AnnotateSettings, threads: int) -> EngineSpec:
    """Return how the quality's meter is built."""
    return EngineSpec(_METER, {"dnsmos": settings.quality.dnsmos, "threads": threads})


def diarisation(settings: AnnotateSettings, threads: int) -> EngineSpec | None:
    """Return how the diarisation is built, None where none is named. Raises UserError as `vad`."""
    if not settings.speaker.engine:
        return None
    return _choice(settings.speaker, "annotate.speaker", "annotate.speaker.engine", threads)


def aligners(settings: AnnotateSettings, threads: int) -> list[EngineSpec]:
    """Return how the aligners are built, in order. Raises UserError as `vad`."""
    return _chosen(settings.words.aligners, "annotate.words.aligners", threads)


def _chosen(choices: Sequence[EngineChoice], section: str, threads: int) -> list[EngineSpec]:
    return [_choice(each, section, f"{section}[{at}].engine", threads) for at, each in enumerate(choices)]


def _choice(choice: EngineChoice, section: str, key: str, threads: int) -> EngineSpec:
    arguments = {} if choice.model is None else {"model": choice.model}
    if choice.device != "cpu":
        arguments["device"] = choice.device
    return EngineSpec(target(section, choice.engine, key), arguments | choice.options, {"threads": threads}, section)


def target(section: str, engine: str, key: str = "") -> str:
    """Return the import string of an engine. Raises UserError for a name that is neither built in nor module:Class.

    key: the setting that names it, `section`.engine unless another is given.
    """
    known = BUILT_IN[section]
    if ":" not in engine and engine not in known:
        names = "".join(f"{name}, " for name in known)
        raise UserError(f"{key or section + '.engine'}={engine}: give {names}or module:Class for an engine of your own")
    return known.get(engine, engine)


def imported(target: str) -> Callable[..., Any]:
    """Return the class or function that `module:name` names. Raises UserError when there is none."""
    module, _, name = target.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot load engine {target}: {error}") from None
    return found


def check_languages(settings: Settings) -> None:
    """Refuse a code that the ASR cannot report: every clip would be dropped for it, or none would ever come to its
    copilot.

    An engine of the user's own may report any. Raises UserError.
    """
    named = [("asr.language", settings.asr.language)] if settings.asr.language else []
    named += [("asr.languages", code) for code in settings.asr.languages]
    named += [("copilot.models", code) for code in settings.copilot.models if code != ANY_LANGUAGE]
    given = [("sources", source.language) for source in settings.sources if source.language]
    for key, code in named + given:
        if code in ("True", "False"):
            raise UserError(
                f"{key}: YAML reads yes, no, on and off as true and false: put the code no (Norwegian) in quotes"
            )
    for key, code in named:
        if settings.asr.engine == WHISPERX and canonical(code) not in LANGUAGES | PROMPTED_AS.keys():
            dialects = ", ".join(sorted(PROMPTED_AS))
            raise UserError(
                f"{key}: no language '{code}': write a code of Whisper's, such as zh or en, or one of {dialects}"
            )
