"""Charts as inline SVG: no script, and every text in them escaped.

    Bar, ... ──bar_chart──> Markup        parts ──svg──> Markup

Colours are classes of page.css.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

CHART_WIDTH = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A Bar of a chart has a length, a text beside it, and a text that the pointer shows."""

    colour: str
    """a class of page.css."""
    value: float | None
    """None: no bar."""
    text: str
    hint: str
    low: float | None = None
    high: float | None = None
    """ends of the interval, drawn as a whisker."""


def bar_chart(rows: Sequence[tuple[str, Sequence[Bar]]], label: str, *, longest: float | None = None) -> Markup:
    """Return groups of bars as SVG, all on one scale from 0 to `longest`; None: a little beyond the longest bar."""
    step, gap, left, right = 13, 12, 150, 70
    if longest is None:
        # A wide interval of a small domain must not flatten the rest: the scale is that of the values.
        longest = max((bar.value or 0.0 for _, group in rows for bar in group), default=0.0) * 1.15 or 1.0
    room = CHART_WIDTH - left - right
    heading = Markup('<text x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>')
    rect = Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')
    whisker = Markup('<path class="whisker" d="M{:.1f} {}H{:.1f}"/>')
    tick = Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>')
    parts: list[Markup] = []
    y = 4
    for name, group in rows:
        shown = name if len(name) <= 20 else name[:19] + "…"
        parts.append(heading.format(left - 8, y + step * len(group) / 2 + 4, shown, name))
        for bar in group:
            if bar.value is not None:
                edge = size = max(room * bar.value / longest, 0.8)
                parts.append(rect.format(bar.colour, left, y, size, step - 3, bar.hint))
                if bar.low is not None and bar.high is not None:
                    begin, end = (min(room * each / longest, room) for each in (bar.low, bar.high))
                    parts.append(whisker.format(left + begin, y + (step - 3) / 2, left + end))
                    edge = max(size, end)
                parts.append(tick.format(left + edge + 6, y + step - 4, bar.text))
            y += step
        y += gap
    return svg(y, label, parts)


def svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    """Return a drawing CHART_WIDTH wide; `label` is what a screen reader says of it."""
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        CHART_WIDTH, height, label, body
    )
