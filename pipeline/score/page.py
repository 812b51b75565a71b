"""score.html: the score of a run as one self-contained page: tables, and charts drawn here as inline SVG. No script.

Score ──bars, lines──> SVG ──┐
      ──rows─────────> tables┴──assets/score.html──> bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from operators.edits import align
from operators.page.charts import CHART_WIDTH, Bar, bar_chart, svg
from operators.resampling import Estimate
from operators.text.spoken import tokens
from pipeline.display.pages import MOST_DOMAINS, render
from pipeline.display.words import human_factor, human_percent
from pipeline.score.estimates import CurvePoint, Scope
from pipeline.score.result import PLACEMENTS, Score, error_rate, headline, interval

_LONGEST_TEXT = 300
_FAR = 30.0
"""Percent: where the curves end; what lies beyond is the last point."""


def render_page(score: Score) -> bytes:
    """Return the page; the same score gives the same bytes."""
    domains = sorted(score.domains, key=lambda scope: (-scope.systems[1].all.clips, scope.name))[:MOST_DOMAINS]
    languages = sorted(score.languages, key=lambda scope: (-scope.systems[1].all.clips, scope.name))[:MOST_DOMAINS]
    named = [(scope.name or "unknown", scope) for scope in domains]
    engines = list(zip(score.total.systems[1:], score.engines, strict=True))
    return render(
        "score.html",
        title="Label quality",
        styles=("score.css",),
        filters={
            "rate": error_rate,
            "interval": interval,
            "share": lambda estimate: human_percent(estimate.value),
            "times": lambda estimate: human_factor(estimate.value),
        },
        headline=headline(score.total),
        score=score,
        total=score.total,
        placements=PLACEMENTS,
        engines=engines,
        groups=(("Domain", named), ("Language", [(scope.name or "unknown", scope) for scope in languages])),
        left_out=len(score.domains) - len(domains),
        bars_by_domain=_cer_bars([*named, ("All", score.total)]),
        bars_joint=_joint_bars(score.total),
        curve_wer=_curves(score.over_wer, score.rule.max_wer, "max WER"),
        curve_per=_curves(score.over_per, score.rule.max_per, "max PER"),
        wrong_labels=[_difference(wrong) for wrong in score.wrong_labels],
    )


def _cer_bars(scopes: Sequence[tuple[str, Scope]]) -> Markup:
    rows = []
    for name, scope in scopes:
        label, *engines = scope.systems
        estimates = [
            (("silent", "unreadable", "rejected")[min(at, 2)], f"{engine.name}, all clips", engine.all.cer)
            for at, engine in enumerate(engines)
        ]
        estimates.append(("kept", "kept labels", label.kept.cer))
        rows.append((name, [_bar(name, *each, text=error_rate(each[2])) for each in estimates]))
    return bar_chart(rows, "Character error rate per domain")


def _joint_bars(total: Scope) -> Markup:
    rows = []
    for joint in total.joint:
        name = f"{joint.copilot}, > {joint.limit:g} %"
        estimates = (
            ("silent", "asr wrong", joint.asr_wrong),
            ("unreadable", "copilot wrong", joint.copilot_wrong),
            ("disagree", "both wrong", joint.both_wrong),
            ("in", "both wrong if independent", joint.if_independent),
            ("rejected", "both wrong, same text", joint.both_wrong_alike),
        )
        rows.append((name, [_bar(name, *each, text=human_percent(each[2].value)) for each in estimates]))
    return bar_chart(rows, "How often each engine, and both, are wrong")


def _bar(group: str, colour: str, name: str, estimate: Estimate, *, text: str) -> Bar:
    hint = f"{group} · {name}: {text} {interval(estimate)}".rstrip()
    return Bar(colour=colour, value=estimate.value, text=text, hint=hint, low=estimate.low, high=estimate.high)


def _curves(points: Sequence[CurvePoint], limit: float, axis: str) -> Markup:
    """Return a chart of precision, recall and time kept while one limit changes; the run's own is marked."""
    height, left, bottom, top, right = 230, 44, 36, 8, 12
    centred = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    drawn = [point for point in points if point.limit is not None and point.limit <= _FAR]

    def x(value: float) -> float:
        return left + (CHART_WIDTH - left - right) * value / _FAR

    def y(percent: float) -> float:
        return height - bottom - (height - bottom - top) * percent / 100

    parts: list[Markup] = []
    for level in range(0, 101, 20):
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(left, y(level), CHART_WIDTH - right))
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{} %</text>').format(
                left - 6, y(level) + 4, level
            )
        )
    for value in range(0, int(_FAR) + 1, 5):
        parts.append(centred.format(x(value), height - bottom + 15, value))
    parts.append(centred.format(x(_FAR / 2), height - 5, f"{axis}, %"))
    if limit <= _FAR:
        parts.append(Markup('<path class="limit" d="M{0:.1f} {1}V{2}"/>').format(x(limit), top, height - bottom))
    limits = len(points[0].precision)
    lines = [("each", [(point.limit, point.kept) for point in drawn], "time kept")]
    for kind, name in (("recall", "recall"), ("curve", "precision")):
        for at in reversed(range(limits)):
            values = [(point.limit, getattr(point, name)[at]) for point in drawn]
            lines.append((kind if at == 0 else f"{kind} softer", values, name))
    for kind, values, name in lines:
        known = [(value, percent) for value, percent in values if value is not None and percent is not None]
        path = "".join(
            f"{'L' if index else 'M'}{x(value):.1f} {y(percent):.1f}" for index, (value, percent) in enumerate(known)
        )
        parts.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, path or "M0 0", name))
    return svg(height, f"Precision and recall while {axis} changes", parts)


def _difference(wrong: dict[str, Any]) -> dict[str, Any]:
    """Return a wrong label beside the truth, as tokens that are the same or not."""
    truth, label = tokens(wrong["truth"])[:_LONGEST_TEXT], tokens(wrong["label"])[:_LONGEST_TEXT]
    steps = align(truth, label)
    return wrong | {
        "said": [(step.kind != "equal", step.reference) for step in steps if step.reference],
        "written": [(step.kind != "equal", step.hypothesis) for step in steps if step.hypothesis],
    }
