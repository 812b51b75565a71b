"""An estimate in the terminal: a table of stages, then lines of what comes out and what it costs.

Estimated ──show_estimate──> stage | CPU hours | GPU hours | ...; kept, shards, gigabytes, wall time, cost
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from operators.resampling import Estimate
from pipeline.config import Prices
from pipeline.display.terminal import WideTable
from pipeline.display.words import human_factor, human_seconds, human_share, printable
from pipeline.estimate.forecast import Forecast
from pipeline.estimate.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """Estimated is a forecast, the sample that it comes from, and how that went."""

    forecast: Forecast
    sample: Sample
    domains: int
    """in the sample."""
    of_domains: int
    """in the plan."""
    failed: int
    """chunks that failed, and are not in the forecast."""
    seconds: float
    """that it took, start-up and all."""


def show_estimate(made: Estimated, prices: Prices, console: Console) -> None:
    """Print an estimate."""
    console.print(_sampled(made), markup=False, highlight=False, soft_wrap=True)
    if made.failed:
        line = f"{made.failed} chunk(s) failed and are not in it: a run would leave such units undone"
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.print(_stages(made.forecast))
    console.print()
    console.print(_results(made, prices))


def _sampled(made: Estimated) -> str:
    sample = made.sample
    count = len(sample.chunks) - made.failed
    of = f"{human_seconds(sample.sampled_seconds)} of {human_seconds(sample.expected_seconds)}"
    took = f"measured in {human_seconds(made.seconds)}"
    if sample.whole:
        return f"the whole plan, {of}, {took}"
    how_sure = "intervals at 95 %" if count > 1 else "one chunk gives no interval: try more minutes"
    return f"{count} chunks, {of}, {made.domains} of {made.of_domains} domain(s), {took}; {how_sure}"


def _stages(forecast: Forecast) -> WideTable:
    has_gpu = forecast.gpu_hours is not None
    table = WideTable("What the whole plan takes", "stage", "all")
    table.add_column("CPU hours", footer=interval(forecast.cpu_hours))
    if forecast.gpu_hours is not None:
        table.add_column("GPU hours", footer=interval(forecast.gpu_hours))
    table.add_column("workers", footer="")
    table.add_column("× real time", footer="", spare=True)
    table.add_column("start-up of one", footer="", spare=True)
    for stage in forecast.stages:
        gpu = [interval(stage.gpu_hours) if stage.gpu_hours else "–"] if has_gpu else []
        rest = [f"{stage.workers:,}", human_factor(stage.real_time_factor), human_seconds(stage.start_up.wall)]
        table.add_row(stage.name, interval(stage.cpu_hours), *gpu, *rest)
    return table


def _results(made: Estimated, prices: Prices) -> Table:
    forecast, whole = made.forecast, made.sample.expected_seconds
    lines = Table(show_header=False, box=None, pad_edge=False)
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")

    def line(name: str, text: str) -> None:
        lines.add_row(name, Text(text))

    kept = forecast.kept_seconds
    line("kept", f"{interval(kept, human_seconds)}, {human_share(kept.value or 0.0, whole)} of {human_seconds(whole)}")
    line("shards", _shards(forecast.shards))
    line("written", f"{interval(forecast.gigabytes)} GB")
    by = "the stages, one after the other" if forecast.pace == "one process" else f"{forecast.pace} set the pace"
    hours = interval(forecast.wall_hours, lambda hours: human_seconds(3600 * hours))
    line("wall time", f"{hours} with these workers: {by}")
    if forecast.cost is not None and forecast.cost_reserved is not None:
        currency = f" {printable(prices.currency)}" if prices.currency else ""
        line("cost", f"{interval(forecast.cost)}{currency} for the hours of work, and storage")
        line("", f"{interval(forecast.cost_reserved)}{currency} when all workers are paid for from beginning to end")
    return lines


def _shards(found: Estimate) -> str:
    low, high = found.low or 0.0, found.high or 0.0
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _plain(number: float) -> str:
    """Return a number with three digits, or all whole ones: 0.0123, 4.56, 1,234."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number >= 1e-4 or not number else "<0.0001"


def interval(found: Estimate, form: Callable[[float], str] = _plain) -> str:
    """Return an estimate with its interval, where it has one that is not a point."""
    value = form(found.value or 0.0)
    if found.low is None or found.high is None or found.low == found.high:
        return value
    return f"{value} ({form(found.low)} to {form(found.high)})"
