"""comparison.html: runs side by side as one self-contained page in the look of the retention report. No script.

ComparedRun, Change ──bars──> inline SVG ──┐
                    ──rows──> tables ──────┴──assets/comparison.html──> bytes
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from operators.page.charts import Bar, bar_chart
from pipeline.display.pages import MOST_DOMAINS, render
from pipeline.display.words import human_percent, human_time
from pipeline.report.compare.records import Change, ComparedRun, domains, main_reasons, points, shown_value
from pipeline.report.retention import Tally

_COLOURS = ("silent", "kept", "rejected", "unreadable", "disagree", "in")
"""Classes of the style sheet, in the order of the runs; a seventh run has the first's again."""


def render_page(runs: Sequence[ComparedRun], changes: Sequence[Change]) -> bytes:
    """Return the page; the same runs give the same bytes."""
    every = domains(runs)
    shown = sorted(every, key=lambda name: (-max(run.tally(name).input for run in runs), name))[:MOST_DOMAINS]
    rows = [(name, [run.tally(name) for run in runs]) for name in sorted(shown)]
    total = ("All domains", [run.retention.total for run in runs])
    colours = [_COLOURS[at % len(_COLOURS)] for at in range(len(runs))]
    return render(
        "comparison.html",
        title=f"Comparison of {len(runs)} runs",
        styles=("score.css",),
        filters={"reasons": main_reasons, "value": shown_value},
        runs=runs,
        swatches=colours,
        rows=rows,
        total=total,
        left_out=len(every) - len(shown),
        bars=_bars([*rows, total], [run.name for run in runs], colours),
        points=points,
        changes=changes,
    )


def _bars(rows: Sequence[tuple[str, Sequence[Tally]]], names: Sequence[str], colours: Sequence[str]) -> Markup:
    """Return a chart of the share kept: for each domain one bar per run."""

    def bar(domain: str, name: str, colour: str, tally: Tally) -> Bar:
        share = human_percent(tally.retention)
        hint = f"{domain} · {name}: {share} of {human_time(tally.input)}"
        return Bar(colour=colour, value=tally.retention or 0.0, text=share, hint=hint)

    groups = [
        (domain, [bar(domain, *each) for each in zip(names, colours, tallies, strict=True)]) for domain, tallies in rows
    ]
    return bar_chart(groups, "Share kept per domain and run", longest=100)
