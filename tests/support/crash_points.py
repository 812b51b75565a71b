"""Crash a run at each of its write boundaries in turn, go on, and compare.

    python -m tests.support.crash_points CRAWL DIR [ENDPOINT BUCKET]

Boundaries on local disk: before and after every fsync and every rename. On S3: before and after every request that
writes. Each crash is a SIGKILL of a forked child by its own hand. Prints how many boundaries there were; exit 1 names
the first difference.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import botocore.client

from operators.clip import Unit
from operators.storage.fetch import Fetch, open_store
from pipeline import config, ledger, recipe
from pipeline.config import Settings
from pipeline.executor.local import LocalExecutor
from pipeline.executor.worker import Outcome
from pipeline.sources.files import read_sources
from pipeline.sources.probe import Length
from pipeline.sources.units import make_plan
from tests.support import fast_engines

WRITES = {"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject"}


class Countdown:
    """Dies at the n-th boundary; with n = 0 it only counts."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def boundary(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.boundary()
            answer = function(*arguments, **named)
            self.boundary()
            return answer

        return counted

    def install(self, s3: bool) -> None:
        if not s3:
            os.fsync, os.replace = self.around(os.fsync), self.around(os.replace)
            return
        call = botocore.client.BaseClient._make_api_call
        counted = self.around(call)
        botocore.client.BaseClient._make_api_call = (  # type: ignore[method-assign]
            lambda client, name, arguments: (counted if name in WRITES else call)(client, name, arguments)
        )


def work(settings: Settings, units: list[Unit], countdown: Countdown, s3: bool) -> None:
    store = open_store(settings.output, settings.s3)
    countdown.install(s3)
    done = ledger.done_units(store)
    todo = [unit for unit in units if unit.unit_id not in done]
    for event in LocalExecutor(recipe.build(settings, store, Fetch(settings.s3))).run(todo):
        assert not isinstance(event, Outcome) or event.error is None, event


def in_child(settings: Settings, units: list[Unit], at: int, s3: bool) -> tuple[int, int]:
    """(exit status, boundaries seen) of the work done in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(Exception):
            countdown = Countdown(at)
            work(settings, units, countdown, s3)
            os.write(writer, str(countdown.seen).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    seen = os.read(reader, 100).decode()
    os.close(reader)
    return os.waitpid(pid, 0)[1], int(seen or 0)


def content(settings: Settings) -> dict[str, bytes]:
    store = open_store(settings.output, settings.s3)
    return {key: store.read(key) for key, _ in store.list("")}


def main(crawl: str, folder: str, endpoint: str | None = None, bucket: str | None = None) -> int:
    s3 = endpoint is not None
    reach = [f"s3.endpoint_url={endpoint}", "s3.region=us-east-1"] if s3 else []
    if s3:
        from tests.support.s3_server import make_bucket

        make_bucket(endpoint, bucket)

    def settings(name: str) -> Settings:
        root = f"s3://{bucket}/{name}" if s3 else f"{folder}/{name}"
        whole = "plan.unit_minutes=60"  # one unit, with something kept and something unreadable
        return config.load(None, fast_engines.settings(root, crawl, whole, *reach))

    import webdataset  # noqa: F401  # the writer of tars draws in torch: once here, not in every child

    sources = settings("peace")
    files = list(read_sources(sources.sources, sources.s3))
    units = make_plan(files, [Length(declared=60 * 16_000)] * len(files), sources.plan)[:1]
    status, boundaries = in_child(settings("peace"), units, 0, s3)
    assert status == 0, "the uninterrupted run failed"
    expected = content(settings("peace"))
    for at in range(1, boundaries + 1):
        crashed = settings(f"crash-{at}")
        status, _ = in_child(crashed, units, at, s3)
        assert os.WIFSIGNALED(status), f"no crash at boundary {at}"
        status, _ = in_child(crashed, units, 0, s3)
        if status != 0 or content(crashed) != expected:
            print(f"boundary {at}: not the same as an uninterrupted run (status {status})")
            return 1
    print(f"{boundaries} boundaries, every one crashed and resumed to the same bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
