"""Pages: one frame and one policy, hostile values stay text, and a template that misspells a name fails."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from operators.page.frame import render


def written(folder: Path, body: str) -> Path:
    path = folder / "page.html"
    path.write_text('{% extends "frame.html" %}\n{% block body %}\n' + body + "\n{% endblock %}\n", "utf-8")
    return path


def policy_of(page: str) -> dict[str, list[str]]:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found
    return {name: values for name, *values in (part.split() for part in found[1].split(";"))}


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_names_what_the_page_holds_and_allows_nothing_else(tmp_path: Path) -> None:
    page = render(written(tmp_path, "<p>hello"), title="T", style="p { color: red }", script="let a = 1 < 2;").decode()
    policy = policy_of(page)
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        content = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert content
        assert policy[directive] == [hash_of(content[1])], "of the bytes between the tags, as a browser hashes them"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy.keys() == {"default-src", "style-src", "script-src", "base-uri", "form-action"}


def test_a_page_without_script_or_audio_allows_neither(tmp_path: Path) -> None:
    template = written(tmp_path, "<p>hello")
    page = render(template, title="T", style="").decode()
    assert "<script" not in page
    assert policy_of(page).keys() == {"default-src", "style-src", "base-uri", "form-action"}
    assert policy_of(render(template, title="T", style="", plays_audio=True).decode())["media-src"] == ["data:"]


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", '"\' onload=alert(1) x="', "</style></title>{{ 7*7 }}"]
)
def test_values_stay_text_wherever_they_stand(tmp_path: Path, attack: str) -> None:
    page = render(
        written(tmp_path, '<p title="{{ value }}">{{ value }}'), title=attack, style="", value=attack
    ).decode()
    assert attack not in page
    assert "49" not in page
    assert page.count("<title>") == page.count("</title>") == page.count("</style>") == 1


def test_what_utf8_cannot_hold_is_written_as_an_escape(tmp_path: Path) -> None:
    assert b"caf\\udce9" in render(written(tmp_path, "{{ value }}"), title="T", style="", value="caf\udce9")


def test_a_name_that_nothing_was_given_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="valeu"):
        render(written(tmp_path, "{{ valeu }}"), title="T", style="", value=1)
