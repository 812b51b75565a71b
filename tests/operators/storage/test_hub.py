"""A hub that does not answer is given up in seconds, and one that says no is left to its own client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from operators.storage.hub import silent, surely_missing
from pipeline.__main__ import main


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def deaf() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_any_answer_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert silent("hf") is None
    server.shutdown()
    server.server_close()
    assert silent("hf") == f"no answer from http://127.0.0.1:{server.server_port}"


def test_silence_is_waited_for_no_longer_than_was_said(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", deaf)
    started = time.monotonic()
    assert silent("ms", 0.2) is not None
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("hub", "name"), [("hf", "HF_HUB_CACHE"), ("ms", "MODELSCOPE_CACHE")])
def test_what_the_cache_may_hold_is_left_to_the_engine(
    hub: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, str(tmp_path))
    short, long = {"hf": ("large-v3", "a/whisper-b"), "ms": ("paraformer-zh", "iic/SenseVoiceSmall")}[hub]
    part = {"hf": "whisper", "ms": ""}[hub]
    assert surely_missing(hub, short, part)
    assert surely_missing(hub, long, part)
    folder = {"hf": "models--a--whisper-b", "ms": "hub/models/iic/SenseVoiceSmall"}[hub]
    (tmp_path / folder).mkdir(parents=True)
    assert not surely_missing(hub, short, part), "the name may stand for it"
    assert surely_missing(hub, short, "paraformer"), "nor for what it cannot be"
    assert not surely_missing(hub, long)
    assert surely_missing(hub, "somebody/other")


def test_a_missing_model_is_one_line_before_any_engine_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And `check` leaves nothing behind."""
    for port, name in enumerate(("HF_ENDPOINT", "MODELSCOPE_DOMAIN"), start=1):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("HF_HUB_CACHE", "MODELSCOPE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    (tmp_path / "crawl" / "talk").mkdir(parents=True)
    (tmp_path / "crawl" / "talk" / "a.wav").write_bytes(b"not yet")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    settings = ["output=runs/deep/first", "sources=crawl"]
    config = tmp_path.parent / f"{tmp_path.name}.yaml"
    config.write_text("asr: {model: large-v3}\n")
    own = "asr.engine=tests.support.fast_engines:HashRecogniser"
    hf, ms = "http://127.0.0.1:1", "http://127.0.0.1:2"
    for more, words, place in (
        ([], "asr.model: large-v3", hf),
        ([own], "copilot.models.zh: paraformer-zh", ms),
        ([own, "copilot.options={hub: hf}"], "copilot.models.zh: paraformer-zh", hf),
        ([own, "copilot.models={en: {model: some/model, options: {hub: hf}}}"], "copilot.models.en: some/model", hf),
    ):
        assert main(["check", str(config), *settings, *more]) == 2
        error = capsys.readouterr().err
        words += " is not in the local cache and the hub gives no copy"
        assert error.startswith(f"touchasp: {words} (no answer from {place})")
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
