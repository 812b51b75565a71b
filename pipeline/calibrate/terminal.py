"""Calibrations in the terminal: per language what the threshold buys, the curve, and how far probabilities hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.calibrate.choose import Calibrated, CurvePoint
from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, printable
from pipeline.score.result import error_rate, interval


def render(found: Sequence[Calibrated], missing: Mapping[str, str], target: float, bound: float) -> RenderableType:
    """Return a headline, a curve and a reliability table per language, and a line for each language without."""
    parts: list[RenderableType] = []
    for each in found:
        parts += [Text(_headline(each, target), style="bold"), _sample(each, bound), Text(), _curve(each), Text()]
        parts += [_reliability(each, bound), Text()]
    for language, why in missing.items():
        parts.append(Text(f"{printable(language) or 'no language'}: not calibrated: {why}", style="yellow"))
    return Group(*parts)


def _headline(each: Calibrated, target: float) -> str:
    before = next(point for point in each.curve if point.min_right == 0)
    name = printable(each.language) or "no language"
    if each.chosen is before:
        return f"{name}: labels within the limits have {error_rate(before.cer)} character errors already: all are kept"
    return (
        f"{name}: min_right {each.chosen.min_right:g} gives {error_rate(each.chosen.cer)} character errors "
        f"({target:g} % asked for, {error_rate(before.cer)} without) and keeps "
        f"{human_percent(each.chosen.kept.value)} of the time"
    )


def _sample(each: Calibrated, bound: float) -> Text:
    return Text(
        f"fitted to {each.clips:,} clips of {each.recordings:,} recordings, {each.wrong:,} labels of them wrong (CER > "
        f"{bound:g} %); all rates below are of recordings that the fit had not seen"
    )


def _curve(each: Calibrated) -> WideTable:
    table = WideTable(
        f"{printable(each.language)}: what a threshold keeps, of the clips within the limits", "min_right"
    )
    for header in ("clips", "time kept", "95 %", "CER", "95 %", "right", "95 %"):
        table.add_column(header)
    for point in each.curve:
        style = "bold green" if point is each.chosen else ""
        table.add_row(f"{point.min_right:g}", *_cells(point), style=style)
    return table


def _cells(point: CurvePoint) -> list[str]:
    kept, right = (human_percent(share.value) for share in (point.kept, point.right))
    return [
        f"{point.clips:,}",
        *(kept, interval(point.kept)),
        *(error_rate(point.cer), interval(point.cer)),
        *(right, interval(point.right)),
    ]


def _reliability(each: Calibrated, bound: float) -> WideTable:
    table = WideTable(f"{printable(each.language)}: do the probabilities hold? Right is CER ≤ {bound:g} %", "said")
    for header in ("clips", "said, mean", "were right", "95 %"):
        table.add_column(header)
    for row in each.reliability:
        right = human_percent(row.right.value)
        table.add_row(
            f"{row.low:g}-{row.high:g} %", f"{row.clips:,}", human_percent(row.predicted), right, interval(row.right)
        )
    return table
