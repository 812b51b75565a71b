"""Metrics of a run through Ray's own, which every node offers to Prometheus.

    Watch ──set, observe──> RayMetrics ──ray.util.metrics──> the driver's node: http://NODE:PORT/metrics, names ray_...

Totals are gauges that are set to absolute values. A counter of Ray outlives the process that counted: a killed driver's
would stand beside that of the one which goes on, and a sum over both would count every clip twice.
"""

from __future__ import annotations

from typing import Any

GAUGES = {
    "touchasp_units_planned": ("units of work in the plan", ()),
    "touchasp_units_total": ("units that have a ledger", ("domain",)),
    "touchasp_units_waiting": ("units that are neither done nor in work", ()),
    "touchasp_units_in_work": ("units inside a stage", ("stage",)),
    "touchasp_units_queued": ("units that came out of the stage before and wait for this one", ("stage",)),
    "touchasp_eta_seconds": ("time left, at the mean speed of this session", ()),
    "touchasp_clips_total": ("clips in ledgers, by what became of them", ("domain", "outcome", "stage", "reason")),
    "touchasp_audio_seconds_total": (
        "audio in ledgers, by what became of it",
        ("domain", "outcome", "stage", "reason"),
    ),
    "touchasp_recordings_total": ("recordings in ledgers, read whole or quarantined in part", ("domain", "outcome")),
    "touchasp_first_units_kept_ratio": ("share kept of the first ten units of a domain", ("domain",)),
    "touchasp_failed_units_total": ("units that failed in this session, by stage", ("stage",)),
    "touchasp_seconds_since_progress": ("since anything was done", ()),
    "touchasp_stage_busy_ratio": ("share of its workers' time that a stage worked", ("stage",)),
    "touchasp_stage_real_time_factor": ("seconds of audio in a second of one worker's work", ("stage",)),
}
"""By name: what it means, and its labels besides `run`."""

HISTOGRAMS = {
    "touchasp_unit_busy_seconds": (
        "a stage's work on one unit",
        ("stage",), (0.1, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
    ),
    "touchasp_unit_real_time_factor": (
        "seconds of audio in a second of a stage's work, of one unit",
        ("stage",), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10000.0),
    ),
}  # fmt: skip
"""By name: what it means, its labels besides `run`, and the upper edges of its buckets."""


class RayMetrics:
    """RayMetrics are the metrics of one run, told apart from those of others by the label `run`."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge, Histogram

        self._run = run
        self._made: dict[str, Any] = {
            name: Gauge(name, meaning, ("run", *labels)) for name, (meaning, labels) in GAUGES.items()
        }
        for name, (meaning, labels, edges) in HISTOGRAMS.items():
            self._made[name] = Histogram(name, meaning, list(edges), ("run", *labels))

    def set(self, name: str, value: float, **labels: str) -> None:
        self._made[name].set(float(value), {"run": self._run, **labels})

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._made[name].observe(float(value), {"run": self._run, **labels})
