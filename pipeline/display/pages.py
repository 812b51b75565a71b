"""The pages of the pipeline: one set of templates, styles and scripts, and one set of words for numbers.

    assets/NAME.html, scripts ─┐
    values, words.py ──────────┴─operators.page.frame──> bytes

report.html, comparison.html and score.html are all drawn by `render`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from operators.page import frame
from pipeline.display.words import human_factor, human_percent, human_seconds, human_time

MOST_DOMAINS = 60
"""The domains that a page shows one by one, the largest; its JSON file has all."""

_ASSETS = Path(__file__).parent / "assets"
_FILTERS: dict[str, Callable[..., str]] = {
    "time": human_time,
    "seconds": human_seconds,
    "percent": human_percent,
    "factor": human_factor,
    "count": lambda number: f"{number:,}",
    "plain": lambda percent: f"{percent:g} %",
}


def render(
    name: str,
    *,
    title: str,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> bytes:
    """Return the page that the template assets/`name` makes of the values; the same values give the same bytes.

    `styles` of assets stand behind the style of all pages. A page with scripts may play the audio that it holds.
    """
    more, script = ("".join((_ASSETS / each).read_text("utf-8") for each in names) for names in (styles, scripts))
    words = _FILTERS | dict(filters or {})
    style = frame.style() + more
    return frame.render(
        _ASSETS / name, title=title, style=style, script=script, plays_audio=bool(scripts), filters=words, **values
    )
