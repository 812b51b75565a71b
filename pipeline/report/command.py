"""The `report` command: fold a run's ledgers, print retention per domain, write report.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rich.console import Console

from operators.audio.decode import AudioError, encode_flac
from operators.audio.isolated import IsolatedDecoder
from operators.clip import Piece, Span
from operators.errors import UserError
from operators.shard import clean
from operators.storage.base import Store
from operators.storage.fetch import Fetch
from pipeline import ledger, recipe
from pipeline.config import Settings
from pipeline.display.words import printable
from pipeline.plan import Plan, load_plan
from pipeline.report.annotations import ANNOTATION_COLUMNS
from pipeline.report.retention import FOLD_COLUMNS, fold
from pipeline.report.speeds import read_speeds
from pipeline.report.terminal import render_terminal
from pipeline.report.write import write_report
from stages.segment import LastFetched, read_span


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
    decoding = IsolatedDecoder(recipe.limits(settings.audio), timeout_seconds=settings.audio.decode_timeout_seconds)
    with decoding as decoder, closing(LastFetched(Fetch(settings.s3, settings.execution.scratch))) as fetch:

        def audio(row: Mapping[str, Any]) -> bytes | None:
            try:
                pcm = read_span(fetch, decoder, _piece_of(plan, row), Span(row["start"], row["end"]))
            except (AudioError, OSError, UserError):
                return None  # the source has moved on; the page says so
            return encode_flac(pcm)

        try:
            write_report(store, retention, speeds, audio, rule=settings.rover, planned=len(plan))
        except FileNotFoundError as error:
            raise UserError(f"a shard is missing ({error.filename or error}): 'run' says what to do") from error
    if left := len(ledger.to_do(plan, store)):
        console.print(f"{len(plan) - left:,} of {len(plan):,} units are done; this report is of those", style="yellow")
    console.print(render_terminal(retention))
    console.print(f"\nreport: {printable(store.url('report.html'))}", markup=False, highlight=False, soft_wrap=True)


def _piece_of(plan: Plan, row: Mapping[str, Any]) -> Piece:
    """Return the piece that a clip's row was cut from; of one that the plan refused nothing was cut."""
    unit = plan.find(row["unit_id"])
    pieces = ledger.good(unit) if unit else []
    return next(piece for piece in pieces if clean(piece.recording.recording_id) == row["recording_id"])
