"""The page: self-contained, safe against hostile manifests and transcripts, right in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile

from operators.agreement import AgreementRule
from pipeline.report.page import shown_domains
from pipeline.report.retention import fold
from pipeline.report.write import write_report
from tests.support.browser import Browser
from tests.support.synthetic_run import (
    PROFILES,
    FolderStore,
    Profile,
    clip_row,
    make_run,
    rejected,
    sound,
    stretch_row,
    table,
    unreadable,
    write_unit,
)

SECOND = 16_000
IMAGE = "<img src=x onerror=\"document.title='pwned';alert(1)\">"
SCRIPT = "</script><script>document.title='pwned';alert(2)</script>"
ATTRIBUTE = '"\' autofocus onfocus=alert(3) x="\u2028{{ 7*7 }}<!--'


def cut_again(row: Mapping[str, Any]) -> bytes:
    return sound(row["end"] - row["start"])


class Page(HTMLParser):
    """The elements of a page and the texts inside them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(store: FolderStore, **settings: Any) -> str:
    write_report(store, fold(store.ledgers()), store.speeds(), cut_again, **settings)
    return store.read("report.html").decode()


def payload(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    three = {name: PROFILES[name] for name in ("newsread", "podcast", "live")}
    store = make_run(tmp_path_factory.mktemp("run"), three, recordings=3)
    page_of(store)
    return store


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    """A run in which every text that comes from outside attacks the page."""
    store = FolderStore(tmp_path_factory.mktemp("hostile"))
    for number, attack in enumerate((IMAGE, SCRIPT, ATTRIBUTE)):
        links = {
            "source_url": "javascript:alert(4)",
            "also": " java\tscript:alert(5)",
            "data": "data:text/html,<script>alert(6)</script>",
            "fine": f"https://example.org/?q={attack}",
            attack: attack,
        }
        heard = [{"engine": attack, "text": attack, "language": attack}, {"engine": attack, "text": attack + " more"}]
        columns = {
            "uri": attack,
            "language": attack,
            "hypotheses": heard,
            "asr_norm": attack,
            "copilot_norm": attack + " more",
            "reference": "asr",
            "wer": 4.0,
            "per": 3.0,
            "tokens_per_second": 3.0,
            "provenance": json.dumps(links),
        }
        rows = [
            clip_row(attack, attack, 0, 3 * SECOND, **columns, label=attack),
            clip_row(attack, attack, 3 * SECOND, 6 * SECOND, **columns, **rejected(attack, attack, attack)),
            stretch_row(attack, attack, 6 * SECOND, 9 * SECOND, uri=attack, **unreadable(attack, attack, attack)),
        ]
        write_unit(store, f"hostile-{number:06d}", [row | {"unit_id": f"hostile-{number:06d}"} for row in rows])
    store.put("speed/one.json", json.dumps({"units": 1, "input_seconds": 1, "wall_seconds": 1, "stages": {
        IMAGE: {"busy_seconds": 1, "audio_seconds": 1, "actors": 1, "device": SCRIPT}}}).encode())  # fmt: skip
    page_of(store, title=IMAGE + SCRIPT)
    return store


def test_hostile_text_makes_no_element(hostile: FolderStore) -> None:
    text = hostile.read("report.html").decode()
    page = Page(text)
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "autofocus")]
    said = "".join(page.text)
    for attack in (IMAGE, SCRIPT, ATTRIBUTE):
        assert attack in said
    assert "\u2028" not in re.findall(r"<script.*?</script>", text, re.DOTALL)[0]
    assert {scope["name"] for scope in payload(text)["scopes"]} == {"All domains", IMAGE, SCRIPT, ATTRIBUTE}


def test_only_web_addresses_become_links(run: FolderStore, hostile: FolderStore) -> None:
    links = [link["href"] for link in Page(hostile.read("report.html").decode()).all("a")]
    assert all(link and link.startswith(("#", "https://example.org/")) for link in links)
    assert "https://example.org/episodes/42" in [
        link["href"] for link in Page(run.read("report.html").decode()).all("a")
    ]


