"""One self-contained HTML page: no network, and nothing styles or runs it but what its own policy names by hash.

    template (a file), style, script, values ──Jinja2, every value escaped──> FRAME around the template's body ──> bytes

The values come from crawls, transcripts and test sets and are hostile. Jinja2 escapes each of them, a name that the
template misspells is an error, and the page's Content-Security-Policy loads nothing and runs no other script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
{% block body %}{% endblock %}
{% if script %}<script>{{ script }}</script>
{% endif %}
</body>
</html>
"""
"""What a template extends, as "frame.html": it fills the block `body`."""


def style() -> str:
    """Return the style sheet that all pages have in common."""
    return Path(__file__).with_name("page.css").read_text("utf-8")


def render(
    template: Path,
    *,
    title: str,
    style: str,
    script: str = "",
    plays_audio: bool = False,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> bytes:
    """Return the page of a template file in UTF-8; the same arguments give the same bytes.

    `style` and `script` are ours and stand in the page as they are; `plays_audio` allows audio that the page itself
    holds. What UTF-8 cannot hold (half a surrogate pair in a file's name) is written as an escape.
    """
    from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([DictLoader({"frame.html": FRAME}), FileSystemLoader(template.parent)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    page = environment.get_template(template.name).render(
        **values,
        title=title,
        style=Markup(style),
        script=Markup(script),
        policy=Markup(policy(style, script, plays_audio=plays_audio)),
    )
    return page.encode("utf-8", "backslashreplace")


def policy(style: str, script: str = "", *, plays_audio: bool = False) -> str:
    """Return the Content-Security-Policy that allows this style and this script, by hash, and nothing else."""
    allowed = ["default-src 'none'"]
    allowed += [f"script-src '{_hash(script)}'"] if script else []
    allowed.append(f"style-src '{_hash(style)}'")
    allowed += ["media-src data:"] if plays_audio else []
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
