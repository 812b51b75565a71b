"""What `run` does, in order: preflight, plan, run what has no ledger yet, check the accounting, report.

settings ──> preflight ──> plan.parquet ──> units without a ledger ──executor──> shards + ledgers ──verify──> report
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from rich.console import Console

from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import Fetch, open_store
from pipeline import ledger, recipe
from pipeline.config import Settings, fingerprint
from pipeline.display.words import human_seconds
from pipeline.executor.executor import executor_for
from pipeline.executor.worker import EngineFailed, Outcome, Ready
from pipeline.plan import PLAN_KEY, Plan, load_plan, save_plan
from pipeline.preflight import Preflight
from pipeline.progress import Display, Progress, write_speed
from pipeline.report.command import report
from pipeline.run_directory import CONFIG_KEY, config_bytes, refuse_other_settings
from pipeline.sources.files import read_sources
from pipeline.sources.probe import probe_files
from pipeline.sources.units import Recordings
from pipeline.watch.watch import Watch
from stages.base import Doing, Stage

STOPPED = 3
"""Exit code of a run that `execution.stop_when` stopped."""

PROBE_CHUNK = 256
"""Files whose headers one task of a cluster reads."""


@dataclass(kw_only=True)
class Curation:
    """A Curation is a run directory at work: its settings, its stages, and the executor that runs them.

    Raises UserError for settings that cannot work, before anything is read or written.
    """

    settings: Settings
    console: Console
    stages_of: Callable[[Settings, Store, Fetch], list[Stage]] = recipe.build
    stopped: str | None = field(default=None, init=False)
    """why a bound of `execution.stop_when` stopped the run, None where none did"""

    def __post_init__(self) -> None:
        if not self.settings.output:
            raise UserError("no output: say where the run goes, for example output=runs/first")
        self.limits = recipe.limits(self.settings.audio)
        self.store: Store = open_store(self.settings.output, self.settings.s3)
        self.fetch = Fetch(self.settings.s3, self.settings.execution.scratch, self.limits.max_bytes)
        self.stages = self.stages_of(self.settings, self.store, self.fetch)
        self.executor = executor_for(self.settings.execution, self.stages)
        self.preflight = Preflight(self.settings, self.store, self.console)

    def run(self) -> int:
        """Curate everything that is not done yet and write the report. Return the exit code (`finish`). Raises
        UserError.
        """
        self.preflight.before_plan()
        plan = self.plan()
        with suppress(UserError):  # tidiness only: some stores do not offer it, and some users may not ask
            self.store.sweep()
        todo = ledger.to_do(plan, self.store)
        if len(todo) < len(plan):
            self.console.print(f"{len(plan) - len(todo):,} of {len(plan):,} units are done already", highlight=False)
        failed = 0
        if len(todo):
            self.preflight.after_plan(todo.expected_seconds())
            self.preflight.before_engines()
            failed = self.work(todo, done_before=len(plan) - len(todo), plan=plan)
        return self.finish(plan, failed)

    def check(self) -> int:
        """Do everything that `run` checks, loading every model included, and nothing else. Return 0. Raises
        UserError.
        """
        self.preflight.before_plan()
        self.preflight.before_engines()
        self.work(None)
        return 0

    def plan(self) -> Plan:
        """Return the run's plan: the stored plan, or a new one made from the sources and stored. Raises UserError."""
        if self.store.exists(PLAN_KEY):
            return self._stored_plan()
        if ledger.any_done(self.store):
            raise UserError(
                f"{self.store.root} holds shards and no plan, so their sources are unknown: choose another output"
            )
        if not self.settings.sources:
            raise UserError("no sources: say what to curate, for example sources=[{path: crawl/}]")
        started = time.monotonic()
        workers = self.settings.plan.probe_workers
        probe = partial(probe_files, fetch=self.fetch, workers=workers, limits=self.limits, measure=True)
        scratch = self.settings.execution.scratch
        files = read_sources(self.settings.sources, self.settings.s3)
        with Recordings(scratch) as recordings:
            recordings.extend(self.executor.scatter(probe, files, chunk=PROBE_CHUNK))
            if not recordings.count:
                raise UserError(f"no audio in {', '.join(source.path for source in self.settings.sources)}")
            units = recordings.units(self.settings.plan)
            self.store.put(CONFIG_KEY, config_bytes(self.settings))
            made_of = fingerprint(self.settings)
            save_plan(units, self.store, made_of, estimated=recordings.estimated, scratch=scratch)
        plan = load_plan(self.store)
        total, expected = plan.declared_seconds(), plan.expected_seconds()
        more = f", about {human_seconds(expected - total)} undeclared" if expected > total else ""
        self.console.print(
            f"planned {recordings.count:,} recordings, {human_seconds(total)} declared{more}, into {len(plan):,} units "
            f"in {time.monotonic() - started:.0f} s",
            highlight=False,
        )
        return plan

    def _stored_plan(self) -> Plan:
        refuse_other_settings(self.settings, self.store)
        plan = load_plan(self.store)
        if plan.fingerprint not in ("", fingerprint(self.settings)):
            raise UserError(f"{self.store.root}: config.yaml and plan.parquet are of two runs: choose another output")
        return plan

    def work(self, todo: Plan | None, done_before: int = 0, plan: Plan | None = None) -> int:
        """Run the stages over units, showing progress; None only loads their models. Return how many units failed.

        With the whole `plan` the run is watched: metrics, and bounds that may stop it. Raises UserError.
        """
        seconds = todo.expected_seconds() if todo else 0.0
        units = len(todo) if todo else 0
        progress = Progress(self.stages, units=units, expected_seconds=seconds, done_before=done_before)
        watch = Watch(self.store, plan, todo, self.settings.execution.stop_when, progress) if plan and todo else None
        if watch is not None:
            watch.read_earlier_for_bounds()
            self.stopped = watch.stopped()
            if self.stopped:
                return 0
        if cluster := self.executor.connect():
            self.preflight.passed("cluster", cluster)
        try:
            with Display(progress, self.console) as display:
                self._follow(todo, progress, display, watch)
        finally:
            try:
                if progress.done:
                    write_speed(self.store, progress)
            finally:
                self.executor.close()
        return progress.failed

    def _follow(self, todo: Plan | None, progress: Progress, display: Display, watch: Watch | None) -> None:
        """Show what the executor says until all is done, a bound stops the run, or too much has failed."""
        started = time.monotonic()

        def tell(doing: Doing) -> None:
            display.tell(doing)
            if watch is not None:
                watch.moved()

        try:
            with (
                watch.published(self.executor.metrics(self.store.root)) if watch is not None else nullcontext(),
                closing(self.executor.run(todo or (), tell)) as events,
            ):
                for event in events:
                    match event:
                        case Ready():
                            progress.begin()
                            seconds = time.monotonic() - started
                            self.preflight.passed("engines", f"every stage has loaded its models ({seconds:.0f} s)")
                        case Outcome():
                            display.add(event)
                            if progress.failed >= self.settings.execution.max_failures:
                                last = (event.error or "").strip().partition("\n")[0]
                                raise UserError(f"gave up after {progress.failed} failed units, the last: {last}")
                            if watch is not None:
                                watch.add(event)
                                if progress.done + progress.failed < progress.units and (why := watch.stopped()):
                                    self.stopped = why
                                    break
        except EngineFailed as error:
            self.console.print(error.detail, style="red", markup=False, highlight=False)
            raise

    def finish(self, plan: Plan, failed: int) -> int:
        """Check the accounting and write the report. Return the exit code: 0, 1 with units left undone, or 3 where
        `execution.stop_when` stopped the run.
        """
        left = ledger.to_do(plan, self.store)
        if len(left) < len(plan):
            ledger.verify(plan, self.store, fingerprint(self.settings))
            report(self.settings, self.store, self.console)
        if self.stopped:
            line = (
                f"stopped by execution.stop_when with {len(left):,} unit(s) left undone: {self.stopped}. Look at the "
                "report; with the bound changed, the same command goes on"
            )
            self.console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
            return STOPPED
        if len(left):
            names = ", ".join(islice(left.unit_ids(), 5))
            self.console.print(
                f"{len(left)} unit(s) left undone ({failed} failed): {names}. The same command tries them again.",
                style="red",
            )
            return 1
        return 0
