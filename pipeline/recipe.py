"""The recipe: settings into the five stages of a run, in order.

Segment ──> Transcribe ──> Copilot ──> Rover ──> WriteShard
"""

from __future__ import annotations

from dataclasses import asdict

from operators.asr.whisperx import canonical_language
from operators.audio.decode import Limits
from operators.storage.base import Store
from pipeline import engines
from pipeline.config import AudioSettings, Settings, fingerprint
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
            resources=workers.segment,
        ),
        # What was said, and in which language; transcripts that look made up are rejected.
        Transcribe(
            load=engines.recogniser(settings.asr, workers.transcribe.threads),
            rules=settings.hallucination,
            language=settings.asr.language,
            trust_source_language=settings.asr.trust_source_language,
            languages=tuple(canonical_language(code) for code in settings.asr.languages),
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
            normaliser_settings=asdict(settings.text),
            resources=workers.rover,
        ),
        # The unit's tar and its ledger, whose presence says that the unit is done.
        WriteShard(
            store=store,
            format=shard_format(settings),
            resources=workers.write_shard,
        ),
    ]


def limits(audio: AudioSettings) -> Limits:
    """Return what the decoder may take of one recording."""
    return Limits(max_seconds=audio.max_hours * 3600, max_bytes=int(audio.max_gigabytes * 2**30))


def shard_format(settings: Settings) -> ShardFormat:
    """Return how clips are encoded, and the fingerprint that goes into each ledger."""
    audio = settings.audio
    return ShardFormat(codec=audio.codec, opus_kbps=audio.opus_kbps, fingerprint=fingerprint(settings))
