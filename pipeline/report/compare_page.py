"""comparison.html: runs side by side as one self-contained page in the look of the retention report. No script.

    ComparedRun, Change ──bars──> inline SVG ──┐
                        ──rows──> tables ──────┴──compare.html, report.css, score.css──> bytes

Names come from a crawl and are hostile: Jinja2 and Markup.format escape them, the page's policy runs nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.display.words import human_percent, human_time
from pipeline.report.compare import Change, ComparedRun, domains, main_reasons, points, shown_value
from pipeline.report.page import ASSETS, MOST_DOMAINS
from pipeline.report.retention import Tally

WIDTH = 640
_SWATCHES = ("silent", "kept", "rejected", "unreadable", "disagree", "in")
"""Colours of the style sheet, in the order of the runs; a seventh run has the first's again."""


def render_page(runs: Sequence[ComparedRun], changes: Sequence[Change]) -> bytes:
    """The page; the same runs give the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": human_time,
        "percent": human_percent,
        "count": lambda number: f"{number:,}",
        "reasons": main_reasons,
        "value": shown_value,
    }
    style = Markup("".join((ASSETS / name).read_text("utf-8") for name in ("report.css", "score.css")))
    every = domains(runs)
    shown = sorted(every, key=lambda name: (-max(run.tally(name).input for run in runs), name))[:MOST_DOMAINS]
    rows = [(name, [run.tally(name) for run in runs]) for name in sorted(shown)]
    total = ("All domains", [run.retention.total for run in runs])
    page = environment.get_template("compare.html").render(
        style=style,
        style_hash=Markup("sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()),
        runs=runs,
        swatches=[_SWATCHES[at % len(_SWATCHES)] for at in range(len(runs))],
        rows=rows,
        total=total,
        left_out=len(every) - len(shown),
        bars=_bars([*rows, total], [run.name for run in runs]),
        points=points,
        changes=changes,
    )
    return page.encode("utf-8", "backslashreplace")


def _bars(rows: Sequence[tuple[str, Sequence[Tally]]], names: Sequence[str]) -> Markup:
    """For each domain the share kept, one bar per run."""
    step, gap, left, right = 15, 12, 150, 70
    parts: list[Markup] = []
    y = 4
    for domain, tallies in rows:
        shown = domain if len(domain) <= 20 else domain[:19] + "…"
        text = Markup('<text x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>')
        parts.append(text.format(left - 8, y + step * len(tallies) / 2 + 4, shown, domain))
        for at, tally in enumerate(tallies):
            share = human_percent(tally.retention)
            size = (WIDTH - left - right) * (tally.retention or 0) / 100
            bar = Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')
            told = f"{domain} · {names[at]}: {share} of {human_time(tally.input)}"
            parts.append(bar.format(_SWATCHES[at % len(_SWATCHES)], left, y, max(size, 0.8), step - 3, told))
            tick = Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>')
            parts.append(tick.format(left + max(size, 0.8) + 6, y + step - 5, share))
            y += step
        y += gap
    start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="Share kept per domain and run">').format(WIDTH, y)
    return start + Markup("").join(parts) + Markup("</svg>")
