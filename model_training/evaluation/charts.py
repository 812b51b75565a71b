"""The pictures of an evaluation's page, as inline SVG.

Evaluations ──by_size──> error rate over parameters, a line per test set, intervals as whiskers
Evaluation ──kinds_of_errors──> stacked bars: substituted, deleted, inserted
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.metrics import ErrorRate
from operators.page.charts import CHART_WIDTH, svg

COLOURS = ("kept", "rejected", "disagree", "unreadable", "silent", "link")
"""Classes of the style sheet, in the order of the sets; all sets together are drawn in ink."""
ALL = "all sets"

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 46, 24, 12, 40
_APART = 76
"""Least distance of two names on the axis, in pixels; nearer ones stand below each other."""


@dataclass(frozen=True, slots=True)
class _Point:
    parameters: int
    size: str
    rate: ErrorRate


@dataclass(frozen=True, slots=True)
class Line:
    """A Line is one test set heard by one model at all of its sizes."""

    name: str
    colour: str
    model: int
    points: tuple[_Point, ...]


def lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """Return a line for each model and test set, the largest sets where there are many, and for all sets together."""
    seconds: dict[str, float] = {}
    for result in (result for evaluation in evaluations for result in evaluation.results):
        if result.scores.tokens.reference:
            seconds[result.set] = max(seconds.get(result.set, 0.0), result.scores.seconds)
    largest = sorted(seconds, key=lambda name: (-seconds[name], name))[: len(COLOURS)]
    shown = [(name, COLOURS[at]) for at, name in enumerate(name for name in seconds if name in largest)]
    if len(seconds) > 1:
        shown.append((ALL, "in"))
    found = []
    for model, evaluation in enumerate(evaluations):
        method = evaluation.main[1]
        for name, colour in shown:
            points = []
            for n_experts in sorted(evaluation.groups):
                if name == ALL:
                    scores = evaluation.pooled(n_experts, method)
                elif (of := evaluation.scores(name, n_experts, method)) is not None:
                    scores = of
                else:
                    continue
                if scores.tokens.reference:
                    total = evaluation.parameters.get(n_experts, {}).get("total", 0)
                    points.append(_Point(total, f"N={n_experts}" if n_experts else "dense", scores.tokens))
            if points:
                found.append(Line(name, colour, model, tuple(points)))
    return found


def by_size(evaluations: Sequence[Evaluation]) -> Markup | None:
    """Return the error rate over the number of parameters; None where nothing was transcribed.

    Without known parameters the sizes stand at equal distances.
    """
    drawn = lines(evaluations)
    if not drawn:
        return None
    points = [point for line in drawn for point in line.points]
    known = all(point.parameters for point in points)
    # Sizes differ by factors, so the axis is logarithmic.
    places = {
        (line.model, point.size): math.log(point.parameters) if known else float(at)
        for line in drawn
        for at, point in enumerate(line.points)
    }
    least, most = min(places.values()), max(places.values())
    pad = (most - least) * 0.08 or 1.0
    # A wide interval of a small set must not flatten the rest.
    highest = _nice(1.3 * max(point.rate.percent or 0.0 for point in points))

    def x(model: int, size: str) -> float:
        return _LEFT + (CHART_WIDTH - _LEFT - _RIGHT) * (places[model, size] - least + pad) / (most - least + 2 * pad)

    def y(percent: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * min(percent, highest) / highest

    parts = _grid(highest, y)
    names = sorted(
        {(round(x(line.model, point.size), 1), point.size, point.parameters) for line in drawn for point in line.points}
    )
    parts += _names(names)
    for at, line in enumerate(drawn):
        # Whiskers of different sets would hide each other at one place.
        aside = 5.0 * (at % len(drawn) - (len(drawn) - 1) / 2) / max(1, len(drawn) / 4)
        spots = [(x(line.model, point.size) + aside, point) for point in line.points]
        path = "".join(
            f"{'L' if at else 'M'}{place:.1f} {y(p.rate.percent or 0):.1f}" for at, (place, p) in enumerate(spots)
        )
        weight = "strong" if line.name == ALL else ""
        parts.append(
            Markup('<path class="series {} {} model-{}" d="{}"/>').format(line.colour, weight, line.model, path)
        )
        for place, point in spots:
            interval = point.rate.interval
            if interval is not None:
                ends = (place, y(interval[0]), y(interval[1]))
                parts.append(
                    Markup('<path class="series thin {}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(line.colour, *ends)
                )
            of = f"{evaluations[line.model].model} · " if len(evaluations) > 1 else ""
            hint = f"{of}{line.name}, {point.size}: {point.rate.percent:.2f} %"
            hint += "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"
            shape = _MARKS[line.model % len(_MARKS)]
            parts.append(shape.format(line.colour, place, y(point.rate.percent or 0.0), hint))
    return svg(_HEIGHT, "Error rate over the number of parameters", parts)


_MARKS = (
    Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>'),
    Markup('<path class="{}" d="M{:.1f} {:.1f}m-5 5h10l-5 -10z"><title>{}</title></path>'),
    Markup('<path class="{}" d="M{:.1f} {:.1f}m-4 -4h8v8h-8z"><title>{}</title></path>'),
)
"""Of the first model, of the second, of the third."""


def _grid(highest: float, y: object) -> list[Markup]:
    assert callable(y)
    parts = [Markup('<text class="tick" x="0" y="10">%</text>')]
    step = highest / 5
    for level in (step * at for at in range(6)):
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, y(level), CHART_WIDTH - _RIGHT))
        label = Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>')
        parts.append(label.format(_LEFT - 7, y(level) + 4, level))
    return parts


def _names(names: Sequence[tuple[float, str, int]]) -> list[Markup]:
    """Return what stands below the axis: each size and its parameters, where they would touch on two rows."""
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle"{}>{}</text>')
    ends, parts = [-1e9, -1e9], []
    for place, size, parameters in names:
        row = 0 if place - ends[0] >= _APART else 1
        if place - ends[row] < _APART:
            continue
        ends[row] = place
        top = _HEIGHT - _BOTTOM + 16 + 17 * row
        shown = f"{size} · {millions(parameters)}" if parameters else size
        parts.append(text.format(place, top, Markup(' class="tick"'), shown))
    return parts


def millions(count: int) -> str:
    """Return a number of parameters as people say it."""
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count:,}"


def _nice(value: float) -> float:
    """Return a round number that is at least `value`, which fifths divide well."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)


