"""A text model behind an endpoint, against a real HTTP server that answers well, badly, late, or no more."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from operators.annotate.agree import agree
from operators.annotate.annotator import Heard, Opinion, opinions
from operators.annotate.chat import ChatAnnotator, label_in
from operators.errors import MachineTrouble, UserError

Answer = Callable[[dict[str, Any], int], tuple[int, bytes]]


def completion(text: object) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Model:
    """An OpenAI-compatible server on this machine. `answer(request, number)` gives status and body of a question."""

    def __init__(self) -> None:
        self.answer: Answer = lambda request, number: completion("happiness")
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.under_way = self.most_under_way = 0
        lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/chat/completions"
                with lock:
                    model.asked.append(request)
                    model.headers.append(self.headers)
                    model.under_way += 1
                    model.most_under_way = max(model.most_under_way, model.under_way)
                    number = len(model.asked)
                status, body = model.answer(request, number)
                with lock:
                    model.under_way -= 1
                try:
                    self.send_response(status)
                    if status == 429:
                        self.send_header("Retry-After", "0.01")
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client hung up

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model()
    yield server
    server.stop()


class Kept(dict[str, bytes]):
    """A Cache in memory."""

    def put(self, key: str, data: bytes) -> None:
        assert key.isalnum()
        self[key] = data


def clips(*texts: str) -> list[Heard]:
    return [Heard(pcm=np.zeros(16_000, np.int16), text=text, language="en") for text in texts]


def annotator(model: Model, **more: Any) -> ChatAnnotator:
    settings: dict[str, Any] = {"endpoint": model.url, "kinds": ["emotion"], "probe": False, **more}
    return ChatAnnotator("mind", **settings)


def test_a_question_holds_the_words_and_the_closed_list_and_no_chance(model: Model) -> None:
    model.answer = lambda request, number: completion(
        "Sadness." if "rain" in str(request) else '{"style": "Poetry and prose"}'
    )
    asked = annotator(model, kinds={"emotion": ["joy", "sadness"], "style": ["poetry and prose", "others"]})
    found = asked.annotate(clips("rain, rain", ""))
    assert found == [{"emotion": Opinion(("sadness",))}, {}], "a clip without words is not asked about"
    assert all(request["temperature"] == 0 and request["model"] == "mind" for request in model.asked)
    questions = [request["messages"][0]["content"] for request in model.asked]
    assert all("rain, rain" in question for question in questions)
    assert [sum(labels in question for question in questions) for labels in ("joy, sadness", "prose, others")] == [1, 1]


BOMB = b'{"choices": ' + b"[" * 50_000
HOSTILE = {
    "html": (200, b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
    "a megabyte": completion("happiness" + " " * 1_000_000),
    "a megabyte of HTML": (200, b"<p>happiness</p>" * 65_536),
    "another label": completion("melancholy"),
    "a label among others": completion("happiness or surprise"),
    "a label in a sentence": completion("The speaker's emotion is happiness"),
    "a bomb of brackets": (200, BOMB),
    "a bomb as its content": completion("[" * 150),
    "a number of 60,000 digits": (200, b'{"choices": ' + b"9" * 60_000 + b"}"),
    "no text": completion(None),
    "a list": completion(["happiness"]),
    "JSON that is no object": (200, b'"happiness"'),
    "no choices": (200, b'{"choices": []}'),
    "no bytes": (200, b""),
    "no UTF-8": (200, b"\xff\xfe\x00"),
    "surrogates": (200, b'{"choices": [{"message": {"content": "\\ud800happiness"}}]}'),
    "JSON of another kind": completion('{"style": "happiness"}'),
    "JSON of two": completion('{"emotion": "happiness", "why": "it says so"}'),
    "too long for it": (400, b'{"error": "context length"}'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_answer_is_an_abstention_and_nothing_more(model: Model, kind: str) -> None:
    model.answer = lambda request, number: HOSTILE[kind] if "bad" in str(request) else completion("anger")
    cache = Kept()
    assert annotator(model).annotate(clips("good", "bad", "better"), cache=cache) == [
        {"emotion": Opinion(("anger",))},
        {},
        {"emotion": Opinion(("anger",))},
    ]
    assert max(map(len, cache.values())) < 1000


@pytest.mark.parametrize(
    "said", ["fear", " Fear. ", '"fear"', "**FEAR**", '{"emotion": "Fear"}', '```json\n{"label": "fear"}\n```']
)
def test_a_label_is_known_in_the_forms_that_models_write(said: str) -> None:
    assert label_in(said, "emotion", ("fear", "anger")) == "fear"


def test_answers_are_cached_so_a_unit_done_again_is_told_the_same(model: Model) -> None:
    model.answer = lambda request, number: completion(["anger", "fear", "disgust"][number % 3])
    cache = Kept()
    first = annotator(model).annotate(clips("a", "b", "c"), cache=cache)
    asked = len(model.asked)
    assert annotator(model).annotate(clips("c", "b", "a"), cache=cache) == first[::-1]
    assert len(model.asked) == asked
    annotator(model, kinds={"emotion": ["anger", "fear", "else"]}).annotate(clips("a"), cache=cache)
    assert len(model.asked) == asked + 1, "another list is another question"


def test_what_a_busy_endpoint_refuses_is_asked_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("operators.annotate.chat.time.sleep", naps.append)
    status = iter([429, 503, 500])
    model.answer = lambda request, number: (next(status, 200), completion("fear")[1])
    assert annotator(model, at_once=1).annotate(clips("a")) == [{"emotion": Opinion(("fear",))}]
    assert len(model.asked) == 4
    assert naps[0] == 0.01, "as long as the endpoint asks for"
    assert naps[1:] == sorted(naps[1:])


def test_no_more_questions_are_under_way_than_allowed(model: Model) -> None:
    def slow(request: dict[str, Any], number: int) -> tuple[int, bytes]:
        time.sleep(0.02)
        return completion("fear")

    model.answer = slow
    heard: list[tuple[int, float]] = []
    annotator(model, at_once=3).annotate(
        clips(*map(str, range(12))), progress=lambda done, seconds: heard.append((done, seconds))
    )
    assert model.most_under_way == 3
    assert heard == [(done, float(done)) for done in range(1, 13)]


def test_an_endpoint_that_dies_leaves_the_unit_undone_and_keeps_what_it_said(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operators.annotate.chat.time.sleep", lambda seconds: None)
    model.answer = lambda request, number: completion("anger") if number <= 2 else (502, b"")
    cache = Kept()
    with pytest.raises(MachineTrouble, match=r"answers 502, 4 times: start it again"):
        annotator(model, at_once=1).annotate(clips("a", "b", "c", "d"), cache=cache)
    assert len(cache) == 2
    model.answer = lambda request, number: completion("fear")
    found = annotator(model, at_once=1).annotate(clips("a", "b", "c", "d"), cache=cache)
    assert [answer["emotion"].labels[0] for answer in found] == ["anger", "anger", "fear", "fear"]


def test_an_answer_that_drips_or_never_comes_is_trouble(model: Model) -> None:
    model.answer = lambda request, number: (time.sleep(0.5), (200, b""))[1]
    with pytest.raises(MachineTrouble, match=r"no answer within 0\.1 s"):
        annotator(model, timeout_seconds=0.1, attempts=1).annotate(clips("a"))


def test_a_dead_endpoint_or_a_refused_key_is_a_line_before_the_run(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"Connection refused: start it, or correct the setting"):
        ChatAnnotator("mind", endpoint=dead)
    assert ChatAnnotator("mind", endpoint=model.url).name == "chat/mind"
    for status, line in ((401, "refuses the key"), (404, "answers 404 when asked for the model mind"), (500, "500")):
        model.answer = lambda request, number, status=status: (status, b"")  # type: ignore[misc]
        with pytest.raises(UserError, match=line):
            ChatAnnotator("mind", endpoint=model.url)
    for settings, line in (
        ({"endpoint": "localhost:8000"}, "give the API's base"),
        ({"endpoint": model.url, "kinds": ["events"]}, "none that words tell"),
        ({"endpoint": model.url, "kinds": ["age"]}, "closed list of two labels"),
        ({"endpoint": model.url, "prompt": "What is it?"}, "it needs {text}"),
        ({"endpoint": model.url, "api_key_variable": "NO_SUCH_KEY"}, "is not set"),
    ):
        with pytest.raises(UserError, match=line):
            ChatAnnotator("mind", **settings)  # type: ignore[arg-type]
    model.answer = lambda request, number: completion("fear")
    monkeypatch.setenv("MIND_KEY", "s3cret")
    cache = Kept()
    annotator(model, api_key_variable="MIND_KEY").annotate(clips("a"), cache=cache)
    assert model.headers[-1]["Authorization"] == "Bearer s3cret"
    assert not any(b"s3cret" in kept for kept in cache.values())


def test_two_endpoints_make_a_label_where_both_say_it(model: Model) -> None:
    other = Model()
    try:
        model.answer = lambda request, number: completion("anger")
        other.answer = lambda request, number: completion("fear" if "Words: b" in str(request) else "anger")
        heard = clips("x", "b")
        said = [
            opinions(ChatAnnotator(name, endpoint=one.url, kinds=["emotion"], probe=False), heard, ["emotion"])
            for name, one in (("first", model), ("second", other))
        ]
        agreed = [agree([*one, *two], {}, 2).emotion for one, two in zip(*said, strict=True)]
        assert agreed[0] == "anger"
        assert agreed[1] is None
    finally:
        other.stop()
