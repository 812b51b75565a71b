"""What a play is given, and what comes of it: units, pools, machines, a store, trouble. Times are seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Work is one unit: what it takes of each stage.

    Args:
        name: of the unit.
        cpu: processor time at each stage.
        bytes: what each stage hands on through the object store; the last one nothing to speak of.
        reads, read_bytes: objects that the first stage fetches, and their size.
        written_bytes: of the tar that the last stage writes, besides a ledger.
    """

    name: str
    cpu: tuple[float, ...]
    bytes: tuple[float, ...]
    reads: int = 0
    read_bytes: float = 0.0
    written_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A Pool is the workers of one stage.

    Args:
        stage: its name.
        workers: how many.
        open_seconds: of processor time, for its models.
        first_seconds: of processor time more, for the first unit of each worker.
    """

    stage: str
    workers: int
    open_seconds: float = 0.0
    first_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Machines are where the pools run.

    Args:
        nodes: how many; workers are spread over them one after the other.
        cores: of each.
        crowding: see `Cores`.
        background: cores of each that Ray itself takes all the time.
        driver_apart: the driver has a core of its own; if not, it shares the first node's.
        driver_seconds: of its processor time for each unit at each stage.
        driver_seconds_of_worker: and for each worker of all pools, that many times.
        handoff_seconds: from a unit's end at a stage until a free worker of the next stage begins with it.
        turnaround_seconds: from a unit's end at a worker until that worker begins with another.
        wave_seconds: to end a wave, and to begin the next one beside the models' loading.
        object_store_bytes: of all nodes.
        start_seconds: before the first wave: the plan, the listing of ledgers, Ray.
        taken: cores of the first node that other programs take, by the time from which on.
    """

    nodes: int = 1
    cores: float = 2.0
    crowding: float = 1.0
    background: float = 0.0
    driver_apart: bool = False
    driver_seconds: float = 0.0
    driver_seconds_of_worker: float = 0.0
    handoff_seconds: float = 0.0
    turnaround_seconds: float = 0.0
    wave_seconds: float = 0.0
    object_store_bytes: float = float("inf")
    start_seconds: float = 0.0
    taken: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpeed:
    """StoreSpeed is what a store gives: seconds until an answer begins (log-normal), bytes a second of one request, and
    requests a second that it takes before it says SlowDown.
    """

    latency: float = 0.0
    spread: float = 0.0
    bytes_per_second: float = float("inf")
    reads_per_second: float = float("inf")
    writes_per_second: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Trouble is what goes wrong, and how often.

    Args:
        errors: share of units that a stage fails on; they are left undone, and the same command tries them again.
        deaths_per_hour: of each worker's process.
        losses_per_hour: of each node, a spot interruption perhaps.
        return_seconds: until a lost node has another in its place.
        slow_nodes, slow_speed: share of nodes that are slow, and their speed.
        straggling: spread (log-normal) of a unit's processor time about what it should be.
        max_tries: of one unit at one worker whose process dies, `execution.max_task_retries` and one.
    """

    errors: float = 0.0
    deaths_per_hour: float = 0.0
    losses_per_hour: float = 0.0
    return_seconds: float = 180.0
    slow_nodes: float = 0.0
    slow_speed: float = 0.5
    straggling: float = 0.0
    max_tries: int = 4


@dataclass(slots=True)
class Played:
    """What came of it."""

    seconds: float = 0.0
    committed: Counter[str] = field(default_factory=Counter)
    """by unit: how often its ledger was written; more than once where an answer was lost."""
    answered: Counter[str] = field(default_factory=Counter)
    """by unit: how often the driver was told that it is done."""
    useful: dict[str, float] = field(default_factory=dict)
    """by stage: seconds that its workers had units which went on to the next, by the clock."""
    wasted: dict[str, float] = field(default_factory=dict)
    """and had units that came to nothing, or had to be made once more."""
    driver_busy: float = 0.0
    most_bytes: float = 0.0
    """in the object store, of what stages hand on."""
    sessions: int = 0
    """times the command was given."""
    deaths: int = 0
    losses: int = 0
    ended: list[float] = field(default_factory=list)
    """when each unit was answered."""
