"""What `run` does, in order: preflight, plan, run what has no ledger yet, check the accounting, report.

settings ──> preflight ──> plan.parquet ──> units without a ledger ──runner──> shards + ledgers ──verify──> report
"""

from __future__ import annotations

import importlib.metadata
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from operators.audio.decode import AudioError, encode_flac
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE, Span, Unit
from operators.errors import UserError
from operators.shard import clean
from operators.storage.base import Store
from operators.storage.fetch import Fetch, open_store
from operators.text.spoken import RULES_VERSION
from pipeline import ledger, recipe
from pipeline.config import Settings, fingerprint, load, output_settings, restore, to_dict
from pipeline.display.words import printable
from pipeline.executor import ray_data as running
from pipeline.plan import load_plan, make_plan, plan_fingerprint, save_plan
from pipeline.preflight import Preflight
from pipeline.progress import Display, Progress, hours, write_speed
from pipeline.report.retention import FOLD_COLUMNS, fold
from pipeline.report.speeds import read_speeds
from pipeline.report.write import Thresholds, render_terminal, write_report
from pipeline.sources.files import Length, SourceFile, probe_files, read_sources
from stages.base import Stage
from stages.segment import LastFetched, read_span

PROBE_CHUNK = 256
"""Files whose headers one task of a cluster reads."""

PACKAGES = [
    "touchasp",
    "av",
    "boto3",
    "ctranslate2",
    "faster-whisper",
    "funasr",
    "numpy",
    "onnxruntime",
    "OpenCC",
    "pocketsphinx",
    "pyannote-audio",
    "pyarrow",
    "pypinyin",
    "rapidfuzz",
    "ray",
    "silero-vad",
    "soundfile",
    "tokenizers",
    "torch",
    "torchaudio",
    "ToJyutping",
    "transformers",
    "whisperx",
]


