"""A comparison of runs in the terminal: domains side by side, then one block per change."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, human_time, printable
from pipeline.report.compare.records import Change, ComparedRun, domains, main_reasons, points, shown_value


def render_terminal(runs: Sequence[ComparedRun], changes: Sequence[Change]) -> RenderableType:
    """Return the tables and lines of a comparison."""
    table = WideTable("Domains side by side", "domain", "all")
    for at, run in enumerate(runs):
        total, name = run.retention.total, printable(run.name)
        table.add_column(f"{name}\nin", footer=human_time(total.input))
        table.add_column("\nkept", footer=human_percent(total.retention))
        if at:
            table.add_column("\npoints", footer=points(runs[at - 1].retention.total, total))
        table.add_column("\nlost most to", footer=main_reasons(total))
    for domain in domains(runs):
        cells: list[str] = []
        for at, run in enumerate(runs):
            tally = run.tally(domain)
            cells += [human_time(tally.input), human_percent(tally.retention)]
            cells += [points(runs[at - 1].tally(domain), tally)] if at else []
            cells.append(printable(main_reasons(tally)))
        table.add_row(printable(domain), *cells)
    parts: list[RenderableType] = [table]
    for each in changes:
        parts += [Text(), _change_text(each)]
        if each.moves:
            moves = WideTable("Clips with another outcome", "before → after")
            moves.add_column("clips")
            moves.add_column("time")
            for move in each.moves:
                moves.add_row(printable(f"{move.before} → {move.after}"), f"{move.clips:,}", human_time(move.samples))
            parts += [Text(), moves]
    return Group(*parts)


def _change_text(each: Change) -> Text:
    text = Text()
    text.append(f"From {printable(each.before)} to {printable(each.after)}\n", style="bold")
    for kind, differences in (("setting", each.settings), ("version", each.versions)):
        for found in differences:
            line = f"{kind} {found.key}: {shown_value(found.before)} → {shown_value(found.after)}"
            text.append(printable(line) + "\n")
    if not each.settings and not each.versions:
        text.append("same settings, same versions\n")
    if each.shared:
        text.append(
            f"{each.shared:,} clips in both, {each.same:,} with the same outcome, {each.relabelled:,} kept with "
            f"another label; {each.only_before:,} only before, {each.only_after:,} only after"
        )
    else:
        text.append("no clip in both: other recordings, or cut otherwise")
    return text
