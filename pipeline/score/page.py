"""score.html: the score of a run as one self-contained page: tables, and charts drawn here as inline SVG. No script.

    Score ──bars, lines──> SVG ──┐
          ──rows───────────tables┴──score.html, report.css, score.css──> bytes

Names and texts come from a crawl and are hostile: Jinja2 and Markup.format escape them, the page's policy runs nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from operators.edits import align
from operators.text.spoken import tokens
from pipeline.display.words import human_factor, human_percent, human_time
from pipeline.report.page import ASSETS
from pipeline.score.figures import CurvePoint, Figure, Scope
from pipeline.score.scoring import PLACEMENTS, Score, error_rate, headline, interval

WIDTH = 640
_MOST_SCOPES = 60
_LONGEST_TEXT = 300
_FAR = 30.0
"""Percent: where the curves end; what lies beyond is the last point."""


def render_page(score: Score) -> bytes:
    """The page; the same score gives the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": error_rate,
        "interval": interval,
        "share": lambda figure: human_percent(figure.value),
        "percent": human_percent,
        "factor": lambda figure: human_factor(figure.value),
        "time": human_time,
        "count": lambda number: f"{number:,}",
    }
    style = Markup("".join((ASSETS / name).read_text("utf-8") for name in ("report.css", "score.css")))
    domains = sorted(score.domains, key=lambda scope: (-scope.systems[1].all.clips, scope.name))[:_MOST_SCOPES]
    languages = sorted(score.languages, key=lambda scope: (-scope.systems[1].all.clips, scope.name))[:_MOST_SCOPES]
    named = [(scope.name or "unknown", scope) for scope in domains]
    engines = list(zip(score.total.systems[1:], score.engines, strict=True))
    page = environment.get_template("score.html").render(
        style=style,
        style_hash=Markup("sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()),
        headline=headline(score.total),
        score=score,
        total=score.total,
        placements=PLACEMENTS,
        engines=engines,
        groups=(("Domain", named), ("Language", [(scope.name or "unknown", scope) for scope in languages])),
        left_out=len(score.domains) - len(domains),
        bars_by_domain=_cer_bars([*named, ("All", score.total)]),
        bars_joint=_joint_bars(score.total),
        curve_wer=_curves(score.over_wer, score.thresholds.max_wer, "max WER"),
        curve_per=_curves(score.over_per, score.thresholds.max_per, "max PER"),
        wrong_labels=[_difference(wrong) for wrong in score.wrong_labels],
    )
    return page.encode("utf-8")


@dataclass(frozen=True, slots=True)
class _Bar:
    kind: str
    """class of the style sheet."""
    name: str
    figure: Figure


def _cer_bars(scopes: Sequence[tuple[str, Scope]]) -> Markup:
    kinds = ["kept", "silent", "unreadable", "rejected"]
    rows = []
    for name, scope in scopes:
        label, *engines = scope.systems
        bars = [
            _Bar(kinds[1 + min(at, 2)], f"{engine.name}, all clips", engine.all.cer)
            for at, engine in enumerate(engines)
        ]
        rows.append((name, [*bars, _Bar(kinds[0], "kept labels", label.kept.cer)]))
    return _bars(rows, "Character error rate per domain", error_rate)


def _joint_bars(total: Scope) -> Markup:
    rows = [
        (
            f"{joint.copilot}, > {joint.limit:g} %",
            [
                _Bar("silent", "asr wrong", joint.asr_wrong),
                _Bar("unreadable", "copilot wrong", joint.copilot_wrong),
                _Bar("disagree", "both wrong", joint.both_wrong),
                _Bar("in", "both wrong if independent", joint.if_independent),
                _Bar("rejected", "both wrong, same text", joint.both_wrong_alike),
            ],
        )
        for joint in total.joint
    ]
    return _bars(rows, "How often each engine, and both, are wrong", lambda figure: human_percent(figure.value))


def _bars(rows: Sequence[tuple[str, Sequence[_Bar]]], label: str, text: Any) -> Markup:
    """Groups of bars with whiskers for their intervals, all on one scale from 0."""
    step, gap, left, right = 13, 12, 150, 70
    bars = [bar for _, group in rows for bar in group]
    # A wide interval of a small domain must not flatten the rest: the scale is that of the values.
    most = max([bar.figure.value or 0.0 for bar in bars], default=0.0) * 1.15 or 1.0
    room = WIDTH - left - right
    parts: list[Markup] = []
    y = 4
    for name, group in rows:
        shown = name if len(name) <= 20 else name[:19] + "…"
        middle = y + step * len(group) / 2 + 4
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>').format(
                left - 8, middle, shown, name
            )
        )
        for bar in group:
            if bar.figure.value is not None:
                size = room * bar.figure.value / most
                told = f"{name} · {bar.name}: {text(bar.figure)} {interval(bar.figure)}".rstrip()
                parts.append(
                    Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>').format(
                        bar.kind, left, y, max(size, 0.8), step - 3, told
                    )
                )
                edge = size
                if bar.figure.low is not None and bar.figure.high is not None:
                    edge = min(room * bar.figure.high / most, room)
                    begin = min(room * bar.figure.low / most, room)
                    whisker = Markup('<path class="whisker" d="M{:.1f} {}H{:.1f}"/>')
                    parts.append(whisker.format(left + begin, y + (step - 3) / 2, left + edge))
                parts.append(
                    Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(
                        left + max(edge, size) + 6, y + step - 4, text(bar.figure)
                    )
                )
            y += step
        y += gap
    return _svg(y, label, parts)


def _curves(points: Sequence[CurvePoint], limit: float, axis: str) -> Markup:
    """Precision, recall and time kept while one limit changes; the run's own is marked."""
    height, left, bottom, top, right = 230, 44, 36, 8, 12
    centred = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    drawn = [point for point in points if point.limit is not None and point.limit <= _FAR]

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * value / _FAR

    def y(percent: float) -> float:
        return height - bottom - (height - bottom - top) * percent / 100

    parts: list[Markup] = []
    for level in range(0, 101, 20):
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(left, y(level), WIDTH - right))
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
    return _svg(height, f"Precision and recall while {axis} changes", parts)


def _svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(WIDTH, height, label, body)


def _difference(wrong: dict[str, Any]) -> dict[str, Any]:
    """A wrong label beside the truth, as runs of tokens that are the same or not."""
    truth, label = tokens(wrong["truth"])[:_LONGEST_TEXT], tokens(wrong["label"])[:_LONGEST_TEXT]
    steps = align(truth, label)
    return wrong | {
        "said": [(step.kind != "equal", step.reference) for step in steps if step.reference],
        "written": [(step.kind != "equal", step.hypothesis) for step in steps if step.hypothesis],
    }