@dataclass(kw_only=True)
class Curation:
    """A run directory with the settings that made it, or will."""

    settings: Settings
    console: Console

    def __post_init__(self) -> None:
        if not self.settings.output:
            raise UserError("no output: say where the run goes, for example output=runs/first")
        self.store: Store = open_store(self.settings.output, self.settings.s3)
        self.fetch = Fetch(
            self.settings.s3, self.settings.execution.scratch, recipe.limits(self.settings.audio).max_bytes
        )

    def plan(self) -> list[Unit]:
        """The run's units: the stored plan, or a new one made from the sources and stored. Raises UserError."""
        recipe.build(
            self.settings, self.store, self.fetch
        )  # a wrong setting must be found before a plan is stored under it
        if self.store.exists("plan.parquet"):
            self._same_settings()
            if plan_fingerprint(self.store) not in ("", fingerprint(self.settings)):
                raise UserError(
                    f"{self.store.root}: config.yaml and plan.parquet are of two runs: choose another output"
                )
            return load_plan(self.store)
        if ledger.done_units(self.store):
            raise UserError(
                f"{self.store.root} holds shards and no plan, so nobody knows of what: choose another output"
            )
        if not self.settings.sources:
            raise UserError("no sources: say what to curate, for example sources=[{path: crawl/}]")
        files = list(read_sources(self.settings.sources, self.settings.s3))
        if not files:
            raise UserError(f"no audio in {', '.join(source.path for source in self.settings.sources)}")
        started = time.monotonic()
        lengths = self._probe(files)
        units = make_plan(files, lengths, self.settings.plan)
        self.store.put("config.yaml", self.config_bytes())
        save_plan(units, self.store, fingerprint(self.settings))
        total, expected = declared_seconds(units), expected_seconds(units)
        more = f", about {hours(expected - total)} undeclared" if expected > total else ""
        self.console.print(
            f"planned {len(files):,} recordings, {hours(total)} declared{more}, into {len(units):,} units "
            f"in {time.monotonic() - started:.0f} s",
            highlight=False,
        )
        return units

    def _probe(self, files: list[SourceFile]) -> list[Length]:
        """Lengths: read by the nodes of a cluster where there is one, else by a few threads here."""
        execution = self.settings.execution
        probe = partial(
            probe_files,
            fetch=self.fetch,
            workers=self.settings.plan.probe_workers,
            limits=recipe.limits(self.settings.audio),
        )
        if execution.runner != "ray" or running.cluster_address(execution) is None:
            return probe(files)
        running.connect(execution, recipe.build(self.settings, self.store, self.fetch))
        return list(itertools.chain.from_iterable(running.scatter(probe, files, chunk=PROBE_CHUNK)))

    def config_bytes(self) -> bytes:
        versions = {}
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "not installed"
        content = {
            "fingerprint": fingerprint(self.settings),
            "text_rules": RULES_VERSION,
            "settings": to_dict(self.settings),
            "versions": versions,
        }
        return yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode("utf-8")

    def _same_settings(self) -> None:
        """A run directory holds one run: other settings would mix two kinds of shard in it. Raises UserError."""
        stored = stored_config(self.store)
        if stored["fingerprint"] == fingerprint(self.settings):
            return
        before = output_settings(restore(stored["settings"]))
        if text_rules(stored) != RULES_VERSION:
            raise UserError(
                f"{self.store.root} was begun under version {text_rules(stored)} of the text rules, and version "
                f"{RULES_VERSION} gives other labels: choose another output, or 'redecide' the run once it is finished"
            )
        now = output_settings(self.settings)
        changed = [
            f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        mend = "choose another output, or use 'redecide' to change thresholds"
        if not ledger.done_units(self.store):
            mend = "nothing is done in it yet, so remove it if no run is at work there, or choose another output"
        more = " ..." if len(changed) > 4 else ""
        raise UserError(f"{self.store.root} was made with other settings ({'; '.join(changed[:4])}{more}): {mend}")

    def run(self) -> int:
        """Curate everything that is not done yet and write the report. Answers the exit code (`finish`). Raises
        UserError.
        """
        preflight = Preflight(self.settings, self.store, self.console)
        preflight.before_plan()
        units = self.plan()
        with suppress(UserError):  # tidiness only: some stores do not offer it, and some users may not ask
            self.store.sweep()
        todo = ledger.to_do(units, self.store)
        if len(todo) < len(units):
            self.console.print(f"{len(units) - len(todo):,} of {len(units):,} units are done already", highlight=False)
        failed = 0
        if todo:
            preflight.after_plan(expected_seconds(todo))
            failed = self.work(recipe.build(self.settings, self.store, self.fetch), todo, len(units) - len(todo))
        return self.finish(units, failed)

    def check(self) -> int:
        """Everything that `run` checks and nothing that it does. Answers 0. Raises UserError."""
        preflight = Preflight(self.settings, self.store, self.console)
        preflight.before_plan()
        self.work(recipe.build(self.settings, self.store, self.fetch), [], 0)
        return 0

    def print_plan(self, units: list[Unit]) -> None:
        """The plan per domain."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("domain", "units", "recordings", "declared", "refused"):
            table.add_column(column, justify="left" if column == "domain" else "right")
        for domain in sorted({unit.domain for unit in units}):
            own = [unit for unit in units if unit.domain == domain]
            recordings = {piece.recording.recording_id: piece for unit in own for piece in unit.pieces}
            refused = sum(piece.problem is not None for piece in recordings.values())
            name, declared = Text(printable(domain)), hours(declared_seconds(own))
            table.add_row(name, f"{len(own):,}", f"{len(recordings):,}", declared, f"{refused:,}")
        self.console.print(table)
        where = printable(self.store.url("plan.parquet"))
        self.console.print(f"plan: {where}", markup=False, highlight=False, soft_wrap=True)

    def finish(self, units: list[Unit], failed: int) -> int:
        """Check the accounting and write the report. Answers the exit code: 0, or 1 with units left undone."""
        left = ledger.to_do(units, self.store)
        if len(left) < len(units):
            ledger.verify(units, self.store, fingerprint(self.settings))
            report(self.settings, self.store, self.console)
        if left:
            names = ", ".join(unit.unit_id for unit in left[:5])
            self.console.print(
                f"{len(left)} unit(s) left undone ({failed} failed): {names}. The same command tries them again.",
                style="red",
            )
            return 1
        return 0

    def work(self, stages: list[Stage], todo: list[Unit], done_before: int) -> int:
        """Run stages over units, showing progress. Answers how many units failed. Raises UserError."""
        execution = self.settings.execution
        preflight = Preflight(self.settings, self.store, self.console)
        if execution.runner == "ray":
            running.connect(execution, stages)
            preflight.passed("cluster", running.describe_cluster())
        progress = Progress(stages, units=len(todo), expected_seconds=expected_seconds(todo), done_before=done_before)
        started = time.monotonic()
        try:
            with Display(progress, self.console) as display:
                for outcome in self._outcomes(stages, todo):
                    self._check(outcome)
                    if outcome.unit_id == running.ROLL_CALL.unit_id:
                        if outcome.error is not None:
                            self.console.print(outcome.error, style="red", markup=False, highlight=False)
                            raise UserError(f"an engine cannot be loaded: {_first_line(outcome.error)}")
                        progress.begin()
                        preflight.passed(
                            "engines", f"every stage has loaded its models ({time.monotonic() - started:.0f} s)"
                        )
                        continue
                    display.add(outcome)
                    if progress.failed >= execution.max_failures:
                        raise UserError(
                            f"gave up after {progress.failed} failed units, the last: "
                            f"{_first_line(outcome.error or '')}"
                        )
        finally:
            try:
                if progress.done:
                    write_speed(self.store, progress)
            finally:
                if execution.runner == "ray":
                    running.disconnect()
        return progress.failed

    def _outcomes(self, stages: list[Stage], todo: list[Unit]) -> Iterator[running.Outcome]:
        if self.settings.execution.runner == "local":
            return running.run_local(stages, todo)
        return running.run_ray(stages, todo, self.settings.execution)

    def _check(self, outcome: running.Outcome) -> None:
        if outcome.user_error:
            raise UserError(outcome.error or "")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def declared_seconds(units: list[Unit]) -> float:
    """Declared length of the audio in some units; what declares none counts as nothing."""
    total = 0
    for unit in units:
        for piece in unit.pieces:
            end = piece.end if piece.end is not None else piece.declared_samples
            total += max(0, (end or 0) - piece.start)
    return total / SAMPLE_RATE


def expected_seconds(units: list[Unit]) -> float:
    """`declared_seconds`, and an estimate for what declares none."""
    pieces = (piece for unit in units for piece in unit.pieces if piece.problem is None)
    return declared_seconds(units) + sum(piece.estimated_samples or 0 for piece in pieces) / SAMPLE_RATE


def stored_config(store: Store) -> dict[str, Any]:
    """config.yaml of a run. Raises UserError when the folder is no run."""
    if not store.exists("config.yaml"):
        raise UserError(f"{store.root} is no run directory: it has no config.yaml")
    try:
        content = yaml.safe_load(store.read("config.yaml"))
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict) or not {"settings", "fingerprint"} <= content.keys():
        raise UserError(f"{store.url('config.yaml')} is damaged: put back a copy of it, or choose another output")
    return content


def existing_run(root: str, overrides: list[str]) -> tuple[Settings, Store]:
    """A run directory with the settings that made it; `s3.*` overrides say how to reach it. Raises UserError."""
    refused = [override for override in overrides if not override.startswith("s3.")]
    if refused:
        raise UserError(f"{refused[0]}: only s3.* settings can be given here; 'redecide' changes thresholds")
    reach = load(None, overrides).s3
    store = open_store(root, reach)
    settings = restore(stored_config(store)["settings"])
    return replace(settings, output=root, s3=reach if overrides else settings.s3), store


def report(settings: Settings, store: Store, console: Console) -> None:
    """Fold the ledgers, print retention per domain, write report.json and report.html. Raises UserError,
    ConservationError.
    """
    retention = fold(ledger.ledgers(store, FOLD_COLUMNS))
    speeds, damaged = read_speeds(store)
    for key in damaged:
        console.print(f"{key} is damaged: the report's speeds leave that session out", markup=False, highlight=False)
    units = load_plan(store)
    good = (piece for unit in units for piece in unit.pieces if piece.problem is None)
    pieces = {clean(piece.recording.recording_id): piece for piece in good}
    decoding = IsolatedDecoder(recipe.limits(settings.audio), timeout_seconds=settings.audio.decode_timeout_seconds)
    with decoding as decoder, closing(LastFetched(Fetch(settings.s3, settings.execution.scratch))) as fetch:

        def audio(row: Mapping[str, Any]) -> bytes | None:
            try:
                pcm = read_span(fetch, decoder, pieces[row["recording_id"]], Span(row["start"], row["end"]))
            except (AudioError, OSError, UserError):
                return None  # the source has moved on; the page says so
            return encode_flac(pcm)

        rover = settings.rover
        rule = Thresholds(max_wer=rover.max_wer, max_per=rover.max_per, drop_when=rover.drop_when)
        try:
            write_report(store, retention, speeds, audio, thresholds=rule)
        except FileNotFoundError as error:
            raise UserError(f"a shard is missing ({error.filename or error}): 'run' says what to do") from error
    if left := len(ledger.to_do(units, store)):
        console.print(
            f"{len(units) - left:,} of {len(units):,} units are done; this report is of those", style="yellow"
        )
    console.print(render_terminal(retention))
    console.print(f"\nreport: {printable(store.url('report.html'))}", markup=False, highlight=False, soft_wrap=True)


def text_rules(stored: dict[str, Any]) -> int:
    """Return the version of the text rules that a run was begun under; 1 where its config.yaml does not say."""
    version = stored.get("text_rules", 1)
    return version if isinstance(version, int) else 1
