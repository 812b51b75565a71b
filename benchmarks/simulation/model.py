"""A curation as Ray Data runs it, played: pools of workers, a driver, a store, and what goes wrong.

    units of a wave ──> [queue] Segment's workers ──> [queue] ... ──> [queue] WriteShard's workers ──> ledger
                              │ each end of a unit at a stage          │
                              └──> driver: one at a time, then the worker is free and the next stage may have the unit

What is played is what pipeline/executor/ray_data.py asks of Ray 2.60: one unit at a worker, waves of 10,000 units with
pools of their own, queues bounded by bytes in the object store, restarts for ever and so many tries of a unit, blocks
of a lost node made again from the plan. Where the numbers come from says measured.py. Times are seconds.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import log

from benchmarks.simulation.clock import Clock, Cores, Gate
from benchmarks.simulation.records import Machines, Played, Pool, StoreSpeed, Trouble, Work
from benchmarks.simulation.state import Stage, Unit, Worker
from pipeline.executor.ray_data import WAVE_UNITS

RAY_DATA_SHARE = 0.5
"""of the object store that Ray Data takes; of that again half is reserved, evenly for the stages."""
QUEUE_RATIO = 2.0
"""of bytes queued for a stage to bytes it works on, from which on Ray Data holds the stage before it back."""


def play(
    units: Sequence[Work],
    pools: Sequence[Pool],
    machines: Machines,
    store: StoreSpeed | None = None,
    trouble: Trouble | None = None,
    *,
    seed: int = 0,
    wave_units: int = WAVE_UNITS,
) -> Played:
    """Play a run of units until each of them has a ledger, giving the command again for what it left undone.

    The same arguments give the same answer. Raises ValueError where units and pools do not have the same stages.
    """
    if any(len(unit.cpu) != len(pools) or len(unit.bytes) != len(pools) for unit in units):
        raise ValueError("a unit needs its processor time and bytes at every stage")
    return _Play(pools, machines, store or StoreSpeed(), trouble or Trouble(), seed).run(units, wave_units)


class _Play:
    def __init__(
        self, pools: Sequence[Pool], machines: Machines, store: StoreSpeed, trouble: Trouble, seed: int
    ) -> None:
        self._clock, self._dice = Clock(), random.Random(seed)
        self._machines, self._speed, self._trouble = machines, store, trouble
        self._pools = pools
        slow = [self._dice.random() < trouble.slow_nodes for _ in range(machines.nodes)]
        cores = machines.cores - machines.background
        self._nodes = [
            Cores(self._clock, cores, machines.crowding, trouble.slow_speed if each else 1.0) for each in slow
        ]
        for at, taken in machines.taken:
            self._clock.after(at, partial(self._nodes[0].change, max(0.02, cores - taken)))
        self._up_from, self._lost_at = [0.0] * machines.nodes, [-1.0] * machines.nodes
        self._driver = Cores(self._clock, 1.0) if machines.driver_apart else self._nodes[0]
        self._waiting: deque[Callable[[], None]] = deque()
        workers = sum(pool.workers for pool in pools)
        self._driver_seconds = machines.driver_seconds + workers * machines.driver_seconds_of_worker
        self._reads = Gate(self._clock, store.reads_per_second)
        self._writes = Gate(self._clock, store.writes_per_second)
        self._stages: list[Stage] = []
        self._workers: list[Worker] = []
        self._found = Played(useful={pool.stage: 0.0 for pool in pools}, wasted={pool.stage: 0.0 for pool in pools})
        limit = machines.object_store_bytes * RAY_DATA_SHARE
        self._reserved, self._shared = limit / 2 / len(pools), limit / 2
        self._left = 0
        self._undone: list[Work] = []

    # --- sessions and waves -------------------------------------------------------------------------------------------

    def run(self, units: Sequence[Work], wave_units: int) -> Played:
        found, todo = self._found, list(units)
        while todo:
            found.sessions += 1
            self._undone = []
            self._pass(self._machines.start_seconds)
            for start in range(0, len(todo), wave_units):
                self._wave(todo[start : start + wave_units])
            todo = self._undone
        found.seconds = self._clock.now
        return found

    def _pass(self, seconds: float) -> None:
        until = self._clock.now + seconds
        self._clock.after(seconds, lambda: None)
        self._clock.run(lambda: self._clock.now >= until)

    def _wave(self, units: Sequence[Work]) -> None:
        self._stages = [Stage(pool, at) for at, pool in enumerate(self._pools)]
        self._workers = []
        for stage in self._stages:
            for _ in range(stage.pool.workers):
                worker = Worker(stage, len(self._workers) % self._machines.nodes)
                self._workers.append(worker)
                self._open(worker)
                self._await_death(worker)
        if self._trouble.losses_per_hour:
            for node in range(self._machines.nodes):
                self._await_loss(node, self._workers)
        self._stages[0].queue.extend(Unit(work) for work in units)
        self._left = len(units)
        self._dispatch()
        self._clock.run(lambda: not self._left)
        for worker in self._workers:
            self._stop(worker)
        self._pass(self._machines.wave_seconds)

    # --- a unit at a worker -------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give waiting units to free workers, the last stage's first, as far as the object store allows."""
        for stage in reversed(self._stages):
            while stage.queue and stage.idle and self._may_begin(stage):
                worker, unit = stage.idle.popleft(), stage.queue.popleft()
                size = self._input_bytes(stage, unit)
                stage.queued_bytes -= size
                stage.working_bytes += size
                stage.working += 1
                worker.unit, worker.tries = unit, 0
                self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        unit, stage = worker.unit, worker.stage
        assert unit is not None
        worker.began = self._clock.now
        worker.tries += 1
        seconds = unit.work.cpu[stage.at]
        if self._trouble.straggling:
            seconds *= self._dice.lognormvariate(0.0, self._trouble.straggling)
        if worker.new:
            seconds += stage.pool.first_seconds
        worker.new = False
        life = worker.life

        def compute() -> None:
            if worker.life == life:
                worker.job = self._nodes[worker.node].work(seconds, computed)

        def computed() -> None:
            worker.job = None
            wait = self._write_seconds(unit.work) if stage is self._stages[-1] else 0.0
            if wait:
                self._clock.after(wait, lambda: self._end(worker) if worker.life == life else None)
            else:
                self._end(worker)

        wait = self._read_seconds(unit.work) if stage.at == 0 else 0.0
        if wait:
            self._clock.after(wait, compute)
        else:
            compute()

    def _end(self, worker: Worker) -> None:
        unit, stage = worker.unit, worker.stage
        assert unit is not None
        assert worker.began is not None
        unit.spent.append((stage.pool.stage, self._clock.now - worker.began))
        worker.began = None
        if stage is self._stages[-1]:
            self._found.committed[unit.work.name] += 1
        life = worker.life
        self._drive(lambda: self._handled(worker, unit) if worker.life == life else None)

    def _handled(self, worker: Worker, unit: Unit) -> None:
        """The driver has seen that a worker is through with a unit."""
        stage, last = worker.stage, worker.stage is self._stages[-1]
        self._let_go(worker)
        life = worker.life
        self._clock.after(
            self._machines.turnaround_seconds, lambda: self._free(worker) if worker.life == life else None
        )
        # An error of the last stage comes before its ledger.
        if not last and self._trouble.errors and self._dice.random() < self._trouble.errors / (len(self._stages) - 1):
            self._leave_undone(unit)
        elif last:
            self._answer(unit)
        else:
            unit.at_node, unit.since = worker.node, self._clock.now
            size = unit.work.bytes[stage.at]
            stage.out += 1
            stage.out_bytes += size
            following = self._stages[stage.at + 1]
            following.queued_bytes += size
            self._note_bytes()
            self._clock.after(self._machines.handoff_seconds, lambda: self._queue(following, unit))

    def _queue(self, stage: Stage, unit: Unit) -> None:
        if unit.at_node >= 0 and self._lost_at[unit.at_node] >= unit.since:
            stage.queued_bytes -= self._input_bytes(stage, unit)
            self._again(unit)
        else:
            stage.queue.append(unit)
        self._dispatch()

    def _free(self, worker: Worker) -> None:
        worker.stage.idle.append(worker)
        self._dispatch()

    def _let_go(self, worker: Worker) -> None:
        """Part a worker from its unit."""
        stage = worker.stage
        assert worker.unit is not None
        stage.working_bytes -= self._input_bytes(stage, worker.unit)
        stage.working -= 1
        worker.unit = None

    def _answer(self, unit: Unit) -> None:
        self._found.answered[unit.work.name] += 1
        self._found.ended.append(self._clock.now)
        for name, seconds in unit.spent:
            self._found.useful[name] += seconds
        self._left -= 1

    def _leave_undone(self, unit: Unit) -> None:
        self._waste(unit)
        self._undone.append(unit.work)
        self._left -= 1

    def _waste(self, unit: Unit) -> None:
        for name, seconds in unit.spent:
            self._found.wasted[name] += seconds
        unit.spent = []

    def _drive(self, then: Callable[[], None]) -> None:
        """Have the driver do something, one thing after the other."""
        if not self._driver_seconds:
            then()
            return

        def do() -> None:
            self._driver.work(self._driver_seconds, done)

        def done() -> None:
            self._found.driver_busy += self._driver_seconds
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0]()
            then()

        self._waiting.append(do)
        if len(self._waiting) == 1:
            do()

    # --- the object store ---------------------------------------------------------------------------------------------

    def _input_bytes(self, stage: Stage, unit: Unit) -> float:
        return unit.work.bytes[stage.at - 1] if stage.at else 0.0

    def _held(self, stage: Stage) -> float:
        """Bytes of a stage's output in the store: queued for the next stage, or being worked on there."""
        if stage is self._stages[-1]:
            return 0.0
        following = self._stages[stage.at + 1]
        return following.queued_bytes + following.working_bytes

    def _may_begin(self, stage: Stage) -> bool:
        """Whether the object store has room for another unit's output, as Ray Data counts it."""
        if stage is self._stages[-1] or self._shared == float("inf"):
            return True
        following = self._stages[stage.at + 1]
        one = stage.out_bytes / stage.out if stage.out else 0.0
        held = self._held(stage) + stage.working * one
        if not held:
            return True  # a unit larger than the store must pass, too
        over = 0.0
        for other in self._stages:
            more = other.working * (other.out_bytes / other.out if other.out else 0.0)
            over += max(0.0, self._held(other) + more - self._reserved)
        budget = max(0.0, self._reserved - held) + max(0.0, self._shared - over) / len(self._stages)
        if one > budget:
            return False
        crowded = held > (held + budget) / 2 and following.working_bytes > 0
        return not crowded or following.queued_bytes <= QUEUE_RATIO * following.working_bytes

    def _note_bytes(self) -> None:
        if self._shared != float("inf"):
            self._found.most_bytes = max(self._found.most_bytes, sum(self._held(stage) for stage in self._stages))

    def _latency(self) -> float:
        store = self._speed
        return store.latency and self._dice.lognormvariate(log(store.latency), store.spread)

    def _read_seconds(self, work: Work) -> float:
        """How long the first stage waits for its recordings, one after the other."""
        wait = self._reads.seconds_to_wait(work.reads) if work.reads else 0.0
        return wait + sum(self._latency() for _ in range(work.reads)) + work.read_bytes / self._speed.bytes_per_second

    def _write_seconds(self, work: Work) -> float:
        """How long the last stage waits for its tar, then for its ledger."""
        wait = self._writes.seconds_to_wait(2)
        return wait + self._latency() + self._latency() + work.written_bytes / self._speed.bytes_per_second

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _open(self, worker: Worker) -> None:
        """Load a worker's models, once its node is there; then it goes on with its unit, or asks for one."""
        life = worker.life

        def load() -> None:
            if worker.life == life and worker.stage.pool.open_seconds:
                worker.job = self._nodes[worker.node].work(worker.stage.pool.open_seconds, opened)
            elif worker.life == life:
                opened()

        def opened() -> None:
            worker.up, worker.job = True, None
            if worker.unit is not None:
                self._begin(worker)
            else:
                worker.stage.idle.append(worker)
                self._dispatch()

        self._clock.after(max(0.0, self._up_from[worker.node] - self._clock.now), load)

    def _stop(self, worker: Worker) -> None:
        worker.life += 1
        worker.up, worker.new = False, True
        if worker.job is not None:
            self._nodes[worker.node].end(worker.job)
            worker.job = None

    def _await_death(self, worker: Worker) -> None:
        if self._trouble.deaths_per_hour:
            life = worker.life
            self._clock.after(
                self._dice.expovariate(self._trouble.deaths_per_hour / 3600),
                lambda: self._died(worker) if worker.life == life else None,
            )

    def _died(self, worker: Worker) -> None:
        self._found.deaths += 1
        self._restart(worker)
        self._dispatch()

    def _restart(self, worker: Worker) -> None:
        """A worker's process is gone: its unit is tried again there, too often perhaps, once it is up."""
        self._stop(worker)
        if worker in worker.stage.idle:
            worker.stage.idle.remove(worker)
        unit = worker.unit
        if unit is not None:
            name = worker.stage.pool.stage
            if worker.began is not None:
                self._found.wasted[name] += self._clock.now - worker.began
            elif unit.spent and unit.spent[-1][0] == name:  # done, and the driver does not know it
                self._found.wasted[name] += unit.spent.pop()[1]
            worker.began = None
            if worker.tries >= self._trouble.max_tries:
                self._let_go(worker)
                self._leave_undone(unit)
        self._open(worker)
        self._await_death(worker)

    def _await_loss(self, node: int, workers: list[Worker]) -> None:
        wait = self._dice.expovariate(self._trouble.losses_per_hour / 3600)
        self._clock.after(wait, lambda: self._lost(node, workers))

    def _lost(self, node: int, workers: list[Worker]) -> None:
        """A node is gone with its workers and the blocks on it: those units begin at the first stage again."""
        if workers is not self._workers:
            return  # of an earlier wave
        self._await_loss(node, workers)
        if self._up_from[node] > self._clock.now:
            return
        self._found.losses += 1
        self._lost_at[node] = self._clock.now
        self._up_from[node] = self._clock.now + self._trouble.return_seconds
        for stage in self._stages:
            for unit in [unit for unit in stage.queue if unit.at_node == node]:
                stage.queue.remove(unit)
                stage.queued_bytes -= self._input_bytes(stage, unit)
                self._again(unit)
        for worker in workers:
            if worker.node != node:
                continue
            unit = worker.unit
            self._restart(worker)
            if unit is not None and worker.unit is unit and unit.at_node == node:
                self._let_go(worker)
                self._again(unit)
        self._dispatch()

    def _again(self, unit: Unit) -> None:
        """Have a unit, whose block is lost, made again from the plan."""
        self._waste(unit)
        unit.at_node = -1
        self._stages[0].queue.appendleft(unit)
