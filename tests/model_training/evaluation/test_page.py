"""The page of an evaluation, and what it is made of: words, clips to listen to, charts, files."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from model_training.data.audio import BadSample
from model_training.evaluation import charts, listen
from model_training.evaluation.answers import Answer, AudioPlace, from_lines, to_lines
from model_training.evaluation.evaluation import Evaluation, evaluation_of
from model_training.evaluation.page import to_html
from model_training.evaluation.report import comparisons_of, read_results, write_results
from model_training.evaluation.words import wrong_words
from operators.errors import UserError
from tests.support.browser import Browser

HOSTILE = "<script>alert(1)</script>"


def answer(clip: int, said: str, heard: str, **more: object) -> Answer:
    known = {"set": "talks", "clip_id": f"c{clip}", "recording": f"r{clip % 3}", "seconds": 2.0, "reference": said,
             "hypothesis": heard}  # fmt: skip
    return Answer(**known | more)  # type: ignore[arg-type]


def some(
    name: str = "model", sizes: tuple[int, ...] = (3, 15), heard: str = "the cat sad on a mat", recordings: int = 3
) -> Evaluation:
    found = []
    for n_experts in sizes:
        for clip in range(9):
            written = heard if clip % 2 else "the cat sat on the mat"
            found.append(
                answer(clip, "the cat sat on the mat", written, n_experts=n_experts, truths={"gender": "male"},
                       labels={"gender": "male" if clip else "female"}, true_events=("dog",) if clip < 3 else (),
                       events=("dog",) if clip < 2 else (), language="en", recording=f"r{clip % recordings}")
            )  # fmt: skip
        found.append(answer(9, f"{HOSTILE} 你好", "你号", n_experts=n_experts, set="news", clip_id=HOSTILE))
    return evaluation_of(found, name=name, parameters={n: {"total": 10**6 * n, "active": 10**6} for n in sizes})


def hear(one: Answer) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 500, round(one.seconds * 16_000)).astype(np.int16)


def test_words_most_often_wrong_say_what_they_were_taken_for() -> None:
    pairs = [("the cat sat", "a cat sat"), ("the dog", "a dog"), ("the end", "end"), ("你好", "你号"), ("so", "so so")]
    found = wrong_words([answer(at, *pair) for at, pair in enumerate(pairs)])
    the, hao = found.wrong
    assert (the.word, the.said, the.wrong, the.heard_as) == ("THE", 3, 3, (("A", 2), ("", 1)))
    assert (hao.word, hao.heard_as) == ("好", (("号", 1),))
    assert found.inserted == (("SO", 1),)


def test_best_median_and_worst_are_chosen_and_none_twice() -> None:
    wrong = [answer(n, "a b c d e f g h", " ".join("abcdefgh"[n:])) for n in range(9)]
    long = answer(20, "a b c d e f g h i j", "", seconds=29.0)
    chosen = listen.choose([*wrong, long, answer(30, "", "heard in silence")], each=1)
    assert [(shown.place, shown.answer.clip_id) for shown in chosen] == [
        ("best", "c0"),
        ("median", "c4"),
        ("worst", "c8"),
    ]
    assert [shown.percent for shown in chosen] == [0, 50, 100]
    few = listen.choose(wrong[:3])
    assert sorted(shown.answer.clip_id for shown in few) == ["c0", "c1", "c2"]
    assert listen.choose([long])[0].answer is long, "a long one where there is no other"


def test_sound_is_bounded_and_a_lost_clip_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(one: Answer) -> np.ndarray:
        if one.clip_id == "c1":
            raise BadSample("c1", "unreadable", "")
        if one.clip_id == "c2":
            raise UserError("the shard is gone")
        return hear(one)

    clips = [answer(n, "a", "a") for n in range(5)]
    found = listen.sounds([clips], gone)
    assert [clip for _, clip in found] == ["c0", "c3", "c4"]
    with soundfile.SoundFile(io.BytesIO(found["talks", "c0"])) as audio:
        assert audio.format == "OGG"
    size = len(found["talks", "c0"])
    monkeypatch.setattr(listen, "AUDIO_BUDGET_BYTES", 2 * size + 10)
    assert len(listen.sounds([clips[3:], clips[:1]], gone)) == 2
    assert listen.sounds([clips], None) == {}


class Page(HTMLParser):
    """What a browser would make of it: elements, and the text of each."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_has_what_a_reader_asks_for() -> None:
    evaluation = some()
    data = to_html([evaluation], hear=hear)
    assert data == to_html([evaluation], hear=hear)
    page = Page(data)
    assert {link["href"] for link in page.of("a")} == {
        "#overview",
        "#errors",
        "#words",
        "#attributes",
        "#listen",
        "#numbers",
    }
    assert not page.of("script")
    assert "http" not in data.decode().replace("http-equiv", "")
    assert not any("style" in attributes for _, attributes in page.elements), "the policy would refuse it"
    assert len(page.of("svg")) == 2
    for words in ("SAD", "left out", "balanced", "always male", "best", "median", "worst", "Given for nothing"):
        assert words in page.text
    played = page.of("audio")
    assert len(played) == 7
    head, _, sound = str(played[0]["src"]).partition(",")
    assert head == "data:audio/ogg;base64"
    assert base64.b64decode(sound).startswith(b"OggS")
    assert any(element.get("class") == "sub" for element in page.of("mark"))
    assert HOSTILE in page.text, "as text"


