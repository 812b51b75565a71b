"""Tables keep every name and number on a terminal of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.display.terminal import WideTable

NAMES = ("audiobook", "访谈节目", "a-domain-with-a-name-as-long-as-a-path/" * 3)
HEADERS = ("files", "un-\nreadable", "clips of 2-30 s", "kept", "WER of the copilot", "[b]95 %[/b]")


def printed(width: int, *, spare: bool = False) -> list[str]:
    table = WideTable("Retention", "domain", "all")
    for index, header in enumerate(HEADERS):
        table.add_column(header, footer=f"total{index}")
    if spare:
        table.add_column("", spare=True)
    for row, name in enumerate(NAMES):
        table.add_row(name, *(f"{row}{column},000 s" for column in range(len(HEADERS))), *(["█████"] if spare else []))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [30, 40, 57, 80, 120, 300])
def test_nothing_is_cut_and_names_stay_in_one_piece(width: int) -> None:
    lines = printed(width)
    text = "\n".join(lines)
    assert "…" not in text
    for row, name in enumerate(NAMES[:2]):
        of_row = [line for line in lines if line.startswith(name)]
        assert of_row, f"{name} is broken at {width} columns"
        for column in range(len(HEADERS)):
            assert sum(f"{row}{column},000 s" in line for line in of_row) == 1
    for index, header in enumerate(HEADERS):
        assert text.count(f"total{index}") == 1
        assert all(part in text for part in header.split("\n"))
    assert text.replace("\n", "").replace(" ", "").count("Retention") == 1


def test_a_wide_terminal_gets_one_table_with_the_spare_column() -> None:
    lines = printed(300, spare=True)
    assert len(lines) == 1 + 2 + len(NAMES) + 1
    assert "█████" in lines[3]


def test_the_spare_column_goes_first() -> None:
    narrowest = min(width for width in range(60, 200) if "█" in "".join(printed(width, spare=True)))
    lines = printed(narrowest - 1, spare=True)
    assert "█" not in "".join(lines)
    assert sum(line.startswith("domain") for line in lines) == 1, "the rest is still one table"
