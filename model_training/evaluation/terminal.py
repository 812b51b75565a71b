"""Tables of an evaluation in a terminal: names and numbers are cut on none, and no column stands there twice.

    Table ──as wide as the terminal?──> a column for each model     else ──> a line for each model, below its row's name

Names come from data and are hostile: nothing reads them as markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from model_training.evaluation.comparison import Comparison
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.tables import Cell, Table, comparison_table, make_tables, unusable_lines

_BORDER = 3


def render(
    evaluations: Sequence[Evaluation], console: Console | None = None, comparisons: Sequence[Comparison] = ()
) -> None:
    """Print the tables of some models, and what changed between them."""
    console = console or Console()
    for table in (*make_tables(evaluations), *map(comparison_table, comparisons)):
        shown = _wide(table) if _width(table) <= console.width else _long(table)
        shown.title, shown.caption = Text(table.title), Text(table.note)
        console.print(shown)
    for line in unusable_lines(evaluations):
        console.print(Text(line))


def _width(table: Table) -> int:
    """Return the cells that a table takes with a column for each of its own."""
    columns = [[table.header, *(row.name for row in table.rows)]]
    for at, heading in enumerate(table.columns):
        columns.append([heading, *(text for row in table.rows for text in row.cells[at])])
    return 1 + sum(max(map(cell_len, texts)) + _BORDER for texts in columns)


def _wide(table: Table) -> RichTable:
    shown = _empty()
    shown.add_column(Text(table.header))
    for heading in table.columns:
        shown.add_column(Text(heading), justify="right")
    for row in table.rows:
        shown.add_row(Text(row.name), *map(_text, row.cells), style="bold" if row.is_total else "")
    return shown


def _long(table: Table) -> RichTable:
    shown = _empty()
    shown.add_column(Text(table.header), overflow="fold")
    shown.add_column(Text(table.across), overflow="fold")
    shown.add_column(justify="right", no_wrap=True)
    has_details = any(cell.detail for row in table.rows for cell in row.cells)
    if has_details:
        shown.add_column(no_wrap=True)
    for row, after in zip(table.rows, [*table.rows[1:], None], strict=True):
        style, name = "bold" if row.is_total else "", row.name
        cells = list(zip(table.columns, row.cells, strict=True))
        if len(set(row.cells)) == 1:  # what holds of all alike is said once
            cells = [("", row.cells[0])]
        for heading, cell in cells:
            if cell != Cell():
                details = [Text(cell.detail, "dim")] if has_details else []
                shown.add_row(Text(name), Text(heading), Text(cell.text), *details, style=style)
                name = ""
        if len(row.cells) > 1 and after is not None and not after.name.startswith(" "):
            shown.add_section()
    return shown


def _empty() -> RichTable:
    return RichTable(title_justify="left", caption_justify="left")


def _text(cell: Cell) -> Text:
    return Text.assemble(cell.text, "\n", (cell.detail, "dim")) if cell.detail else Text(cell.text)
