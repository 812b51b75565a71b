"""Engine speeds: what the sessions of a run measured of themselves, added up for the report.

speed/*.json, one per session ──fold_speeds──> Speeds: per stage, audio heard, time at work, share of workers' time
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from operators.storage.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpeed:
    """A StageSpeed is one stage over all sessions.

    `actors` is the most that any session had; `offered_seconds` is wall time x actors.
    """

    name: str
    device: str
    actors: float
    busy_seconds: float
    audio_seconds: float
    offered_seconds: float

    @property
    def real_time_factor(self) -> float | None:
        """Return the seconds of audio that one worker handles in a second of work."""
        return self.audio_seconds / self.busy_seconds if self.busy_seconds else None

    @property
    def utilisation(self) -> float | None:
        """Return the share of its workers' time that the stage worked, 0-1."""
        return min(1.0, self.busy_seconds / self.offered_seconds) if self.offered_seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Speeds add up all sessions of a run."""

    sessions: int
    units: int
    input_seconds: float
    wall_seconds: float
    stages: tuple[StageSpeed, ...]

    @property
    def real_time_factor(self) -> float | None:
        return self.input_seconds / self.wall_seconds if self.wall_seconds else None

    def to_json(self) -> dict[str, Any]:
        stages = [
            asdict(stage) | {"real_time_factor": stage.real_time_factor, "utilisation": stage.utilisation}
            for stage in self.stages
        ]
        return asdict(self) | {"real_time_factor": self.real_time_factor, "stages": stages}


def read_speeds(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the speed records of a run, and the keys of the damaged ones: a report is worth more than its speeds."""
    records, damaged = [], []
    for key, _ in store.list("speed/"):
        try:
            record = json.loads(store.read(key))
            fold_speeds([record])
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged.append(key)
        else:
            records.append(record)
    return records, damaged


def fold_speeds(records: Iterable[Mapping[str, Any]]) -> Speeds | None:
    """Add up the speed records of a run's sessions (pipeline/progress.py writes them); None when there are none."""
    records = list(records)
    if not records:
        return None
    names = list(dict.fromkeys(name for record in records for name in record["stages"]))
    stages = []
    for name in names:
        found = [(record["stages"][name], record["wall_seconds"]) for record in records if name in record["stages"]]
        stages.append(
            StageSpeed(
                name=name,
                device=", ".join(sorted({str(stage["device"]) for stage, _ in found})),
                actors=max(stage["actors"] for stage, _ in found),
                busy_seconds=sum(stage["busy_seconds"] for stage, _ in found),
                audio_seconds=sum(stage["audio_seconds"] for stage, _ in found),
                offered_seconds=sum(stage["actors"] * wall for stage, wall in found),
            )
        )
    return Speeds(
        sessions=len(records),
        units=sum(record["units"] for record in records),
        input_seconds=sum(record["input_seconds"] for record in records),
        wall_seconds=sum(record["wall_seconds"] for record in records),
        stages=tuple(stages),
    )
