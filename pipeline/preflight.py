"""Checks before anything heavy: one line each, and the first failure ends the run and says how to fix it.

settings ──> output writable ──> sources readable ──plan──> disk enough ──> cluster can hold the graph ──> engines load
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from operators.annotate.settings import EngineChoice
from operators.asr.funasr import find_funasr
from operators.asr.whisper_folder import find_whisper, has_alignment_heads
from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.hub import HUBS, silent, surely_missing
from pipeline.config import AsrSettings, AudioSettings, Settings, VadSettings
from pipeline.copilots import CopilotModel, entries
from pipeline.display.words import human_seconds, printable
from pipeline.engines import BUILT_IN, CHAT, EXPORTED, FUNASR, WHISPERX, imported
from pipeline.executor.cluster import cluster_address
from pipeline.sources.files import check_source

FLAC_BYTES_PER_SECOND = 18_000
"""16 kHz speech as FLAC takes a little over half of its 32 kB/s of PCM; measured 15-18 kB/s on clean and noisy
speech.
"""


def most_bytes(audio: AudioSettings, seconds: float) -> float:
    """Return how much disk shards take if all of so much audio is kept, in bytes."""
    return seconds * (FLAC_BYTES_PER_SECOND if audio.codec == "flac" else audio.opus_kbps * 130)


def try_output(store: Store, setting: str) -> None:
    """Put and delete a probe, and leave no folder that was not there.

    Raises UserError, which names the setting, when the store cannot be written to.
    """
    probe = ".preflight"
    made = [] if "://" in store.root else _missing_folders(Path(store.root))
    try:
        store.put(probe, b"touchasp")
        store.delete(probe)
    except OSError as error:
        raise UserError(f"cannot write to {store.root} ({error.strerror}): choose another {setting}") from None
    finally:
        for folder in made:
            with suppress(OSError):  # not there, or somebody writes into it already
                folder.rmdir()


def _missing_folders(path: Path) -> list[Path]:
    """Return the folders that a path still lacks, the innermost first."""
    return [each for each in (path, *path.parents) if not each.exists()]


@dataclass
class Preflight:
    settings: Settings
    store: Store
    console: Console
    _wanted: list[tuple[str, str, str, Mapping[str, Any]]] = field(default_factory=list, init=False)
    """setting, engine, name and engine's options of models that are no folders here"""
    _silent: dict[str, str | None] = field(default_factory=dict, init=False)
    """by hub: why there is no use in asking it."""

    def passed(self, check: str, detail: str) -> None:
        line = Text.assemble(("ok", "green"), f" {check:<8} {printable(detail)}")  # names from a crawl are no markup
        self.console.print(line)

    def before_plan(self) -> None:
        """Check output and sources. Raises UserError."""
        try_output(self.store, "output")
        self.passed("output", f"{self.store.root} is writable")
        for source in self.settings.sources:
            self.passed("source", check_source(source, self.settings.s3))
        self.models()

    def models(self) -> None:
        """Cheap look at model paths before minutes go into planning; the stages' roll call really loads them.

        What an engine of the user's own makes of a name is its own business.
        """
        settings, annotate = self.settings, self.settings.annotate
        chosen: list[tuple[str, VadSettings | AsrSettings | CopilotModel | EngineChoice]] = []
        chosen += [("vad.model", settings.vad), ("asr.model", settings.asr)]
        copilot = settings.copilot
        for language, models in entries(copilot.models, copilot.engine, copilot.options).items():
            chosen += [(f"copilot.models.{language}", each) for each in models]
        chosen += [("annotate.annotators.model", each) for each in annotate.annotators]
        chosen += [("annotate.words.aligners.model", each) for each in annotate.words.aligners]
        chosen += [("annotate.speaker.model", annotate.speaker)]
        dnsmos = annotate.quality.dnsmos
        if dnsmos is not None and not os.path.exists(os.path.expanduser(dnsmos)):
            raise UserError(f"annotate.quality.dnsmos: no file {dnsmos}: correct the path to the ONNX model")
        built_in = {engine for engines in BUILT_IN.values() for engine in engines}
        for key, choice in chosen:
            engine, model = choice.engine, choice.model
            if not model or engine not in built_in or engine == CHAT:  # what an endpoint calls its model is its own
                continue
            there = os.path.exists(os.path.expanduser(model))
            if engine == EXPORTED and not there:
                raise UserError(f"{key}: no folder {model}: give one that 'python -m model_training export' wrote")
            path = model.startswith((".", "/", "~")) or model.count("/") > 1
            if path and not there:
                raise UserError(f"{key}: no model folder {model}: correct the path, or give a hub name")
            if not there:
                self._wanted.append((key, engine, model, choice.options))
            elif not os.path.isdir(os.path.expanduser(model)):
                continue
            elif key == "asr.model" and engine == WHISPERX:
                find_whisper(model)  # refuses a folder of another kind, as the engine would, but before Ray starts
            elif engine == FUNASR:
                find_funasr(model, what=key.removesuffix(".model"))
        asr = settings.asr
        folder = Path(asr.model).expanduser()
        if asr.engine == WHISPERX and asr.share_windows and folder.is_dir() and not has_alignment_heads(folder):
            self.passed("windows", f"{asr.model} has no alignment heads: every clip is heard in a window of its own")

    def before_engines(self) -> None:
        """Look whether models that are not here can be fetched, when all else is right. Raises UserError."""
        for key, engine, model, options in self._wanted:
            self._on_hub(key, engine, model, options)

    def _on_hub(self, key: str, engine: str, model: str, options: Mapping[str, Any]) -> None:
        """Refuse a hub's model that is not here and cannot be fetched; elsewhere the workers' own machines decide.

        An engine would say so as well, after a minute of tries, and once every other model is loaded.
        """
        hub = {WHISPERX: "hf", FUNASR: options.get("hub", "ms")}.get(engine)
        asr, execution = self.settings.asr, self.settings.execution
        elsewhere = execution.runner == "ray" and cluster_address(execution) is not None
        own_cache = "download_root" in options
        if hub not in HUBS or elsewhere or own_cache:  # a hub of no known name is the engine's to refuse
            return
        if not surely_missing(hub, model, "whisper" if engine == WHISPERX else ""):
            return
        if why := self._why_silent(hub):
            # A misspelt engine of the user's own says more than a hub that has nothing to do with it.
            for section, own_engine in (("vad", self.settings.vad.engine), ("asr", asr.engine)):
                if own_engine not in BUILT_IN[section]:
                    imported(own_engine)
            raise UserError(
                f"{key}: {model} is not in the local cache and the hub gives no copy ({why}): give a local folder, or "
                "run once where the hub can be reached"
            )

    def _why_silent(self, hub: str) -> str | None:
        if hub not in self._silent:
            self._silent[hub] = silent(hub)
        return self._silent[hub]

    def after_plan(self, input_seconds: float) -> None:
        """Check that the disk can hold the shards, if everything were kept. Raises UserError."""
        if "://" in self.store.root:
            return
        need = most_bytes(self.settings.audio, input_seconds)
        free = shutil.disk_usage(self.store.root).free
        if need > free:
            raise UserError(
                f"the disk of {self.store.root} has {free / 1e9:.1f} GB free and {human_seconds(input_seconds)} of "
                f"audio may need {need / 1e9:.1f} GB: free some space, choose another output, or set audio.codec=opus"
            )
        self.passed("disk", f"{free / 1e9:.0f} GB free, at most {need / 1e9:.2f} GB needed")
