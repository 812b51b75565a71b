"""A hub that takes what `hf upload` sends: a stand-in for Hugging Face's server, up to the commit."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """A Hub listens on a free port of this machine until it is closed, and keeps what was pushed."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.created: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _body(self) -> bytes:
                hub.tokens.add(self.headers["Authorization"])
                return self.rfile.read(int(self.headers["Content-Length"] or 0))

            def _answer(self, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self._body()
                self._answer({"id": "you/it", "sha": "0" * 40, "private": False})

            def do_POST(self) -> None:
                body = self._body()
                if self.path == "/api/repos/create":
                    hub.created.append(json.loads(body))
                    self._answer({"url": f"{hub.url}/datasets/you/it"})
                elif "/preupload/" in self.path:
                    files = json.loads(body)["files"]
                    regular = {"uploadMode": "regular", "shouldIgnore": False}
                    self._answer({"files": [{"path": each["path"]} | regular for each in files]})
                elif "/commit/" in self.path:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    self._answer(
                        {"commitUrl": f"{hub.url}/datasets/you/it/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
                    )
                else:  # validate-yaml
                    self._answer({"errors": [], "warnings": []})

            def log_message(self, *_: object) -> None:
                pass

        return Handler
