"""The retention report in the terminal: the account in one line, then tables that fit any width."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, human_share, human_time, printable
from pipeline.report.annotations import Annotations
from pipeline.report.retention import Cause, Retention, Tally


def render_terminal(retention: Retention) -> RenderableType:
    """Return retention per domain, then time lost per reason, sorted by the share that was kept."""
    rows = sorted(retention.domains.items(), key=lambda item: (-(item[1].retention or 0), item[0]))
    total = retention.total
    parts: list[RenderableType] = [_identity(total), _domains(rows, total)]
    causes = sorted(total.rejected, key=lambda cause: (-total.rejected[cause].samples, cause))
    if causes:
        parts += [Text(), _lost(rows, total, causes)]
    if total.unreadable_files:
        parts += [Text(), _unreadable(total)]
    if retention.annotations:
        parts += [Text(), *_annotations(retention.annotated)]
    return Group(*parts)


def _identity(total: Tally) -> Text:
    line = Text()
    line.append(f"{human_time(total.input)} in", style="bold")
    line.append(" = ")
    line.append(f"{human_time(total.kept.samples)} kept ({human_percent(total.retention)})", style="bold green")
    line.append(f" + {human_time(total.rejected_total.samples)} rejected + {human_time(total.non_speech)} non-speech")
    line.append(f" + {human_time(total.unreadable_total)} unreadable")
    if total.difference:
        line.append(f"   {total.difference:,} samples do not add up", style="bold red")
    return line


def _domains(rows: list[tuple[str, Tally]], total: Tally) -> WideTable:
    table = WideTable("Retention per domain", "domain", "all")
    columns = ["files", "unreadable", "in", "speech", "2-30 s clips", "kept", "clips", "retention"]
    for header, footer in zip(columns, _numbers(total), strict=True):
        table.add_column(header, footer=footer)
    table.add_column("", spare=True)
    for name, tally in rows:
        table.add_row(printable(name), *_numbers(tally), _bar(tally))
    return table


def _numbers(tally: Tally) -> list[str]:
    times = [human_time(samples) for samples in (tally.input, tally.speech, tally.clipped, tally.kept.samples)]
    counts = [f"{count:,}" for count in (tally.recordings, tally.unreadable_files_total, tally.kept.clips)]
    return [*counts[:2], *times, counts[2], human_percent(tally.retention)]


def _bar(tally: Tally, width: int = 20) -> Text:
    filled = round((tally.retention or 0) / 100 * width)
    return Text.assemble(("█" * filled, "green"), ("░" * (width - filled), "bright_black"))


def _lost(rows: list[tuple[str, Tally]], total: Tally, causes: list[Cause]) -> WideTable:
    table = WideTable("Time lost per reason", "domain", "all")
    for cause in causes:
        table.add_column(
            f"{printable(cause[0])}\n{printable(cause[1])}", footer=human_time(total.rejected[cause].samples)
        )
    for name, tally in rows:
        lost = [human_time(tally.rejected[cause].samples) if cause in tally.rejected else "–" for cause in causes]
        table.add_row(printable(name), *lost)
    return table


def _annotations(found: Annotations) -> list[RenderableType]:
    """Return the yield of each kind of attribute, how far annotators agree on it, and what looks wrong."""
    table = WideTable("Attributes", "kind")
    for header in ("clips", "two opinions", "labelled", "yield", "kappa", "commonest"):
        table.add_column(header)
    for kind in found.kinds():
        known = found.agreed.get(kind, 0)
        kappas = [pair.kappa for pair in found.annotator_pairs() if pair.kind == kind]
        kappa = ", ".join("–" if each is None else f"{each:.2f}" for each in kappas) or "–"
        common = ", ".join(
            f"{printable(label)} {human_share(count, known)}" for label, count in found.distribution(kind)[:2]
        )
        numbers = [f"{found.clips:,}", f"{found.opinions(kind, 2):,}", f"{known:,}", human_share(known, found.clips)]
        table.add_row(kind, *numbers, kappa, common or "–")
    lines = [Text(f"note: {printable(line)}", style="yellow") for line in found.warnings()]
    return [table, *lines] if found.kinds() else [*lines]


def _unreadable(total: Tally) -> WideTable:
    table = WideTable("Unreadable", "reason")
    for header in ("files", "time, where known"):
        table.add_column(header)
    for cause, files in total.unreadable_files.items():
        table.add_row(printable(f"{cause[0]}: {cause[1]}"), f"{files:,}", human_time(total.unreadable.get(cause, 0)))
    return table
