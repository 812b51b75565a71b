"""Tables for terminals of any width and encoding.

columns ──fit──> one table
    └──too many──> without the spare ones ──still──> closer together ──still──> the rest below, under the same names
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 10_000


_PLAIN = str.maketrans("░█▓─│–…×·→≤≥“”‘’", "-##-|-.x.><>\"\"''")
"""Signs of our own for terminals that lack them; what a crawl holds is spelled out instead."""


def show_what_can_be_shown(*streams: TextIO) -> None:
    """Let a terminal of GBK or Latin-1 print a table: a sign that it lacks becomes a plainer one or `\\u8bbf`."""
    codecs.register_error("touchasp.terminal", _plainer)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="touchasp.terminal")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end].translate(_PLAIN)
    return signs.encode("ascii", "backslashreplace").decode("ascii"), error.end


@dataclass(frozen=True, slots=True)
class _Column:
    header: str
    footer: str | None
    spare: bool
    cells: list[str | Text] = field(default_factory=list)


@dataclass(slots=True)
class WideTable:
    """A WideTable shows rows with a name and numbers on a terminal of any width, and cuts neither names nor numbers.

    Names and cells are shown as they are, never read as markup.
    """

    title: str
    names_header: str = ""
    names_footer: str | None = None
    _columns: list[_Column] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _styles: list[str] = field(default_factory=list)

    def add_column(self, header: str, *, footer: str | None = None, spare: bool = False) -> None:
        """Add a column of numbers, before the first row. A spare one is left out where it does not fit."""
        self._columns.append(_Column(header, footer, spare))

    def add_row(self, name: str, *cells: str | Text, style: str = "") -> None:
        self._names.append(name)
        self._styles.append(style)
        for column, cell in zip(self._columns, cells, strict=True):
            column.cells.append(cell)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = [column for column in self._columns if not column.spare]
        for columns, close in ((self._columns, False), (needed, False), (needed, True)):
            if self._width(console, options, columns, close) <= options.max_width:
                yield self._table(columns, options.max_width, close, self.title)
                return
        for index, block in enumerate(self._blocks(console, options, needed)):
            if index:
                yield Text()
            yield self._table(block, options.max_width, False, "" if index else self.title)

    def _blocks(self, console: Console, options: ConsoleOptions, columns: Sequence[_Column]) -> Iterator[list[_Column]]:
        block: list[_Column] = []
        for column in columns:
            if block and self._width(console, options, [*block, column], False) > options.max_width:
                yield block
                block = []
            block.append(column)
        yield block

    def _width(self, console: Console, options: ConsoleOptions, columns: Sequence[_Column], close: bool) -> int:
        table = self._table(columns, options.max_width, close, self.title)
        return console.measure(table, options=options.update(max_width=_ANY_WIDTH)).maximum

    def _table(self, columns: Sequence[_Column], width: int, close: bool, title: str) -> Table:
        footer = any(column.footer is not None for column in columns)
        table = Table(
            title=title or None,
            title_justify="left",
            header_style="dim",
            box=None,
            pad_edge=False,
            show_footer=footer,
            collapse_padding=close,
        )
        # A name may be as long as a path: it folds at half the terminal.
        folded = max(12, width // 2)
        table.add_column(Text(self.names_header), footer=_bold(self.names_footer), overflow="fold", max_width=folded)
        for column in columns:
            header, last = Text(column.header), _bold(column.footer)
            table.add_column(header, justify="right", footer=last, no_wrap=True, overflow="fold")
        for index, (name, style) in enumerate(zip(self._names, self._styles, strict=True)):
            cells = [column.cells[index] for column in columns]
            table.add_row(Text(name), *(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)
        return table


def _bold(footer: str | None) -> Text:
    return Text(footer or "", style="bold")
