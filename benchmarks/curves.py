"""Error rates over hours as a picture, for light pages and dark ones: hours double from mark to mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.simulation.picture import STYLE

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 430, 400, 56, 18, 46, 56


class Point(NamedTuple):
    """A Point is an error rate in percent at so many hours, with its interval where it has one."""

    hours: float
    percent: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    curves: Sequence[Curve]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels side by side as one SVG."""
    said = "; ".join(
        f"{panel.title}, {curve.name}: {', '.join(f'{p.hours:g} h {p.percent:.1f} %' for p in curve.points)}"
        for panel in panels
        for curve in panel.curves
    )
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" '
        'aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="14">',
        f'  <title id="title">Error rate by hours of training data</title>\n  <desc id="desc">{escape(said)}</desc>',
        f'  <style>{STYLE}  </style>\n  <rect class="page" width="{width}" height="{HEIGHT}" rx="8"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'  <g transform="translate({number * WIDTH} 0)">', *_panel(panel), "  </g>"]
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(panel: Panel) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    hours = sorted({point.hours for point in points})
    bounds = [bound for point in points for bound in (point.interval or (point.percent,))]
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (max(bounds) - min(bounds)) / step <= 8)
    low, high = floor(min(bounds) / step) * step, ceil(max(bounds) / step) * step
    span = log2(hours[-1] / hours[0]) or 1.0

    def x(at: float) -> float:
        return LEFT + 14 + log2(at / hours[0]) / span * (WIDTH - LEFT - RIGHT - 28)

    def y(percent: float) -> float:
        return TOP + (high - percent) / (high - low or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(WIDTH / 2, 26, panel.title, "middle")]
    for percent in range(low, high + 1, step):
        at = y(percent)
        parts.append(f'    <path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, at + 4, f"{percent} %", "end"))
    parts += [_text(x(at), HEIGHT - BOTTOM + 22, f"{at:g}", "middle") for at in hours]
    parts.append(_text(WIDTH / 2, HEIGHT - 12, "hours of training data, equal steps", "middle"))
    for number, curve in enumerate(panel.curves):
        colour, aside = number % 4, 3 * (number - (len(panel.curves) - 1) / 2)  # beside each other, to be told apart
        line = " ".join(f"{x(p.hours) + aside:.1f},{y(p.percent):.1f}" for p in curve.points)
        parts.append(f'    <polyline class="line c{colour}" points="{line}"/>')
        for point in curve.points:
            at = x(point.hours) + aside
            if point.interval is not None:
                ends = "V".join(f"{y(bound):.1f}" for bound in point.interval)
                parts.append(f'    <path class="c{colour}" opacity="0.45" d="M{at:.1f} {ends}"/>')
            parts.append(f'    <circle class="dot f{colour}" cx="{at:.1f}" cy="{y(point.percent):.1f}" r="3.2"/>')
        at_y = TOP + 14 + 18 * number
        parts.append(f'    <path class="line c{colour}" d="M{WIDTH - RIGHT - 128} {at_y}h24"/>')
        parts.append(_text(WIDTH - RIGHT - 98, at_y + 4, curve.name, "start"))
    return parts


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'    <text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
