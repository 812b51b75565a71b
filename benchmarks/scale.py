"""A million hours on this machine: the plan, what is left to do, the driver and the report, in time and memory.

    numbers ──generate──> a plan of 2 million units, 10 million recordings ──> plan.parquet, a folder of ledgers
                                                                              (names only), or a store that lists them
    each step in a process of its own ──> seconds, peak resident memory, requests

    python -m benchmarks.scale                       2 million units, of which 4 million names on the disk
    python -m benchmarks.scale --units 200000        the same, smaller
    python -m benchmarks.scale --only s3             one step: plan, resume, s3, driver or report
    python -m benchmarks.scale --simulate            1 to 256 workers a stage, played: benchmarks/simulation

What is measured is the product's own code. The recordings are made up: files that are nowhere, whose lengths a table
says instead of a probe. Ledgers that are only listed are empty files; those that are read (--only report) are real.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.targets import show_targets
from operators.clip import SAMPLE_RATE, Piece, Recording, Unit
from operators.storage.fetch import open_store
from pipeline import config
from pipeline.config import Settings, fingerprint
from pipeline.curate import Curation
from pipeline.plan import PLAN_KEY, UNITS_TOGETHER, load_plan, save_plan
from pipeline.preflight import Preflight
from pipeline.run_directory import CONFIG_KEY, config_bytes
from pipeline.sources.files import SourceFile
from pipeline.sources.probe import Length
from pipeline.sources.seen import Seen
from pipeline.sources.units import Recordings
from stages.base import Resources, Stage
from stages.write_shard import shard_keys

ROOT = Path(__file__).resolve().parents[1]
DOMAINS = ("audiobook", "classroom", "lecture", "live", "meeting", "news", "podcast", "talk")
RECORDINGS_OF_A_UNIT = 5
LEFT = 100
"""Units without a ledger, spread over the run."""
UNITS = 2_000_000
MINUTES = 30

MOST_GB, MOST_SECONDS = 1.5, 60.0


def recordings(units: int) -> Iterator[tuple[SourceFile, Length]]:
    """Yield made-up recordings that fill so many units, in no order of their names."""
    count = units * RECORDINGS_OF_A_UNIT
    step = next(each for each in (7_368_787, 15_485_863, 3) if count % each)  # a prime: every number once, scattered
    seconds = MINUTES * 60 // RECORDINGS_OF_A_UNIT
    for at in range(count):
        number = at * step % count
        domain = DOMAINS[number % len(DOMAINS)]
        name = f"{domain}/{number // 1000:05d}/episode-{number:08d}.mp3"
        provenance = {"source_url": f"https://{domain}.example.org/{number:08d}"}
        file = SourceFile(
            uri=f"/crawl/{name}", recording_id=name, domain=domain, language="zh", provenance=provenance, bytes=1 << 20
        )
        yield file, Length(declared=seconds * SAMPLE_RATE)


def unit(domain: str, number: int) -> Unit:
    """A unit of the plan, whose recordings its number names."""
    seconds = MINUTES * 60 // RECORDINGS_OF_A_UNIT
    pieces = []
    for at in range(RECORDINGS_OF_A_UNIT):
        name = f"{domain}/{number // 1000:05d}/episode-{number:06d}-{at}.mp3"
        recording = Recording(
            recording_id=name,
            uri=f"/crawl/{name}",
            domain=domain,
            language="zh",
            provenance={"source_url": f"https://{domain}.example.org/{number:06d}/{at}"},
        )
        pieces.append(Piece(recording=recording, declared_samples=seconds * SAMPLE_RATE))
    return Unit(unit_id=f"{domain}-{number:06d}", domain=domain, pieces=tuple(pieces))


def unit_names(units: int) -> Iterator[tuple[str, int]]:
    for domain in DOMAINS:
        for number in range(-(-units // len(DOMAINS))):
            yield domain, number


def left_undone(units: int) -> set[str]:
    """The names of the units that have no ledger."""
    names = [f"{domain}-{number:06d}" for domain, number in unit_names(units)]
    return set(names[:: max(1, len(names) // LEFT)][:LEFT])


def run_settings(output: str, *more: str) -> Settings:
    return config.load(None, [f"output={output}", "execution.runner=local", f"plan.unit_minutes={MINUTES}", *more])


def write_plan(path: Path, units: int, made_of: str) -> None:
    """Write the plan of `unit`s, column by column: as objects two million of them take minutes.

    The first rows are `save_plan`'s own, which gives the schema.
    """
    names = unit_names(units)
    sample = open_store(str(path.parent))
    save_plan([unit(*name) for name in itertools.islice(unit_names(units), 1)], sample, made_of, estimated=False)
    schema, codec = pq.read_schema(path), "zstd"
    piece = schema.field("pieces").type.value_type
    with pq.ParquetWriter(path, schema, compression=codec) as writer:
        while together := list(itertools.islice(names, UNITS_TOGETHER)):
            domains = pa.array([domain for domain, _ in together])
            numbers = pc.utf8_lpad(pc.cast(pa.array([number for _, number in together]), pa.string()), 6, "0")
            folders = pc.utf8_lpad(pc.cast(pa.array([number // 1000 for _, number in together]), pa.string()), 5, "0")
            each = pa.array([at for at in range(len(together)) for _ in range(RECORDINGS_OF_A_UNIT)])
            place = pa.array([str(at) for _ in together for at in range(RECORDINGS_OF_A_UNIT)])
            domain, number, folder = (column.take(each) for column in (domains, numbers, folders))
            name = pc.binary_join_element_wise(
                pc.binary_join_element_wise(domain, folder, "episode-", "/"),
                pc.binary_join_element_wise(number, place, "-"),
                "",
            )
            name = pc.binary_join_element_wise(name, "mp3", ".")
            host = pc.binary_join_element_wise("https://", domain, ".example.org", "")
            address = pc.binary_join_element_wise(host, number, place, "/")
            samples = MINUTES * 60 // RECORDINGS_OF_A_UNIT * SAMPLE_RATE
            known = {
                "recording_id": name,
                "uri": pc.binary_join_element_wise("/crawl/", name, ""),
                "language": pa.array(["zh"] * len(each)),
                "provenance": pc.binary_join_element_wise('{"source_url": "', address, '"}', ""),
                "start": pa.array([0] * len(each), pa.int64()),
                "declared_samples": pa.array([samples] * len(each), pa.int64()),
            }
            arrays = [known.get(field.name, pa.nulls(len(each), field.type)) for field in piece]
            offsets = pa.array(range(0, len(each) + 1, RECORDINGS_OF_A_UNIT), pa.int32())
            pieces = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(piece)))
            unit_ids = pc.binary_join_element_wise(domains, numbers, "-")
            writer.write_table(pa.Table.from_arrays([unit_ids, domains, pieces], schema=schema))


def generate(folder: Path, units: int, *, names_only: bool = False) -> None:
    """Write a run directory: config.yaml, plan.parquet, and an empty ledger and tar of every unit that is done.

    With `names_only` no ledgers: a store will say that they are there.
    """
    settings = run_settings(str(folder))
    store = open_store(str(folder))
    store.put(CONFIG_KEY, config_bytes(settings))
    write_plan(folder / PLAN_KEY, units, fingerprint(settings))
    if names_only:
        return
    left = left_undone(units)
    for domain, number in unit_names(units):
        name = f"{domain}-{number:06d}"
        if number == 0:
            (folder / "shards" / domain).mkdir(parents=True, exist_ok=True)
        if name not in left:
            tar, _, ledger = shard_keys(name)
            for key in (tar, ledger):
                os.close(os.open(folder / key, os.O_CREAT | os.O_WRONLY, 0o644))


class Enough(Exception):
    """The first unit has begun: what is measured is over."""


@dataclass(kw_only=True)
class FirstUnit:
    """A stage that ends the run when its first unit comes."""

    resources: Resources
    name: str = "First"

    def open(self) -> None: ...

    def process(self, unit: Unit) -> Unit:
        raise KeyboardInterrupt(unit.unit_id)

    def heard_seconds(self, unit: Unit) -> float:
        return 0.0

    def close(self) -> None: ...


class NoModels(Preflight):
    """A Preflight that looks for no models: the stages here have none."""

    def before_engines(self) -> None: ...


def resume(settings: Settings) -> dict[str, float]:
    """Start a run whose units are done but for a few; seconds until the first of them begins."""
    os.environ.setdefault("COLUMNS", "100")
    stages: list[Stage] = [FirstUnit(resources=Resources())]
    console = Console(file=io.StringIO())
    curation = Curation(settings=settings, console=console, stages_of=lambda settings, store, fetch: stages)
    curation.preflight = NoModels(settings, curation.store, console)
    started = time.perf_counter()
    with suppress(KeyboardInterrupt):
        curation.run()
        raise RuntimeError("no unit was left")
    return {"seconds": time.perf_counter() - started}


def plan(folder: Path, units: int) -> dict[str, float]:
    """Plan from made-up recordings: names that came before, sorting, filling units, plan.parquet, its sums."""
    store, started = open_store(str(folder)), time.perf_counter()
    uris, ids = Seen(), Seen()
    with Recordings() as found:
        found.extend(each for each in recordings(units) if uris.add(each[0].uri) and ids.add(each[0].recording_id))
        settings = run_settings(str(folder))
        save_plan(found.units(settings.plan), store, "", estimated=found.estimated)
    del uris, ids
    made = load_plan(store)
    hours = made.expected_seconds() / 3600
    return {"seconds": time.perf_counter() - started, "units": len(made), "hours": hours}


def driver(folder: Path, units: int) -> dict[str, float]:
    """Take every unit of the plan through the plain executor, with a stage that does nothing."""
    from pipeline.executor.local import LocalExecutor

    del units

    class Nothing(FirstUnit):
        def process(self, unit: Unit) -> Unit:
            return unit

    started = time.perf_counter()
    count = sum(1 for _ in LocalExecutor([Nothing(resources=Resources())]).run(load_plan(open_store(str(folder)))))
    return {"seconds": time.perf_counter() - started, "units": count - 1}


def report(folder: Path, units: int) -> dict[str, float]:
    """Check the accounting of a finished run and write its report."""
    from pipeline import ledger
    from pipeline.report.command import report as write

    del units
    settings, store = run_settings(str(folder)), open_store(str(folder))
    console, plan_of_run = Console(file=io.StringIO()), load_plan(store)
    started = time.perf_counter()
    ledger.verify(plan_of_run, store, fingerprint(settings))
    verified = time.perf_counter() - started
    write(settings, store, console)
    return {"verify_seconds": verified, "seconds": time.perf_counter() - started, "units": len(plan_of_run)}


def generate_ledgers(folder: Path, units: int) -> None:
    """Write a finished run whose ledgers can be read: three clips and the pauses between them of each recording.

    Ledgers are the first one with names of their own: built row by row, a hundred thousand would take ten minutes.
    """
    from operators.clip import Span, clip_id
    from operators.shard import SCHEMA_VERSION, ledger_bytes, read_ledger

    settings, store = run_settings(str(folder)), open_store(str(folder))
    store.put(CONFIG_KEY, config_bytes(settings))
    made_of = fingerprint(settings)
    write_plan(folder / PLAN_KEY, units, made_of)
    cuts = [SAMPLE_RATE * each for each in (0, 2, 9, 14, 120, 131, 360)]
    spans = [Span(start, end) for start, end in itertools.pairwise(cuts)]
    rows: list[dict[str, Any]] = []
    for _ in range(RECORDINGS_OF_A_UNIT):
        for at, span in enumerate(spans):
            row: dict[str, Any] = {"start": span.start, "end": span.end, "outcome": "non_speech"}
            if at % 2:
                row |= {"outcome": "rejected", "stage": "transcribe", "reason": "loop", "language": "zh"}
                row["speech_samples"] = span.samples
            rows.append(row)
    table, _ = read_ledger(ledger_bytes(rows, {}))
    for each in itertools.starmap(unit, unit_names(units)):
        of_row = [(piece.recording, at, span) for piece in each.pieces for at, span in enumerate(spans)]
        named = {
            "unit_id": [each.unit_id] * len(of_row),
            "domain": [each.domain] * len(of_row),
            "recording_id": [recording.recording_id for recording, _, _ in of_row],
            "uri": [recording.uri for recording, _, _ in of_row],
            "clip_id": [clip_id(recording.recording_id, span) if at % 2 else None for recording, at, span in of_row],
        }
        own = table
        for name, values in named.items():
            own = own.set_column(own.schema.get_field_index(name), name, pa.array(values, pa.string()))
        path = folder / shard_keys(each.unit_id)[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "unit_id": each.unit_id,
            "fingerprint": made_of,
            "tar_bytes": "0",
            "schema_version": str(SCHEMA_VERSION),
        }
        own = own.replace_schema_metadata({f"touchasp.{name}": value for name, value in metadata.items()})
        pq.write_table(own, path, compression="zstd", write_page_checksum=True)


STEPS = {"plan": plan, "driver": driver, "report": report}


def in_a_process(step: str, *arguments: str) -> dict[str, float]:
    """Run a step of this file in a process of its own; its answer with `gb`, the peak of its resident memory."""
    command = [sys.executable, "-m", "benchmarks.scale", "--step", step, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def step(name: str, folder: str, units: int, endpoint: str | None) -> None:
    if name == "resume":
        more = [f"s3.endpoint_url={endpoint}", "s3.addressing_style=path", "s3.region=us-east-1"] if endpoint else []
        answer = resume(run_settings(folder, *more))
    elif name.startswith("generate"):
        if name == "generate_ledgers":
            generate_ledgers(Path(folder), units)
        else:
            generate(Path(folder), units, names_only=name == "generate_plan")
        answer = {}
    else:
        answer = STEPS[name](Path(folder), units)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(answer | {"gb": used.ru_maxrss / 1e6, "cpu": used.ru_utime + used.ru_stime}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--read", type=int, default=20_000, help="units of the run whose ledgers are read")
    parser.add_argument("--only", default="plan,resume,s3,driver,report")
    parser.add_argument("--folder", help="for the generated runs; a temporary one that goes afterwards, if not given")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the store waits before each answer")
    parser.add_argument("--simulate", action="store_true", help="play how speed grows with workers; runs nothing else")
    parser.add_argument("--traces", default="", help="files of `benchmarks.pipeline --trace`, the first calibrates")
    parser.add_argument("--play-units", type=int, default=10_000, help="units of each play (default 10000)")
    parser.add_argument("--picture", help="file for the curve, as SVG")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(arguments.step, arguments.folder, arguments.units, arguments.endpoint)
        return
    if arguments.simulate:
        from benchmarks.simulation.curve import show

        show(arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments, Path(arguments.folder or temporary))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    units, only = arguments.units, arguments.only.split(",")
    rows: list[tuple[str, dict[str, float], str]] = []

    def run(what: str, name: str, where: Path | str, count: int = units, *more: str, note: str = "") -> None:
        print(f"{what} ...", file=sys.stderr, flush=True)
        rows.append((what, in_a_process(name, "--folder", str(where), "--units", str(count), *more), note))

    if "plan" in only:
        run("plan", "plan", folder / "planned")
    million = folder / "million"
    if not (million / PLAN_KEY).exists() and {"resume", "s3", "driver"} & set(only):
        run("generate the run", "generate" if "resume" in only else "generate_plan", million)
    if "resume" in only:
        run(f"resume with {LEFT} units left, local disk", "resume", million)
    if "s3" in only:
        from benchmarks.scale_store import serve

        with serve(million, units, arguments.latency) as store:
            run(
                f"resume with {LEFT} units left, S3", "resume", "s3://runs/million", units, "--endpoint", store.endpoint
            )
            asked = store.requests()
        note = ", ".join(f"{count:,} {kind}" for kind, count in sorted(asked.items()))
        rows[-1] = (*rows[-1][:2], note)
    if "driver" in only:
        run("driver: every unit through the plain executor", "driver", million)
    if "report" in only:
        for count in (arguments.read // 4, arguments.read):
            where = folder / f"read-{count}"
            if not (where / PLAN_KEY).exists():
                run(f"generate {count:,} ledgers", "generate_ledgers", where, count)
            run(f"verify and report of {count:,} units", "report", where, count)
    print(f"\n{units:,} units of {MINUTES} minutes, {units * RECORDINGS_OF_A_UNIT:,} recordings\n")
    print("| step | seconds | CPU s | peak GB | requests |\n|---|--:|--:|--:|---|")
    for what, found, note in rows:
        seconds = f"{found['seconds']:.1f}" if "seconds" in found else ""
        print(f"| {what} | {seconds} | {found['cpu']:.1f} | {found['gb']:.2f} | {note} |")
    wanted = [(f"{what}: peak GB", MOST_GB, found["gb"]) for what, found, _ in rows if not what.startswith("generate")]
    wanted += [(f"{what}: seconds", MOST_SECONDS, found["seconds"]) for what, found, _ in rows if "resume" in what]
    show_targets(wanted)


if __name__ == "__main__":
    main()