def kinds_of_errors(rows: Sequence[tuple[str, ErrorRate]]) -> Markup:
    """Return a bar for each name, of words substituted, deleted and inserted, in percent of those said."""
    left, right, step = 170, 70, 26
    longest = max((rate.percent or 0.0 for _, rate in rows), default=0.0) or 1.0
    room = CHART_WIDTH - left - right
    heading = Markup('<text x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>')
    rect = Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')
    tick = Markup('<text class="tick" x="{:.1f}" y="{}">{:.2f} %</text>')
    parts = []
    for at, (name, rate) in enumerate(rows):
        y, place = 4 + step * at, float(left)
        shown = name if len(name) <= 22 else name[:21] + "…"
        parts.append(heading.format(left - 8, y + 15, shown, name))
        for colour, kind, count in (
            ("rejected", "substituted", rate.substitutions),
            ("disagree", "deleted", rate.deletions),
            ("kept", "inserted", rate.insertions),
        ):
            percent = 100 * count / rate.reference
            width = room * percent / longest
            hint = f"{name}: {kind} {count:,} of {rate.reference:,} ({percent:.2f} %)"
            parts.append(rect.format(colour, place, y, width, step - 8, hint))
            place += width
        parts.append(tick.format(place + 6, y + 14, rate.percent or 0.0))
    return svg(8 + step * len(rows), "Kinds of errors", parts)
