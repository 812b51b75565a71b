"""The pages of label quality: safe against hostile names and texts, small, and right in a real browser."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.score.page import render_page
from pipeline.score.result import Score, headline
from pipeline.score.terminal import render_terminal
from tests.support.browser import Browser
from tests.support.truths import clip, crawl_run, heard, scored, truth_bytes, truth_line, whole

__all__ = ["crawl_run", "whole"]

ATTACKS = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</title></style><script>document.title='pwned'</script>",
    '"\' onload=alert(1) x="{{ 7*7 }}<!--\x1b[31m\u202e',
)


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(attack: str) -> Score:
    """Domain, recording, language, engines, clip id and texts that attack the page. One attack a page: one may hide
    another.
    """
    row = heard(0, 4, attack, attack, attack, label=attack)
    row["hypotheses"] = [each | {"engine": attack} for each in row["hypotheses"]]
    rows = [clip(attack, attack, **row) | {"clip_id": attack}]
    return scored(rows, truth_bytes(truth_line(attack, attack, (0, 4, f"said {attack}"))))


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_text_makes_no_element(attack: str) -> None:
    harmless = Elements(render_page(hostile("harmless")).decode())
    elements = Elements(render_page(hostile(attack)).decode())
    assert {tag for tag, _ in elements.found} == {tag for tag, _ in harmless.found} - {"script"}
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert elements.text.count(attack) >= 8, "shown as the text that it is: bars, engines, domain, language, clip"


def test_hostile_text_reaches_no_terminal() -> None:
    out = io.StringIO()
    Console(file=out, width=400, color_system=None).print(render_terminal(hostile(ATTACKS[2])))
    assert "\x1b" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    assert "\\x1b[31m\\u202e" in out.getvalue()


def test_a_wrong_label_is_shown_beside_the_truth_with_its_differences_marked() -> None:
    rows = [clip("d", "r", **heard(0, 4, "en", "turn left now", "turn left now"), label="turn left now")]
    page = render_page(scored(rows, truth_bytes(truth_line("r", "en", (0, 4, "turn right now"))))).decode()
    assert "TURN <del>RIGHT</del> NOW" in page
    assert "TURN <ins>LEFT</ins> NOW" in page


def test_the_page_is_small_and_shows_every_number_of_the_headline(whole: Score) -> None:
    page = render_page(whole).decode()
    assert len(page) < 120_000
    text = " ".join(Elements(page).text.split())
    assert headline(whole.total)[1:] in text
    for scope in whole.domains:
        assert scope.name in text
    assert page.count("<svg") == 4


def test_a_browser_shows_the_page_without_complaint(whole: Score, tmp_path: Path) -> None:
    with Browser() as browser:
        for name, found in [
            ("whole", whole),
            *((f"hostile{at}", hostile(attack)) for at, attack in enumerate(ATTACKS)),
        ]:
            (tmp_path / f"{name}.html").write_bytes(render_page(found))
            browser.open(tmp_path / f"{name}.html", dark=name == "whole")
            assert browser.errors == browser.dialogs == []
            assert browser.evaluate("document.title") == "Label quality"
            assert [url for url in browser.requests if not url.startswith("file:")] == []
            # Nothing of a chart may hang over its frame.
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert browser.evaluate("[...document.querySelectorAll('svg')].every(each => each.getBBox().width <= 641)")
