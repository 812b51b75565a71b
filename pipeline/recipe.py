"""Settings into stages, in reading order: this page is the pipeline.

Segment ──> Transcribe ──> Copilot ──> Rover ──> WriteShard
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from operators.agreement import Rules
from operators.asr.hallucination import HallucinationRules
from operators.asr.recogniser import ANY_LANGUAGE
from operators.asr.whisperx import LANGUAGES, PROMPTED_AS, canonical_language
from operators.audio.decode import Limits
from operators.errors import UserError
from operators.speech.segments import CutSettings
from operators.storage.base import Store
from pipeline import config
from stages.base import Fetcher, Resources, Stage
from stages.copilot import Copilot
from stages.rover import Rover
from stages.segment import Segment, edge_radius_samples
from stages.transcribe import Transcribe
from stages.write_shard import ShardFormat, WriteShard


def build(settings: config.Settings, store: Store, fetcher: Fetcher) -> list[Stage]:
    """The stages of a run, each with the resources its settings ask for. No model is loaded. Raises UserError."""
    check_languages(settings)
    return [
        Segment(
            fetcher=fetcher,
            load_vad=vad(settings.vad),
            cut_settings=cutting(settings.cut),
            limits=limits(settings.audio),
            decode_timeout_seconds=settings.audio.decode_timeout_seconds,
            decode_attempts=settings.audio.decode_attempts,
            edge_radius=edge_radius_samples(settings.plan.edge_radius_seconds),
            resources=resources(settings.execution.segment),
        ),
        Transcribe(
            load=recogniser(settings.asr, settings.execution.transcribe.threads),
            rules=made(HallucinationRules, "hallucination", settings.hallucination),
            language=settings.asr.language,
            trust_source_language=settings.asr.trust_source_language,
            languages=tuple(canonical_language(code) for code in settings.asr.languages),
            min_language_prob=settings.asr.min_language_prob,
            resources=resources(settings.execution.transcribe),
        ),
        Copilot(
            load=copilots(settings.copilot, settings.execution.copilot.threads),
            resources=resources(settings.execution.copilot),
        ),
        Rover(
            rules=rules(settings.rover),
            normaliser_settings={"fillers": settings.text.fillers, "erhua": settings.text.erhua},
            resources=resources(settings.execution.rover),
        ),
        WriteShard(
            store=store,
            format=shard_format(settings),
            resources=resources(settings.execution.write_shard),
        ),
    ]


def shard_format(settings: config.Settings) -> ShardFormat:
    return ShardFormat(
        codec=settings.audio.codec, opus_kbps=settings.audio.opus_kbps, fingerprint=config.fingerprint(settings)
    )


def resources(workers: config.WorkerSettings) -> Resources:
    return Resources(**asdict(workers))


def limits(audio: config.AudioSettings) -> Limits:
    return Limits(max_seconds=audio.max_hours * 3600, max_bytes=int(audio.max_gigabytes * 2**30))


def rules(rover: config.RoverSettings) -> Rules:
    return made(Rules, "rover", asdict(rover))


def cutting(cut: config.CutSettings) -> CutSettings:
    return made(CutSettings, "cut", asdict(cut))


def made(record: Callable[..., Any], key: str, values: dict[str, Any]) -> Any:
    """What an operator's settings, or an engine's, make of a free-form part of the tree. Raises UserError."""
    known = inspect.signature(record).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
        for name in values.keys() - known.keys():
            raise UserError(f"{key} has no {name}: it takes {', '.join(known)}")
    try:
        return record(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}") from None


def check_languages(settings: config.Settings) -> None:
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
        if settings.asr.engine == "whisperx" and canonical_language(code) not in LANGUAGES | PROMPTED_AS.keys():
            dialects = ", ".join(sorted(PROMPTED_AS))
            raise UserError(
                f"{key}: no language '{code}': write a code of Whisper's, such as zh or en, or one of {dialects}"
            )


def vad(settings: config.VadSettings) -> Load:
    arguments = dict(settings.options)
    if settings.model is not None:
        arguments["model"] = settings.model
    if settings.device != "cpu":
        arguments["device"] = settings.device
    if ":" in settings.engine:
        return Load(settings.engine, arguments)
    return Load("operators.speech.vad:load_vad", {"engine": settings.engine} | arguments)


def recogniser(settings: config.AsrSettings, threads: int) -> Load:
    if settings.engine != "whisperx":
        return Load(settings.engine, {"model": settings.model} | settings.options)
    arguments = {
        "model": settings.model,
        "device": settings.device,
        "compute_type": settings.compute_type,
        "batch_size": settings.batch_size,
        "share_windows": settings.share_windows,
        "window_gap_seconds": settings.window_gap_seconds,
        "threads": threads,
    }
    return Load("operators.asr.recogniser:WhisperX", arguments | settings.options)


def copilots(settings: config.CopilotSettings, threads: int) -> LoadCopilots:
    engine, arguments = settings.engine, dict(settings.options)
    if engine == "funasr":
        engine = "operators.asr.recogniser:FunAsr"
        arguments = {"device": settings.device, "batch_seconds": settings.batch_seconds, "threads": threads} | arguments
    models: dict[str, list[str]] = {}
    for language, given in settings.models.items():
        code = language.strip().lower().replace("_", "-")
        if given and code in models:
            raise UserError(f"copilot.models: {language} stands there twice: give one entry a list of models")
        if given:
            models[code] = [given] if isinstance(given, str) else list(given)
    for code in list(models):  # zh-CN serves what is reported as zh, unless zh has an entry of its own
        models.setdefault(canonical_language(code), models[code])
    return LoadCopilots(models=models, engine=engine, arguments=arguments)


@dataclass(frozen=True)
class Load:
    """A picklable call of `module:name`, made in the worker that will use the engine. `module:name` may be a user's
    own.
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return made(imported(self.target), self.target.partition(":")[2], self.arguments)


@dataclass(frozen=True)
class LoadCopilots:
    models: dict[str, list[str]]
    engine: str
    arguments: dict[str, Any]

    def __call__(self) -> Any:
        from operators.asr.recogniser import CopilotRouter

        return CopilotRouter(
            {
                language: [Load(self.engine, {"model": model} | self.arguments) for model in models]
                for language, models in self.models.items()
            }
        )


def imported(target: str) -> Callable[..., Any]:
    """The class or function that `module:name` names. Raises UserError when there is none."""
    module, colon, name = target.partition(":")
    if not colon:
        raise UserError(f"unknown engine '{target}': expected a built-in name, or module:Class for one of your own")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot load engine {target}: {error}") from None
    return found
