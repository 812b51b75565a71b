"""Evaluations as tables in the shape of the paper's Tables 2 to 9: for a terminal, as JSON, as one self-contained page.

    Evaluation, … ──make_tables──> Table per question ──render──> terminal | to_html ──> bytes

A column is one model at one size N (and method, where there are several), so an elastic model beside its separately
trained twins is Table 4, and one model alone is a column per size. Names come from data and are hostile: nothing reads
them as markup (operators/page).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.metrics import ErrorRate, Interval, Proportion, Scores
from operators.page.frame import render as render_page

_TEMPLATE = Path(__file__).with_name("page.html")


class Cell(NamedTuple):
    text: str = "–"
    detail: str = ""
    """Interval and count."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    cells: tuple[Cell, ...]
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    note: str
    header: str
    """Of the names."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class _Variant(NamedTuple):
    evaluation: Evaluation
    n_experts: int
    method: str
    name: str

    def scores(self, set_name: str | None) -> Scores:
        """Return the scores of one set, or of all (None)."""
        if set_name is None:
            return self.evaluation.pooled(self.n_experts, self.method)
        return self.evaluation.scores(set_name, self.n_experts, self.method) or Scores()


def make_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return the tables that the evaluations have anything to say in."""
    variants = _variants(evaluations)
    sets = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.sets))
    tables = [
        _sizes(variants),
        _error_rates(
            variants,
            sets,
            "Error rate, %",
            "Han simplified, Latin upper case; one token per Han character or word: CER of Chinese, WER of English.",
            characters=False,
        ),
        _error_rates(variants, sets, "Character error rate, %", "The same texts, letter by letter.", characters=True),
        _languages(variants),
        _accuracies(variants, sets),
    ]
    return [table for table in tables if table.rows]


def render(evaluations: Sequence[Evaluation], console: Console | None = None) -> None:
    """Print the tables; names and numbers are cut on no terminal.

    Columns that do not fit beside the others follow below.
    """
    console = console or Console()
    for table in make_tables(evaluations):
        blocks = _side_by_side(table, console.width)
        for block in blocks:
            shown = RichTable(title_justify="left", caption_justify="left")
            shown.title = Text(table.title) if block is blocks[0] else None
            shown.caption = Text(table.note) if block is blocks[-1] else None
            names, *widths = block.values()
            shown.add_column(Text(table.header), overflow="fold", width=names)
            columns = list(block)[1:]
            for column, width in zip(columns, widths):
                shown.add_column(Text(table.columns[column]), justify="right", overflow="fold", width=width)
            for row in table.rows:
                cells = [
                    Text(cell.text) if not cell.detail else Text.assemble(cell.text, "\n", (cell.detail, "dim"))
                    for cell in (row.cells[column] for column in columns)
                ]
                shown.add_row(Text(row.name), *cells, style="bold" if row.is_total else "")
            console.print(shown)
    for line in _unusable(evaluations):
        console.print(Text(line))


def _side_by_side(table: Table, width: int) -> list[dict[int, int]]:
    """For each block its columns and their widths, the names' (-1) first: no word breaks, and borders included no block
    is wider than `width`, unless names and one column alone are."""
    texts = {-1: [table.header, *(row.name for row in table.rows)]}
    for column, heading in enumerate(table.columns):
        texts[column] = [heading, *(text for row in table.rows for text in row.cells[column])]
    words = {column: [word for text in of for word in text.replace(", ", ",.").split()] for column, of in texts.items()}
    least = {column: max(map(cell_len, of)) for column, of in words.items()}  # an interval is one word
    border = 3
    blocks: list[list[int]] = []
    room = 0
    for column in range(len(table.columns)):
        if least[column] + border > room:
            blocks.append([-1])
            room = width - 1 - least[-1] - border
        blocks[-1].append(column)
        room -= least[column] + border
    sized = []
    for block in blocks:
        spare = max(0, width - 1 - sum(least[column] + border for column in block)) // len(block)
        sized.append({column: min(max(map(cell_len, texts[column])), least[column] + spare) for column in block})
    return sized


def to_html(evaluations: Sequence[Evaluation]) -> bytes:
    """Return one page without scripts or network; the same evaluations give the same bytes."""
    models = " · ".join(dict.fromkeys(evaluation.model for evaluation in evaluations))
    return render_page(
        _TEMPLATE,
        title=f"Evaluation of {models}",
        style=_TEMPLATE.with_suffix(".css").read_text("utf-8"),
        models=models,
        tables=make_tables(evaluations),
        unusable=_unusable(evaluations),
    )


def _variants(evaluations: Sequence[Evaluation]) -> list[_Variant]:
    methods = {method for evaluation in evaluations for method in evaluation.methods}
    variants = []
    for evaluation in evaluations:
        for n_experts in evaluation.groups:
            for method in evaluation.methods:
                parts = [evaluation.model] if len(evaluations) > 1 else []
                parts.append(f"N={n_experts}" if n_experts else "dense")
                parts += [method] if len(methods) > 1 else []
                variants.append(_Variant(evaluation, n_experts, method, " ".join(parts)))
    return variants


