"""The curve as a picture: efficiency over the number of workers, which doubles from mark to mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 430, 64, 24, 24, 56

STYLE = """
    .page { fill: #fafaf7 } text { fill: #1b2230 } .small { font-size: 12.5px; fill: #4b5563 }
    .grid { stroke: #d6d9df; stroke-width: 1 } .least { stroke: #b3261e; stroke-width: 1.4; stroke-dasharray: 3 4 }
    .line { fill: none; stroke-width: 2.4 } .dashed { stroke-dasharray: 7 5 } .dot { stroke: none }
    .c0 { stroke: #0f8b7d } .c1 { stroke: #c9851a } .c2 { stroke: #2f7fb8 } .c3 { stroke: #7a4fb5 }
    .f0 { fill: #0f8b7d } .f1 { fill: #c9851a } .f2 { fill: #2f7fb8 } .f3 { fill: #7a4fb5 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #14171c } text { fill: #e7eaf0 } .small { fill: #aab3c0 } .grid { stroke: #333a45 }
      .least { stroke: #f08a80 } .c0 { stroke: #35b3a2 } .c1 { stroke: #dba348 }
      .f0 { fill: #35b3a2 } .f1 { fill: #dba348 }
    }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A Line is one curve: (workers, efficiency) from left to right."""

    name: str
    points: Sequence[tuple[int, float]]
    dashed: bool = False


def draw(lines: Sequence[Line], least: float, path: Path) -> None:
    """Write the picture of some curves, and of the efficiency that is wanted at least.

    A dashed curve has the colour of the one before it.
    """
    last = log2(max(workers for line in lines for workers, _ in line.points))
    lowest = min(0.5, *(each for line in lines for _, each in line.points)) // 0.1 / 10

    def x(workers: float) -> float:
        return LEFT + log2(workers) / last * (WIDTH - LEFT - RIGHT)

    def y(each: float) -> float:
        return TOP + (1 - each) / (1 - lowest) * (HEIGHT - TOP - BOTTOM)

    title = "Efficiency by number of workers"
    said = "; ".join(
        f"{line.name}: {', '.join(f'{at} {100 * each:.0f} %' for at, each in line.points)}" for line in lines
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="14">',
        f'  <title id="title">{title}</title>\n  <desc id="desc">{escape(said)}</desc>\n  <style>{STYLE}  </style>',
        f'  <rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
    ]
    for tenth in range(round(10 * lowest), 11):
        at = y(tenth / 10)
        parts.append(f'  <path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'  <text class="small" x="{LEFT - 10}" y="{at + 4:.1f}" text-anchor="end">{10 * tenth} %</text>')
    parts.append(f'  <path class="least" d="M{LEFT} {y(least):.1f}H{WIDTH - RIGHT}"/>')
    for workers in sorted({workers for line in lines for workers, _ in line.points}):
        parts.append(_text(x(workers), HEIGHT - BOTTOM + 22, str(workers)))
    parts.append(_text(WIDTH / 2, HEIGHT - 12, "workers of the busiest stage"))
    colour = -1
    for number, line in enumerate(lines):
        colour += not line.dashed
        path_of = " ".join(f"{x(at):.1f},{y(each):.1f}" for at, each in line.points)
        parts.append(f'  <polyline class="line c{colour}{" dashed" if line.dashed else ""}" points="{path_of}"/>')
        parts += [
            f'  <circle class="dot f{colour}" cx="{x(at):.1f}" cy="{y(each):.1f}" r="3.2"/>' for at, each in line.points
        ]
        at = HEIGHT - BOTTOM - 20 * (len(lines) - number)
        parts.append(f'  <path class="line c{colour}{" dashed" if line.dashed else ""}" d="M{LEFT + 14} {at}h34"/>')
        parts.append(f'  <text class="small" x="{LEFT + 56}" y="{at + 4}">{escape(line.name)}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _text(x: float, y: float, said: str) -> str:
    return f'  <text class="small" x="{x:.1f}" y="{y}" text-anchor="middle">{escape(said)}</text>'
