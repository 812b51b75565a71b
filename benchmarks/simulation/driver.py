"""What the driver costs for each unit at each stage: stages that do nothing, with more and more workers, on Ray.

    python -m benchmarks.simulation.driver            about two minutes on two cores

The processor time is that of the driver's process alone, from the first unit's end to the last one's. It grows with the
number of workers, because Ray Data looks at all of them each time.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from operators.clip import Unit
from pipeline.config import ExecutionSettings
from pipeline.executor.ray_data import RayExecutor
from pipeline.executor.worker import Outcome
from stages.base import Resources


@dataclass(kw_only=True)
class Nothing:
    """A stage that does nothing."""

    resources: Resources
    name: str

    def open(self) -> None: ...

    def process(self, unit: Unit) -> Unit:
        return unit

    def heard_seconds(self, unit: Unit) -> float:
        return 0.0

    def close(self) -> None: ...


def seconds_of_driver(units: int, stages: int, workers: int) -> tuple[float, float]:
    """Return seconds of the driver's processor time and of the clock for each unit at each stage."""
    resources = Resources(cpus=0.01, min_workers=workers, max_workers=workers)
    executor = RayExecutor(ExecutionSettings(), [Nothing(resources=resources, name=f"S{at}") for at in range(stages)])
    executor.connect()
    empty = [Unit(unit_id=f"talk-{number:06d}", domain="talk", pieces=()) for number in range(units)]
    begun: tuple[float, float] | None = None
    for event in executor.run(empty):
        if isinstance(event, Outcome) and begun is None:
            begun = time.process_time(), time.monotonic()
    assert begun is not None
    cpu, wall = time.process_time() - begun[0], time.monotonic() - begun[1]
    executor.close()
    return cpu / units / stages, wall / units / stages


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--units", type=int, default=400)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--workers", default="1,8,24", help="of each stage, one measurement after the other")
    arguments = parser.parse_args()
    print("| workers | driver's CPU ms for a unit at a stage | by the clock |\n|--:|--:|--:|")
    for workers in map(int, arguments.workers.split(",")):
        cpu, wall = seconds_of_driver(arguments.units, arguments.stages, workers)
        print(f"| {arguments.stages * workers} | {1000 * cpu:.1f} | {1000 * wall:.1f} |", flush=True)


if __name__ == "__main__":
    main()