def _table(title: str, note: str, header: str, variants: Sequence[_Variant], rows: Sequence[Row]) -> Table:
    """Return a table without the rows that no column has a number for."""
    said = tuple(row for row in rows if any(cell != Cell() for cell in row.cells))
    return Table(title, note, header, tuple(variant.name for variant in variants), said)


def _sizes(variants: Sequence[_Variant]) -> Table:
    rows = []
    for key, name in (("total", "Parameters"), ("active", "of them active per frame")):
        counts = [variant.evaluation.parameters.get(variant.n_experts, {}).get(key) for variant in variants]
        rows.append(Row(name, tuple(Cell() if count is None else Cell(_millions(count)) for count in counts)))
    return _table("Model size", "N is the number of routed experts in use.", "", variants, rows)


def _error_rates(
    variants: Sequence[_Variant], sets: Sequence[str], title: str, note: str, *, characters: bool
) -> Table:
    def cell(variant: _Variant, name: str | None) -> Cell:
        scores = variant.scores(name)
        return _rate_cell(scores.characters if characters else scores.tokens)

    rows = [Row(name, tuple(cell(variant, name) for variant in variants)) for name in sets]
    if len(sets) > 1:
        rows.append(Row("all, by tokens", tuple(cell(variant, None) for variant in variants), is_total=True))
        if not characters:
            means = [variant.evaluation.weighted_by_seconds(variant.n_experts, variant.method) for variant in variants]
            cells = tuple(Cell() if mean is None else Cell(f"{mean:.2f}") for mean in means)
            rows.append(Row("all, by duration", cells, is_total=True))
    return _table(title, note, "Test set", variants, rows)


def _languages(variants: Sequence[_Variant]) -> Table:
    """Return rows and columns as in Table 8: models down, languages across."""
    counts = [variant.scores(None).attributes.get("language") for variant in variants]
    languages = sorted({label for one in counts if one is not None for label in one.labels})
    rows = []
    for variant, one in zip(variants, counts, strict=True):
        if one is None:
            continue
        cells = []
        for language in languages:
            value = one.f1(language)
            there = sum(count for (truth, _), count in one.counts.items() if truth == language)
            cells.append(Cell() if value is None else Cell(f"{value / 100:.3f}", f"n={there:,}"))
        rows.append(Row(variant.name, (*cells, _share_cell(one.accuracy))))
    columns = (*languages, "accuracy, %")
    return Table("Language identification, F1", "Over all test sets together.", "Model", columns, tuple(rows))


def _accuracies(variants: Sequence[_Variant], sets: Sequence[str]) -> Table:
    """Return rows as in Table 9: a task on a test set."""
    rows = []
    names: list[str | None] = [*sets, None] if len(sets) > 1 else list(sets)
    for task in ("gender", "age", "emotion", "event", "event false alarms"):
        part = []
        for name in names:
            shares = [_share(variant.scores(name), task) for variant in variants]
            row = Row(f"{task} · {name or 'all'}", tuple(map(_share_cell, shares)), is_total=name is None)
            part += [row] if any(share.total for share in shares) else []
        # A total of a single set says the same twice.
        rows += part if len(part) > 2 else [row for row in part if not row.is_total]
    note = (
        "Clips whose true label is known. Events: all of a clip's events found and no other; false alarms: an event "
        "given where there is none. In brackets 95 % intervals (Wilson)."
    )
    return _table("Attributes and events, accuracy, %", note, "Task · test set", variants, rows)


def _share(scores: Scores, task: str) -> Proportion:
    if task == "event":
        return scores.events.accuracy
    if task == "event false alarms":
        return scores.events.false_alarms
    counts = scores.attributes.get(task)
    return counts.accuracy if counts is not None else Proportion(0, 0)


def _rate_cell(rate: ErrorRate) -> Cell:
    if rate.percent is None:
        return Cell()
    return Cell(f"{rate.percent:.2f}", f"{_brackets(rate.interval)} n={rate.reference:,}".strip())


def _share_cell(share: Proportion) -> Cell:
    if share.percent is None:
        return Cell()
    return Cell(f"{share.percent:.1f}", f"{_brackets(share.interval)} n={share.total:,}".strip())


def _brackets(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count:,}"


def _unusable(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return one line per set with clips that are in no number."""
    return list(
        dict.fromkeys(
            f"{name}: {len(clips):,} clip{'' if len(clips) == 1 else 's'} could not be used and "
            f"{'is' if len(clips) == 1 else 'are'} in no number"
            for evaluation in evaluations
            for name, clips in evaluation.unusable.items()
            if clips
        )
    )
