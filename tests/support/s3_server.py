"""An S3 API server in a process of its own, and a proxy in front of it that misbehaves on purpose.

    test ──boto3 over HTTP──> FaultyProxy(rules) ──> moto, `python tests/support/s3_server.py`, on 127.0.0.1

The server ends when its standard input closes, so it cannot outlive the tests, however they die.
Fixtures `s3_server` and `bucket` come by `from tests.support.s3_server import bucket, s3_server` in a conftest.py.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}


@contextmanager
def start_server() -> Iterator[str]:
    """The endpoint URL of a fresh, empty S3 server."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, os.path.abspath(__file__)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdin
    assert process.stdout
    try:
        port = process.stdout.readline().strip()
        assert port.isdigit(), "the S3 server did not start: is moto[server] installed?"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of one S3 server for the whole session; credentials for it are in the environment."""
    pytest.importorskip("moto")
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    with start_server() as endpoint:
        yield endpoint
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def bucket(s3_server: str) -> str:
    """A fresh bucket on the session's server."""
    name = f"bucket-{next(_numbers)}"
    make_bucket(s3_server, name)
    return name


_numbers = iter(range(10**9))


def make_bucket(endpoint: str, name: str) -> None:
    import boto3

    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    ).create_bucket(Bucket=name)


@dataclass(kw_only=True)
class Rule:
    """One fault: which requests it meets, and what it does to them.

    action:
      "error"          answer `status` with an S3 error `code`, without asking the server
      "reset"          drop the connection (TCP RST) before asking the server
      "cut"            ask the server, send `after_bytes` of the body, then drop the connection
      "lose_response"  let the server do it, then drop the connection: the client cannot know that it was done
      "delay"          wait `seconds`, then go on as usual
    """

    action: str
    method: str | None = None
    path_contains: str = ""
    skip: int = 0
    """let this many matching requests through first"""
    times: int = 1
    """then meet this many of them"""
    every: int = 1
    """and of those only each n-th"""
    status: int = 503
    code: str = "SlowDown"
    after_bytes: int = 1000
    seconds: float = 0.0
    seen: int = field(default=0, init=False)

    def meets(self, method: str, path: str) -> bool:
        if self.method not in (None, method) or self.path_contains not in path:
            return False
        self.seen += 1
        return self.skip < self.seen <= self.skip + self.times and self.seen % self.every == 0

    def answer(self, method: str) -> bytes:
        """The body of an "error": none for HEAD, as HTTP has it."""
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>on purpose</Message></Error>"
        return b"" if method == "HEAD" else body.encode()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the proxy saw: enough to prove how often, and how much, was asked for."""

    method: str
    path: str
    range: str | None
    sent_bytes: int
    fault: str | None


class FaultyProxy:
    """An HTTP proxy on loopback in front of `upstream` which applies `rules`, the first that matches, and logs
    `requests`.

    with FaultyProxy(endpoint, [Rule(action="cut", method="GET", times=3)]) as proxy: ... proxy.url ...
    """

    def __init__(self, upstream: str, rules: list[Rule] | None = None) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.rules = rules or []
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def rule_for(self, method: str, path: str) -> Rule | None:
        with self.lock:
            met = [rule for rule in self.rules if rule.meets(method, path)]
            return met[0] if met else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultyProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Silence: clients that give up are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests read `requests` instead."""

    def _serve(self) -> None:
        proxy = self.server.proxy
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rule = proxy.rule_for(self.command, self.path)
        action = rule.action if rule else None
        if rule and action == "delay":
            time.sleep(rule.seconds)
        if rule and action == "error":
            status, headers, payload = rule.status, [("Content-Type", "application/xml")], rule.answer(self.command)
        elif action == "reset":
            status, headers, payload = 0, [], b""
        else:
            status, headers, payload = self._ask(body)
        part = payload[: rule.after_bytes] if rule and action == "cut" else payload
        silent = action in ("reset", "lose_response")
        with proxy.lock:  # before anything is sent, so that a client with its answer finds its request here
            sent = 0 if silent else len(part)
            seen = Request(
                method=self.command, path=self.path, range=self.headers.get("Range"), sent_bytes=sent, fault=action
            )
            proxy.requests.append(seen)
        if not silent:
            self._answer(status, headers, payload, part)
        if silent or action == "cut":
            self._reset()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], payload: bytes, part: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(payload)))
        self.send_header("Content-Length", length)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(part)
        self.wfile.flush()
        if part is not payload:
            time.sleep(0.02)  # let the part arrive: a reset makes the receiver drop what it has not read yet

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The handler's files hold the socket open: drop them first, so that closing sends the reset now.
        self.wfile = self.rfile = _Nothing()  # type: ignore[assignment]
        self.connection.close()


class _Nothing:
    closed = True

    def close(self) -> None: ...

    def flush(self) -> None: ...


def _serve_moto() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None: ...

    server = make_server(
        "127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True, request_handler=Quiet
    )
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve_moto()