def test_the_picture_has_a_point_and_a_whisker_for_each_size() -> None:
    picture = str(charts.by_size([some(), some("other", heard="the cat sat on the mat")]))
    # Two models, two sizes, the set and all sets: news is one clip of one recording, which has no interval.
    points = re.findall(r"<(circle|path class=\"(?:kept|rejected|in)\")", picture)
    assert len(points) == 2 * 2 * 3
    assert picture.count("thin") == 2 * 2 * 2
    assert re.findall(r">(N=\d+ · [\d.]+ M)<", picture) == ["N=3 · 3.0 M", "N=15 · 15.0 M"]
    assert charts.by_size([evaluation_of([answer(0, "", "")])]) is None
    alone = evaluation_of([answer(0, "a b", "a", n_experts=0)])
    assert "dense" in str(charts.by_size([alone])), "without known parameters too"


def test_two_models_are_compared_on_the_page() -> None:
    evaluations = [some("before", recordings=9), some("after", heard="the cat sat on the mat", recordings=9)]
    comparisons = comparisons_of(evaluations)
    page = Page(to_html(evaluations, comparisons, hear))
    assert "#compare" in {link["href"] for link in page.of("a")}
    for words in ("What changed", "before N=15", "after N=15", "better", "Clips that changed most"):
        assert words in page.text
    assert "What changed" not in Page(to_html([replace(one, answers=()) for one in evaluations])).text


def test_a_browser_shows_it_without_a_complaint(tmp_path: Path) -> None:
    path = tmp_path / "eval.html"
    evaluations = [some("before"), some("after", heard="the cat sat on the mat")]
    path.write_bytes(to_html(evaluations, comparisons_of(evaluations), hear))
    with Browser() as browser:
        browser.open(path, width=420)
        assert browser.errors == []
        assert browser.dialogs == []
        assert browser.requests == [path.as_uri()]
        assert browser.evaluate("document.documentElement.scrollWidth") <= 420
        length = browser.evaluate(
            "new Promise(done => { const a = document.querySelector('audio'); a.onerror = () => done(-1);"
            " a.onloadedmetadata = () => done(a.duration); a.load() })"
        )
        assert length == pytest.approx(2.0, abs=0.1)


def test_answers_come_back_from_their_file(tmp_path: Path) -> None:
    evaluation = some()
    placed = replace(
        evaluation.answers[0], audio=AudioPlace(shard="x.tar", offset=512, size=9, start_sample=0, end_sample=8)
    )
    evaluation = replace(evaluation, answers=(placed, *evaluation.answers[1:]))
    write_results(tmp_path, evaluation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.json", "eval.jsonl"]
    again = read_results(tmp_path / "eval.json")
    assert again.answers == evaluation.answers
    assert to_html([again]) == to_html([evaluation])
    (tmp_path / "eval.jsonl").unlink()
    assert read_results(tmp_path / "eval.json").answers == ()
    for bad in (b'{"set": "s"}\n', b"[]\n", b"no\n", b'{"audio": 3, "true_events": [], "events": []}\n'):
        with pytest.raises(UserError, match=r"eval\.jsonl:1 is no answer"):
            list(from_lines(bad, "eval.jsonl"))
    assert list(from_lines(to_lines(evaluation.answers), "x")) == list(evaluation.answers)
    with pytest.raises(UserError, match=r"gone\.json"):
        read_results(tmp_path / "gone.json")
