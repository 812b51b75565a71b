"""The `report` command: fold a run's ledgers, print retention per domain, write report.json and report.html."""

from __future__ import annotations

from rich.console import Console

from operators.errors import UserError
from operators.storage.base import Store
from pipeline import ledger
from pipeline.config import Settings
from pipeline.display.words import printable
from pipeline.plan import load_plan
from pipeline.report.annotations import ANNOTATION_COLUMNS
from pipeline.report.read import cutting
from pipeline.report.retention import FOLD_COLUMNS, fold
from pipeline.report.speeds import read_speeds
from pipeline.report.terminal import render_terminal
from pipeline.report.write import write_report


def report(settings: Settings, store: Store, console: Console) -> None:
    """Fold the ledgers, print retention per domain, write report.json and report.html. Raises UserError,
    ConservationError.
    """
    columns = [*FOLD_COLUMNS, *(ANNOTATION_COLUMNS if settings.annotate.is_on else ())]
    retention = fold(ledger.ledgers(store, columns), settings.rover)
    speeds, damaged = read_speeds(store)
    for key in damaged:
        console.print(f"{key} is damaged: the report's speeds leave that session out", markup=False, highlight=False)
    plan = load_plan(store)
    with cutting(settings, plan) as audio:
        try:
            write_report(store, retention, speeds, audio, rule=settings.rover, planned=len(plan))
        except FileNotFoundError as error:
            raise UserError(f"a shard is missing ({error.filename or error}): 'run' says what to do") from error
    if left := len(ledger.to_do(plan, store)):
        console.print(f"{len(plan) - left:,} of {len(plan):,} units are done; this report is of those", style="yellow")
    console.print(render_terminal(retention))
    console.print(f"\nreport: {printable(store.url('report.html'))}", markup=False, highlight=False, soft_wrap=True)
