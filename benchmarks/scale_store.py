"""A store that says it holds a run of millions of units: S3's listing, reading and writing over HTTP, and a count.

    a run directory + names from numbers ──HTTP──> ListObjectsV2 pages of 1000, plan.parquet, config.yaml

moto sorts all keys for every page, which for four million takes seconds; here a page is a slice of a sorted list. The
server is a process of its own and ends when its standard input closes.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET, PREFIX = "runs", "million"
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Served:
    """A store that is being served."""

    endpoint: str

    def requests(self) -> dict[str, int]:
        """Return the number of requests so far, by kind."""
        with urllib.request.urlopen(f"{self.endpoint}/-/requests") as answer:
            counted: dict[str, int] = json.load(answer)
        return counted


@contextmanager
def serve(folder: Path, units: int, latency: float) -> Iterator[Served]:
    """Serve the run that `benchmarks.scale.generate` wrote into a folder, as s3://runs/million."""
    os.environ.update({"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"})
    command = [sys.executable, "-m", "benchmarks.scale_store", str(folder), str(units), str(latency)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        if not port.isdigit():
            raise RuntimeError("the store did not start")
        try:
            yield Served(f"http://127.0.0.1:{port}")
        finally:
            process.stdin.close()
            process.wait(timeout=30)


def keys_of(units: int) -> list[str]:
    """Return the keys of a run whose units are done but for a few, sorted."""
    from benchmarks.scale import left_undone, unit_names
    from stages.write_shard import shard_keys

    left = left_undone(units)
    keys = [f"{PREFIX}/config.yaml", f"{PREFIX}/plan.parquet"]
    for domain, number in unit_names(units):
        name = f"{domain}-{number:06d}"
        if name not in left:
            tar, _, ledger = shard_keys(name)
            keys += [f"{PREFIX}/{tar}", f"{PREFIX}/{ledger}"]
    keys.sort()
    return keys


def handler(folder: Path, keys: list[str], latency: float) -> type[http.server.BaseHTTPRequestHandler]:
    """Return what answers requests for a run of these keys, whose two real files lie in a folder."""
    counted: Counter[str] = Counter()
    counting = threading.Lock()

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _start(self, kind: str) -> None:
            with counting:
                counted[kind] += 1
            time.sleep(latency)

        def _send(self, body: bytes, status: int = 200, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._start("PUT")
            self._send(b"")

        def do_DELETE(self) -> None:
            self._start("DELETE")
            self._send(b"", 204, 0)

        def do_HEAD(self) -> None:
            self._start("HEAD")
            path = self._file()
            self._send(b"", 200 if path else 404, path.stat().st_size if path else 0)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = parse_qs(parts.query, keep_blank_values=True)
            if parts.path == "/-/requests":
                self._send(json.dumps(counted).encode())
            elif "uploads" in asked:
                self._start("list uploads")
                self._send(b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
            elif "list-type" in asked:
                self._start("list")
                self._send(page(keys, asked.get("prefix", [""])[0], asked.get("continuation-token", [""])[0]))
            else:
                self._start("GET")
                path = self._file()
                self._send(
                    path.read_bytes() if path else b"<Error><Code>NoSuchKey</Code></Error>", 200 if path else 404
                )

        def _file(self) -> Path | None:
            key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/{PREFIX}/")
            path = folder / key
            return path if key in ("config.yaml", "plan.parquet") and path.exists() else None

    return Answer


def page(keys: list[str], prefix: str, after: str) -> bytes:
    """Return a page of a listing as S3 writes it: the keys of a prefix from `after` on."""
    start = bisect_left(keys, max(prefix, after))
    end = min(start + PAGE, bisect_left(keys, prefix + "\U0010ffff"))
    entries = "".join(
        f"<Contents><Key>{quote(escape(key))}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>4096</Size>"
        f"<StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys[start:end]
    )
    more = end < len(keys) and keys[end].startswith(prefix)
    token = f"<NextContinuationToken>{escape(keys[end])}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{max(0, end - start)}</KeyCount>"
        f"<MaxKeys>{PAGE}</MaxKeys><EncodingType>url</EncodingType>"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
    ).encode()


def start(folder: Path, keys: list[str], latency: float) -> http.server.HTTPServer:
    """Return a server that answers from a thread of this process until it is shut down."""
    server = _Server(("127.0.0.1", 0), handler(folder, keys, latency))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def _main() -> None:
    folder, units, latency = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    server = start(folder, keys_of(units), latency)
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main()
