"""The recipe: settings into the stages of a run, in order.

Segment ──> Transcribe ──> Copilot ──> Rover ──> Annotate, where it has something to do ──> WriteShard
"""

from __future__ import annotations

from operators.annotate.settings import AnnotateSettings
from operators.audio.decode import Limits
from operators.clip import SAMPLE_RATE
from operators.language import canonical
from operators.storage.base import Store
from operators.text.folded import Folder
from operators.text.spoken import Normaliser
from pipeline import engines
from pipeline.config import AudioSettings, Settings, TextSettings, fingerprint, longest_unit_minutes
from stages.annotate import Annotate, AnnotationRule
from stages.base import Fetcher, Stage
from stages.copilot import Copilot
from stages.rover import Rover
from stages.segment import Segment, edge_radius_samples
from stages.transcribe import Transcribe
from stages.write_shard import ShardFormat, WriteShard


def build(settings: Settings, store: Store, fetcher: Fetcher) -> list[Stage]:
    """Return the stages, each with the resources that its settings ask for. Loads no model. Raises UserError."""
    engines.check_languages(settings)
    workers = settings.execution
    return [
        # Sources to clips of 2-30 s: decode, find speech, cut at pauses.
        Segment(
            fetcher=fetcher,
            load_vad=engines.vad(settings.vad),
            cut_settings=settings.cut,
            limits=limits(settings.audio),
            decode_timeout_seconds=settings.audio.decode_timeout_seconds,
            decode_attempts=settings.audio.decode_attempts,
            edge_radius=edge_radius_samples(settings.plan.edge_radius_seconds),
            most_samples=round(2 * 60 * longest_unit_minutes(settings.plan) * SAMPLE_RATE),
            resources=workers.segment,
        ),
        # What was said, and in which language; transcripts that look made up are rejected.
        Transcribe(
            load=engines.recogniser(settings.asr, workers.transcribe.threads),
            rules=settings.hallucination,
            language=settings.asr.language,
            trust_source_language=settings.asr.trust_source_language,
            languages=tuple(canonical(code) or code for code in settings.asr.languages),
            min_language_prob=settings.asr.min_language_prob,
            sure_language_prob=settings.asr.sure_language_prob,
            retry_language=settings.asr.retry_language,
            resources=workers.transcribe,
        ),
        # The same again, from an independent recogniser for that language.
        Copilot(
            load=engines.copilots(settings.copilot, workers.copilot.threads),
            resources=workers.copilot,
        ),
        # Kept where they agree.
        Rover(
            rule=settings.rover,
            folder=folder(settings.text),
            resources=workers.rover,
        ),
        # Who speaks, how, when and how well it sounds: on what was kept.
        *annotate(settings, store),
        # The unit's tar and its ledger, whose presence says that the unit is done.
        WriteShard(
            store=store,
            format=shard_format(settings),
            resources=workers.write_shard,
        ),
    ]


def annotate(settings: Settings, store: Store, earlier: Store | None = None) -> list[Annotate]:
    """Return the stage Annotate, none where nothing is configured. Raises UserError.

    earlier: a run whose answers of endpoints are good in this one too.
    """
    chosen, workers = settings.annotate, settings.execution.annotate
    if not chosen.is_on:
        return []
    return [
        Annotate(
            store=store,
            earlier=earlier,
            rule=annotation_rule(chosen),
            annotators=engines.annotators(chosen, workers.threads),
            kinds=tuple(chosen.kinds),
            meter=engines.meter(chosen, workers.threads),
            diarisation=engines.diarisation(chosen, workers.threads),
            aligners=engines.aligners(chosen, workers.threads),
            tolerance_seconds=chosen.words.tolerance_seconds,
            resources=workers,
        )
    ]


def annotation_rule(settings: AnnotateSettings) -> AnnotationRule:
    """Return how what annotators and meters found is judged."""
    return AnnotationRule(min_opinions=settings.min_opinions, limits=settings.quality)


def limits(audio: AudioSettings) -> Limits:
    """Return what the decoder may take of one recording."""
    return Limits(max_seconds=audio.max_hours * 3600, max_bytes=int(audio.max_gigabytes * 2**30))


def shard_format(settings: Settings) -> ShardFormat:
    """Return how clips are encoded, and the fingerprint that goes into each ledger."""
    audio = settings.audio
    return ShardFormat(codec=audio.codec, opus_kbps=audio.opus_kbps, fingerprint=fingerprint(settings))


def folder(text: TextSettings) -> Folder:
    """Return what brings two transcripts to forms that can be compared."""
    return Folder(fillers=text.fillers, erhua=text.erhua, normaliser=normaliser(text))


def normaliser(text: TextSettings) -> Normaliser:
    """Return what spells a transcript as it is said."""
    return Normaliser(han="simplified" if text.han == "simplified" else "written")