def test_the_page_holds_all_it_needs(run: FolderStore) -> None:
    text = run.read("report.html").decode()
    page = Page(text)
    assert page.all("link") == page.all("iframe") == page.all("object") == []
    assert all("src" not in script for script in page.all("script"))
    assert all((audio["src"] or "").startswith("data:audio/") for audio in page.all("audio"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 8_000_000


def test_kept_clips_play_from_the_tar_and_rejected_ones_are_cut_again(run: FolderStore) -> None:
    asked: list[Mapping[str, Any]] = []

    def remember(row: Mapping[str, Any]) -> bytes:
        asked.append(row)
        return cut_again(row)

    write_report(run, fold(run.ledgers()), run.speeds(), remember)
    report = json.loads(run.read("report.json"))
    page = Page(run.read("report.html").decode())
    seconds = []
    for audio in page.all("audio"):
        kind, data = (audio["src"] or "").split(";base64,")
        assert kind == "data:audio/ogg"
        pcm, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert abs(pcm).max() > 0.01
        seconds.append(len(pcm) / rate)
    expected = sorted((example["end"] - example["start"]) / SECOND for example in report["examples"])
    assert sorted(seconds) == pytest.approx(expected, abs=0.02)
    assert {row["outcome"] for row in asked} == {"rejected"}
    assert len(asked) == sum(example["outcome"] == "rejected" for example in report["examples"])


def test_a_source_that_is_gone_costs_its_player_only(run: FolderStore) -> None:
    write_report(run, fold(run.ledgers()), (), lambda row: None)
    text = run.read("report.html").decode()
    kept = sum(example["outcome"] == "kept" for example in json.loads(run.read("report.json"))["examples"])
    assert len(Page(text).all("audio")) == kept
    assert "No audio here" in text
    assert 'id="engines"' not in text


def test_differences_are_marked(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    heard = [{"engine": "first", "text": "the old house"}, {"engine": "second", "text": "the cold house there"}]
    columns = {"hypotheses": heard, "reference": "asr", "wer": 66.7, "per": 20.0, "unit_id": "a-000000"}
    en = columns | {"asr_norm": "the old big house", "copilot_norm": "the cold big house there"}
    zh = columns | {"asr_norm": "今天天气很好", "copilot_norm": "今天天汽好"}
    rows = [
        clip_row("a", "r", 0, 3 * SECOND, **en, **rejected("rover", "wer_and_per")),
        clip_row("a", "r", 3 * SECOND, 6 * SECOND, **zh, **rejected("rover", "wer")),
        clip_row("a", "r", 6 * SECOND, 9 * SECOND, unit_id="a-000000", **rejected("segment", "too_short")),
    ]
    write_unit(store, "a-000000", rows)
    text = page_of(store)
    marked = [re.sub(r"\s+", " ", line) for line in re.findall(r'<bdi class="text">(.*?)</bdi>', text)]
    plain = [re.sub(r"<[^>]+>", "", line) for line in marked]
    assert {"the old big house", "the cold big house there", "今天天气很好", "今天天汽好"} <= set(plain)
    assert any('<mark class="sub">气</mark><del>很</del>好' in line for line in marked)
    assert any('<mark class="sub">汽</mark>好' in line for line in marked)
    assert any(line == 'the <mark class="sub">cold</mark> big house <ins>there</ins>' for line in marked)


def test_many_domains_stay_small_and_each_can_be_heard(tmp_path: Path) -> None:
    many = {f"domain {number:02d}": Profile(units=1, disagreement=0.1) for number in range(70)}
    noise = b"OggS" + bytes(60_000)  # larger than any 12 s of Opus, so that the budget is felt
    store = make_run(tmp_path, many, recordings=1, minutes=0.5, audio=lambda samples: noise)
    write_report(store, fold(store.ledgers()), (), lambda row: noise)
    text = store.read("report.html").decode()
    assert len(text) < 9_000_000
    names = [scope["name"] for scope in payload(text)["scopes"]]
    assert len(names) == 62
    assert names[-1] == "(10 smaller domains)"
    clips = re.split(r'<div class="domain-clips"', text)[1:]
    assert len(clips) == 60
    assert all("<audio" in each for each in clips)
    assert sum(scope["input"] for scope in payload(text)["scopes"][1:]) == payload(text)["scopes"][0]["input"]
    assert len(json.loads(store.read("report.json"))["domains"]) == 70


# --- in a real browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def test_hostile_text_stays_text_in_a_browser(browser: Browser, hostile: FolderStore) -> None:
    browser.open(hostile.root / "report.html")
    assert browser.dialogs == []
    assert browser.errors == []
    assert browser.evaluate("document.title") == IMAGE + SCRIPT
    # Every domain is chosen in every chart, and every clip is shown.
    browser.evaluate("""for (const select of document.querySelectorAll('select'))
        for (const option of select.options) { option.selected = true; select.dispatchEvent(new Event('change')); }""")
    assert browser.evaluate("document.querySelectorAll('img, iframe, [onerror], [onfocus]').length") == 0
    assert browser.evaluate(f"document.querySelector('#domain-bars').textContent.includes({json.dumps(IMAGE)})")
    assert browser.dialogs == []
    assert browser.errors == []
    assert browser.requests == [(hostile.root / "report.html").as_uri()]


def test_sliders_answer_what_the_histogram_says(browser: Browser, run: FolderStore) -> None:
    retention = fold(run.ledgers())
    page_of(run)
    browser.open(run.root / "report.html")
    assert browser.errors == []

    def shown() -> list[str]:
        figures = "document.querySelectorAll('#live-bars svg > g > text:last-child')"
        return browser.evaluate(f"[...{figures}].map(text => text.textContent)")

    def expected(max_wer: float, max_per: float, both: bool) -> list[str]:
        shares = []
        for _, tally in shown_domains(retention):
            assert tally.distributions
            shares.append(100 * tally.distributions.kept_at(max_wer, max_per, drop_only_when_both=both) / tally.input)
        return [f"{share:.1f} %" for share in shares]

    assert shown() == expected(10, 5, False)
    move = (
        "{const slider = document.getElementById('max-%s'); slider.value = %d; slider.dispatchEvent(new "
        "Event('input'));}"
    )
    edges = payload(run.read("report.html").decode())["edges"]["score"]
    browser.evaluate(move % ("wer", edges.index(25)))
    browser.evaluate(move % ("per", edges.index(2.5)))
    assert shown() == expected(25, 2.5, False)
    browser.evaluate("document.querySelector('input[value=both]').click()")
    assert shown() == expected(25, 2.5, True)
    assert "against this run" in browser.evaluate("document.getElementById('live').textContent")
    browser.evaluate(move % ("wer", len(edges)))
    browser.evaluate("document.querySelector('input[value=either]').click()")
    assert shown() == expected(float("inf"), 2.5, False)
    browser.evaluate("document.getElementById('reset').click()")
    assert shown() == expected(10, 5, False)


def test_waterfall_steps_end_at_what_was_kept(browser: Browser, run: FolderStore) -> None:
    browser.open(run.root / "report.html")
    bars = """[...document.querySelectorAll('#waterfall-chart rect')].map(
        bar => ['x', 'width'].map(name => Number(bar.getAttribute(name))))"""
    choose = """{const pick = document.querySelector('select[data-scope=waterfall]');
        pick.selectedIndex = %d; pick.dispatchEvent(new Event('change'));}"""
    for index in range(4):
        browser.evaluate(choose % index)
        (left, whole), *steps, (_, kept) = browser.evaluate(bars)
        level = left + whole
        for x, width in steps:
            assert x + width == pytest.approx(level, abs=1.1)  # a sliver is drawn one pixel wide
            level = x
        assert left + kept == pytest.approx(level, abs=1.1)


def test_print_leaves_out_controls_but_no_number(browser: Browser, run: FolderStore) -> None:
    browser.open(run.root / "report.html")
    seen = "[...document.querySelectorAll('%s')].filter(each => each.getClientRects().length).length"
    numbers = ".term, .chart rect, .chart text, #listen .clip, table td"
    on_screen = browser.evaluate(seen % numbers)
    browser.send("Emulation.setEmulatedMedia", media="print")
    live = browser.evaluate("document.querySelectorAll('#live-bars rect, #live-bars text').length")
    assert browser.evaluate(seen % numbers) == on_screen - live
    assert browser.evaluate(seen % "audio, button, select, input") == browser.evaluate(seen % "figcaption select")
    browser.send("Emulation.setEmulatedMedia", media="")


def test_audio_plays_in_a_browser(browser: Browser, run: FolderStore) -> None:
    page_of(run)
    browser.open(run.root / "report.html")
    length = browser.evaluate("""new Promise((done, fail) => { const player = document.querySelector('audio');
        player.addEventListener('loadedmetadata', () => done(player.duration));
        player.addEventListener('error', () => fail('cannot play'));
        player.load(); player.preload = 'auto'; })""")
    assert 0.5 < length < 31


CASES = {
    "empty": [],
    "only unreadable files": [stretch_row("a", "r", 0, 0, **unreadable("decode", "not_audio"))],
    "no speech": [stretch_row("a", "r", 0, 90 * SECOND)],
    "zero kept": [
        stretch_row("a", "r", 0, 90),
        clip_row("a", "r", 90, 5 * SECOND, **rejected("copilot", "no_copilot")),
    ],
    "all kept": [clip_row("a", "r", 0, 5 * SECOND, wer=0.0, per=0.0, tokens_per_second=3.0, label="x", hypotheses=[])],
}


@pytest.mark.parametrize("name", CASES)
def test_odd_runs_make_a_sound_page(browser: Browser, tmp_path: Path, name: str) -> None:
    store = FolderStore(tmp_path)
    rows = CASES[name]
    if rows:
        write_unit(store, "unit-000000", rows)
    write_report(store, fold([table(rows)]), rule=AgreementRule(max_wer=7.25, max_per=400))
    for width in (390, 1280):
        browser.open(tmp_path / "report.html", width=width, dark=width == 390)
        assert browser.errors == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert "NaN" not in browser.evaluate("document.body.innerHTML")
