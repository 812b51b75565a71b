"""A run is watched by its driver alone: it reads each new ledger once, publishes totals, and looks at the bounds.

    units done before ──┐
    Outcome of a unit ──┴─ledger──> Totals ──every few seconds──> metrics    Totals ──bounds──> stopped, in words

Metrics are absolute values, set again and again: what is summed up nowhere is counted twice nowhere. Until the ledgers
of earlier sessions are read, nothing that rests on them is published: a total never falls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.storage.base import Store
from pipeline import ledger
from pipeline.config import StopWhen
from pipeline.executor.executor import Metrics
from pipeline.executor.worker import Outcome
from pipeline.plan import Plan
from pipeline.progress import Progress
from pipeline.watch.totals import WATCH_COLUMNS, Totals

PUBLISHED_EVERY_SECONDS = 5.0

MOST_DOMAINS = 60
"""Domains that metrics tell apart, the largest by units of the plan."""

MOST_OWED = 1000
"""Ledgers that could not be read, at most, that are tried again at each new one; the rest waits."""


class Watch:
    """A Watch follows one session of a run over the units `todo` of its plan."""

    def __init__(self, store: Store, plan: Plan, todo: Plan, bounds: StopWhen, progress: Progress) -> None:
        self._store, self._plan, self._todo, self._bounds, self._progress = store, plan, todo, bounds, progress
        largest = plan.slugs().most_common(MOST_DOMAINS)
        self.totals = Totals(frozenset(slug for slug, _ in largest))
        self._planned = len(plan)
        self._known = threading.Event()  # the ledgers of earlier sessions are in the totals
        self._over = threading.Event()
        self._owed: dict[str, None] = {}
        self._lock = threading.Lock()
        self._moved_at = time.monotonic()
        self._failed: dict[str, int] = {}
        self._metrics: Metrics | None = None

    def read_earlier_for_bounds(self) -> None:
        """Read what earlier sessions did, where bounds must know it before anything is begun."""
        if self._bounds.is_on:
            self._read_earlier()

    @contextmanager
    def published(self, metrics: Metrics | None) -> Iterator[None]:
        """Publish from a thread for as long as the context lasts, and a last time at its end; None: nowhere."""
        self._metrics = metrics
        if metrics is None:
            yield
            return
        thread = threading.Thread(target=self._publish_until_over, name="touchasp-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(timeout=30.0)

    def moved(self) -> None:
        """Something was done inside a unit."""
        self._moved_at = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Count a unit that is through, by its ledger."""
        self.moved()
        if outcome.error is not None:
            stage = outcome.error.partition(":")[0]
            known = {stage.name for stage in self._progress.stages}
            name = stage if stage in known else "worker"
            self._failed[name] = self._failed.get(name, 0) + 1
            return
        if self._metrics is None and not self._bounds.is_on:
            return
        if self._metrics is not None:
            for name, seconds in outcome.busy_seconds.items():
                self._metrics.observe("touchasp_unit_busy_seconds", seconds, stage=name)
                if seconds > 0 and outcome.heard_seconds.get(name):
                    factor = outcome.heard_seconds[name] / seconds
                    self._metrics.observe("touchasp_unit_real_time_factor", factor, stage=name)
        self._owed[outcome.unit_id] = None
        self._fold([*self._owed][:MOST_OWED])

    def stopped(self) -> str | None:
        """Return why the run should stop, in words, None where all is within its bounds, or too little is known."""
        bounds, totals = self._bounds, self.totals
        hours, units = totals.input_seconds() / 3600, sum(totals.units.values())
        if not bounds.is_on or hours < bounds.after_hours or units < bounds.after_units:
            return None
        of = f"of {hours:.1f} h in {units:,} units"
        retention, quarantine = totals.retention(), totals.quarantine()
        if bounds.min_retention is not None and retention is not None and retention < bounds.min_retention:
            return f"{retention:.1f} % {of} is kept, and min_retention is {bounds.min_retention:g} %"
        if bounds.max_quarantine is not None and quarantine is not None and quarantine > bounds.max_quarantine:
            return (
                f"{quarantine:.1f} % of the recordings, {of}, are in quarantine, and max_quarantine is "
                f"{bounds.max_quarantine:g} %"
            )
        return None

    def _read_earlier(self) -> None:
        left = ledger.UnitSet(self._todo.unit_ids())
        self._fold(unit_id for unit_id in self._plan.unit_ids() if unit_id not in left)
        self._known.set()

    def _fold(self, unit_ids: Iterable[str]) -> None:
        """Add the ledgers of some units. One that cannot be read now is owed: what ails it the run's end will say."""
        asked = iter(unit_ids)
        while not self._over.is_set():
            unit_id = next(asked, None)
            if unit_id is None:
                return
            try:
                table = ledger.columns(self._store, unit_id, WATCH_COLUMNS)
            except (OSError, UserError):
                self._owed[unit_id] = None
                continue
            with self._lock:
                self.totals.add(unit_id, table)
            self._owed.pop(unit_id, None)

    def _publish_until_over(self) -> None:
        if not self._known.is_set():
            self._read_earlier()
        while True:
            over = self._over.wait(PUBLISHED_EVERY_SECONDS)
            with suppress(Exception):  # whatever ails the metrics, the work goes on
                self._publish()
            if over:
                return

    def _publish(self) -> None:
        metrics = self._metrics
        assert metrics is not None
        with self._lock:
            totals = self.totals
            values: list[tuple[str, float, dict[str, str]]] = [
                ("touchasp_units_total", count, {"domain": domain}) for domain, count in totals.units.items()
            ]
            for name, counts, scale in (
                ("touchasp_audio_seconds_total", totals.samples, SAMPLE_RATE),
                ("touchasp_clips_total", totals.clips, 1),
            ):
                for (domain, outcome, stage, reason), count in counts.items():
                    labels = {"domain": domain, "outcome": outcome, "stage": stage, "reason": reason}
                    values.append((name, count / scale, labels))
            for (domain, outcome), count in totals.recordings.items():
                values.append(("touchasp_recordings_total", count, {"domain": domain, "outcome": outcome}))
            for domain, share in totals.first_retention().items():
                values.append(("touchasp_first_units_kept_ratio", share, {"domain": domain}))
            done = sum(totals.units.values())
        if not self._known.is_set():
            values = []
        values += self._of_this_session(done if self._known.is_set() else None)
        for name, value, labels in values:
            metrics.set(name, value, **labels)

    def _of_this_session(self, done: int | None) -> list[tuple[str, float, dict[str, Any]]]:
        progress = self._progress
        since = time.monotonic() - self._moved_at
        values: list[tuple[str, float, dict[str, Any]]] = [
            ("touchasp_units_planned", self._planned, {}),
            ("touchasp_seconds_since_progress", since, {}),
        ]
        if done is not None:
            values.append(("touchasp_units_waiting", max(0, self._planned - done - len(progress.places)), {}))
        if (left := progress.eta_seconds()) is not None:
            values.append(("touchasp_eta_seconds", left, {}))
        for stage in progress.stages:
            name, speed = stage.name, progress.speeds[stage.name]
            values.append(("touchasp_units_in_work", progress.in_work(name), {"stage": name}))
            values.append(("touchasp_units_queued", progress.queued(name), {"stage": name}))
            values.append(("touchasp_failed_units_total", self._failed.get(name, 0), {"stage": name}))
            values.append(("touchasp_stage_busy_ratio", progress.utilisation(name), {"stage": name}))
            values.append(("touchasp_stage_real_time_factor", speed.real_time_factor or 0.0, {"stage": name}))
        values.append(("touchasp_failed_units_total", self._failed.get("worker", 0), {"stage": "worker"}))
        return values
