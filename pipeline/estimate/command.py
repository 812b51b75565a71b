"""`plan --estimate MINUTES`: curate a sample of the plan in a temporary folder, and say what the whole would take.

    plan ──draw──> chunks, the first one twice ──Curation, stages metered, in one process──> costs, ledgers
                                                                      └──forecast──> hours, gigabytes, cost

The stages, their settings and filters are those of a run. The run's own directory is only read, and what is written
elsewhere is gone at the end. The first chunk comes twice because the first of everything takes longer: dictionaries are
loaded, memory is taken. What its first time took beyond the second counts as start-up.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace

import pyarrow.compute as pc
from rich.console import Console

from operators.clip import SAMPLE_RATE, Unit
from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import Fetch, open_store
from operators.storage.scratch import scratch_folder
from pipeline import ledger, recipe
from pipeline.config import ExecutionSettings, Settings, fingerprint
from pipeline.curate import Curation
from pipeline.estimate.forecast import Measured, Wanted, forecast
from pipeline.estimate.meter import Cost, Meter, MeteredFetch, MeteredStage
from pipeline.estimate.sample import Chunk, Sample, draw
from pipeline.estimate.terminal import Estimated, show_estimate
from pipeline.executor.cluster import cluster_address
from pipeline.plan import PLAN_KEY, Plan, load_plan, save_plan
from pipeline.run_directory import stored_config
from pipeline.show import show_plan
from stages.base import Resources, Stage
from stages.write_shard import shard_keys

_SEED = 0
"""Of the place of the first chunk: the same command takes the same sample."""


def estimate(settings: Settings, minutes: float, console: Console) -> None:
    """Print the plan, and what it would take by about so many minutes of its audio. Raises UserError."""
    if not (math.isfinite(minutes) and minutes > 0):
        raise UserError(f"--estimate {minutes:g}: give minutes of audio to try, more than 0, for example --estimate 20")
    if not settings.output:
        raise UserError("no output: say where the run goes, for example output=runs/first")
    with scratch_folder(settings.execution.scratch) as folder:
        planned, sampled = str(folder / "plan"), str(folder / "sample")
        in_one_process = replace(settings.execution, runner="local")
        here = replace(settings, output=planned, execution=in_one_process)
        run = open_store(settings.output, settings.s3)
        if _has_plan(run, settings):
            plan = load_plan(run)
            show_plan(settings, run, plan, console)
        else:  # not in the run's directory, where it would hold the settings fast that are only tried
            plan = Curation(settings=here, console=console).plan()
            show_plan(settings, None, plan, console)
        sample = draw(plan, minutes, _SEED)
        started = time.monotonic()
        rehearsal = rehearse(replace(here, output=sampled), plan, sample, console)
        if not rehearsal.measured:
            raise UserError("nothing to estimate from: every chunk of the sample failed, as said above")
        made = Estimated(
            forecast=forecast(rehearsal.measured, wanted(settings.execution, sample, rehearsal)),
            sample=sample,
            domains=len({chunk.unit.domain for chunk in sample.chunks}),
            of_domains=len(plan.domains()),
            failed=len(sample.chunks) - len(rehearsal.measured),
            seconds=time.monotonic() - started,
        )
        show_estimate(made, settings.execution.prices, console)


def _has_plan(store: Store, settings: Settings) -> bool:
    """Return whether the run's directory holds the plan of these settings."""
    return store.exists(PLAN_KEY) and stored_config(store)["fingerprint"] == fingerprint(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A Rehearsal is what became of a sample."""

    measured: list[Measured]
    """in the order of the chunks, those that failed left out."""
    start_up: dict[str, Cost]
    """of one worker, by stage."""
    resources: dict[str, Resources]
    """of the stages, in their order."""


def rehearse(settings: Settings, plan: Plan, sample: Sample, console: Console) -> Rehearsal:
    """Return what the chunks of a sample take. Raises UserError.

    settings: those of the run, but for the output, where the sample may be written, and the runner.
    """
    meter = Meter()

    def stages(settings: Settings, store: Store, fetch: Fetch) -> list[Stage]:
        built = recipe.build(settings, store, MeteredFetch(fetch, meter))
        return [MeteredStage(stage, meter) for stage in built]

    curation = Curation(settings=settings, console=console, stages_of=stages)
    curation.preflight.models()
    curation.preflight.before_engines()
    first, again = _first_time(sample.chunks), sample.chunks[0].unit
    units = [first, *(chunk.unit for chunk in sample.chunks)]
    save_plan(units, curation.store, estimated=plan.estimated, scratch=settings.execution.scratch)
    curation.work(load_plan(curation.store))
    names = [stage.name for stage in curation.stages]
    done = ledger.done_units(curation.store)
    chunks = [chunk for chunk in sample.chunks if chunk.unit.unit_id in done]
    return Rehearsal(
        measured=[_measured(chunk, curation.store, meter, names) for chunk in chunks],
        start_up={name: meter.openings[name] + _excess(meter, name, first, again) for name in names},
        resources={stage.name: stage.resources for stage in curation.stages},
    )


def _first_time(chunks: tuple[Chunk, ...]) -> Unit:
    """Return the first chunk under a name that no other has."""
    unit = chunks[0].unit
    return replace(unit, unit_id=f"{unit.unit_id.rpartition('-')[0]}-first-000000")


def _excess(meter: Meter, stage: str, first: Unit, again: Unit) -> Cost:
    """Return what a stage took beyond its usual for the first unit of all; nothing where one of the two failed."""
    costs = []
    for unit in (first, again):
        key = unit.unit_id, stage
        if key not in meter.work:
            return Cost()
        costs.append(meter.work[key] + meter.reading[key])
    more = costs[0] - costs[1]
    return Cost(max(0.0, more.cpu), max(0.0, more.wall))


def _measured(chunk: Chunk, store: Store, meter: Meter, stages: list[str]) -> Measured:
    unit_id = chunk.unit.unit_id
    table, metadata = ledger.read(store, unit_id)
    kept = table.filter(pc.equal(table["outcome"], "kept"))
    samples = pc.sum(pc.subtract(kept["end"], kept["start"])).as_py() or 0
    return Measured(
        expected_seconds=chunk.expected_seconds,
        read_seconds=chunk.read_seconds,
        kept_seconds=samples / SAMPLE_RATE,
        kept_bytes=int(metadata["tar_bytes"]) + store.size(shard_keys(unit_id)[2]),
        work={name: meter.work[unit_id, name] for name in stages},
        reading={name: meter.reading[unit_id, name] for name in stages},
    )


def wanted(execution: ExecutionSettings, sample: Sample, rehearsal: Rehearsal) -> Wanted:
    """Return what is to be forecast from a sample: the whole plan, on what the settings say."""
    one_machine = execution.runner == "ray" and cluster_address(execution) is None
    return Wanted(
        units=sample.units,
        expected_seconds=sample.expected_seconds,
        read_seconds=sample.read_seconds,
        share=sample.share,
        resources=rehearsal.resources,
        start_up=rehearsal.start_up,
        one_process=execution.runner == "local",
        cores=os.cpu_count() if one_machine else None,
        prices=execution.prices,
    )
