"""A headless Chromium for tests, driven over the DevTools protocol through a pipe: no port, no package.

Browser() ──open(page)──> evaluate(js), screenshot(path), and what happened: dialogs, errors, requests
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", 
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
    "--hide-scrollbars", "--remote-debugging-pipe", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
_SECONDS = 30


class Browser:
    """One Chromium with one tab. Use as a context manager; skips the test when no Chromium is installed."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("no Chromium here: apt-get install chromium, to see the page as a browser does")
        self._profile = tempfile.mkdtemp(prefix="report-browser-")
        to_read, self._write = _pipe()
        self._read, to_write = _pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        quiet = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, *pair) for pair in ((to_read, 3), (to_write, 4), (quiet, 1), (quiet, 2))]
        arguments = [program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._pid = os.posix_spawn(program, arguments, dict(os.environ), file_actions=actions, setsid=True)
        for fd in (to_read, to_write, quiet):
            os.close(fd)
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *problem: object) -> None:
        os.close(self._write)
        os.close(self._read)
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer. Raises AssertionError when Chromium refuses it."""
        number = self._post(method, params)
        found = self._until(lambda event: event.get("id") == number)
        assert "error" not in found, f"{method}: {found['error']}"
        return found.get("result", {})

    def _post(self, method: str, params: dict[str, Any]) -> int:
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._count

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file and wait until it is loaded; `events` begins again."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._until(lambda event: event.get("method") == "Page.loadEventFired")
        self.evaluate("new Promise(done => setTimeout(done, 100))")

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """The page as PNG, from the top to `height` CSS pixels or its end."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def dialogs(self) -> list[str]:
        return [
            event["params"]["message"] for event in self.events if event.get("method") == "Page.javascriptDialogOpening"
        ]

    @property
    def errors(self) -> list[str]:
        """Exceptions, console errors and refused content (the page's policy reports there)."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"])[:500])
            elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(json.dumps(params["args"])[:500])
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses asked for, apart from what the page holds itself."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS
        while True:
            while b"\0" in self._buffer:
                raw, self._buffer = self._buffer.split(b"\0", 1)
                event = json.loads(raw)
                if event.get("method") == "Page.javascriptDialogOpening":
                    self.events.append(event)
                    self._post("Page.handleJavaScriptDialog", {"accept": True})  # an open dialog would stop the page
                    continue
                if wanted(event):
                    return event
                self.events.append(event)
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._read], [], [], left)[0]
            assert ready, f"Chromium did not answer in {_SECONDS} s"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium closed its pipe"
            self._buffer += chunk


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors stay clear of 3 and 4, which the child wants for itself."""
    low = os.pipe()
    reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low)
    for fd in low:
        os.close(fd)
    return reading, writing
