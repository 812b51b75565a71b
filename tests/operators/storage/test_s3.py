"""S3 when the network and the store misbehave: every fault comes from a proxy in front of a real HTTP server."""

from __future__ import annotations

import http.server
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from operators.errors import UserError
from operators.storage.base import AccessRefused, S3Settings, Store, StoreUnavailable
from operators.storage.fetch import Fetch, local_copy, open_store
from operators.storage.scratch import shared_copy
from operators.storage.uri import path_to_uri
from tests.conftest import REPOSITORY
from tests.support.s3_server import FaultyProxy, Rule

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off as it is, twenty times as fast."""
    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(seconds / 20)})
    monkeypatch.setattr("botocore.endpoint.time", hurried)
    monkeypatch.setattr("operators.storage.s3.time", hurried)


def store_at(endpoint: str, bucket: str, **settings: object) -> Store:
    return open_store(f"s3://{bucket}/run", S3Settings(endpoint_url=endpoint, multipart_threshold_mb=8, **settings))  # type: ignore[arg-type]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def uploads(endpoint: str, bucket: str) -> list[object]:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def test_a_body_cut_off_again_and_again_goes_on_where_it_stopped(s3_server: str, bucket: str) -> None:
    content = noise(5 * MEGABYTE)
    store_at(s3_server, bucket).put("x", content)
    with FaultyProxy(s3_server, [Rule(action="cut", method="GET", times=8, after_bytes=600_000)]) as proxy:
        # Eight faults and three tries: a fault after progress does not use up a try.
        assert store_at(proxy.url, bucket, max_attempts=3).read("x") == content
        assert sum(request.fault == "cut" for request in proxy.requests) == 8
        assert sum(request.sent_bytes for request in proxy.requests) < len(content) + 8 * 70_000


def test_a_body_that_never_comes_ends_with_a_line(s3_server: str, bucket: str) -> None:
    store_at(s3_server, bucket).put("x", noise(MEGABYTE))
    with FaultyProxy(s3_server, [Rule(action="cut", method="GET", times=99, after_bytes=0)]) as proxy:
        with pytest.raises(StoreUnavailable, match="after 3 tries"):
            store_at(proxy.url, bucket, max_attempts=3).read("x")
        assert len(proxy.requests) == 3


def test_an_object_replaced_while_it_is_read_is_never_mixed(s3_server: str, bucket: str) -> None:
    before, after = b"a" * MEGABYTE, b"b" * MEGABYTE
    direct = store_at(s3_server, bucket)
    direct.put("x", before)
    rules = [
        Rule(action="cut", method="GET", after_bytes=MEGABYTE // 2),
        Rule(action="delay", method="GET", skip=1, seconds=0.7),
    ]
    with FaultyProxy(s3_server, rules) as proxy:
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(store_at(proxy.url, bucket).read("x")))
        reader.start()
        while not proxy.requests:
            time.sleep(0.005)
        direct.put("x", after)  # the second request waits for this
        reader.join()
    assert got == [after]


@pytest.mark.parametrize(
    "rule",
    [
        Rule(action="error", status=503, code="SlowDown"),
        Rule(action="error", status=500, code="InternalError"),
        Rule(action="reset"),
        Rule(action="lose_response"),
        Rule(action="delay", seconds=1.0),
    ],
    ids=lambda rule: rule.action + str(rule.status if rule.action == "error" else ""),
)
def test_a_passing_fault_is_not_seen(s3_server: str, bucket: str, rule: Rule) -> None:
    content = noise(200_000)
    settings = {"read_timeout": 0.5} if rule.action == "delay" else {}
    with FaultyProxy(s3_server, [rule]) as proxy:
        store = store_at(proxy.url, bucket, **settings)
        listed = [("x", len(content))]
        for verb in (
            lambda: store.put("x", content),
            lambda: store.read("x") == content,
            lambda: list(store.list()) == listed,
        ):
            rule.seen = 0
            assert verb() in (None, True)
            assert rule.seen == 2, "met the fault, then asked again"


def test_a_large_object_goes_in_parts_and_appears_whole(s3_server: str, bucket: str, tmp_path: Path) -> None:
    content = noise(20 * MEGABYTE)
    (tmp_path / "shard.tar").write_bytes(content)
    faults = [
        Rule(action="reset", method="PUT", path_contains="partNumber=2"),
        Rule(action="lose_response", method="POST", path_contains="uploadId="),
    ]
    with FaultyProxy(s3_server, faults) as proxy:
        store_at(proxy.url, bucket).put("shard.tar", tmp_path / "shard.tar")
        assert {request.fault for request in proxy.requests} >= {"reset", "lose_response"}
    assert store_at(s3_server, bucket).read("shard.tar") == content
    assert uploads(s3_server, bucket) == []


def test_a_completion_whose_upload_is_gone_is_written_again(s3_server: str, bucket: str) -> None:
    # What a store says when the completion was done, the answer lost, and botocore asked again.
    gone = Rule(action="error", method="POST", path_contains="uploadId=", status=404, code="NoSuchUpload")
    with FaultyProxy(s3_server, [gone]) as proxy:
        store_at(proxy.url, bucket).put("x", noise(9 * MEGABYTE))
    assert store_at(s3_server, bucket).read("x") == noise(9 * MEGABYTE)
    assert uploads(s3_server, bucket) == []


def test_a_failed_upload_leaves_the_old_object_and_no_parts(s3_server: str, bucket: str) -> None:
    store_at(s3_server, bucket).put("x", b"old")
    broken = Rule(
        action="error", method="PUT", path_contains="partNumber=2", times=99, status=500, code="InternalError"
    )
    with (
        FaultyProxy(s3_server, [broken]) as proxy,
        pytest.raises(StoreUnavailable, match="keeps answering InternalError"),
    ):
        store_at(proxy.url, bucket, max_attempts=2).put("x", noise(40 * MEGABYTE))
    assert store_at(s3_server, bucket).read("x") == b"old"
    assert uploads(s3_server, bucket) == []


def test_a_killed_upload_is_no_object(s3_server: str, bucket: str) -> None:
    script = (
        "import sys; from operators.storage.fetch import open_store; from operators.storage.base import S3Settings\n"
        "open_store(sys.argv[1], S3Settings(endpoint_url=sys.argv[2], multipart_threshold_mb=8)).put('x', "
        "bytes(40 << 20))"
    )
    with FaultyProxy(
        s3_server, [Rule(action="delay", method="PUT", path_contains="partNumber=2", seconds=20)]
    ) as proxy:
        process = subprocess.Popen([sys.executable, "-c", script, f"s3://{bucket}/run", proxy.url], cwd=REPOSITORY)
        while not any("partNumber=1" in request.path for request in proxy.requests):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = store_at(s3_server, bucket)
    assert list(store.list()) == []
    assert not store.exists("x")
    assert len(uploads(s3_server, bucket)) == 1
    assert store.sweep() == 1  # this server dates every upload to 2010; younger than a day it would stay
    assert uploads(s3_server, bucket) == []


ERRORS = [
    ("AccessDenied", 403, AccessRefused, "access denied to s3://"),
    ("InvalidAccessKeyId", 403, UserError, "the access key is unknown"),
    ("SignatureDoesNotMatch", 403, UserError, "the secret key does not fit"),
    ("ExpiredToken", 400, UserError, "have expired: log in again"),
    ("RequestTimeTooSkewed", 403, UserError, "set the clock"),
    ("NoSuchBucket", 404, UserError, "create it, or fix the path"),
    ("QuotaExceeded", 403, UserError, "quota"),
    ("AuthorizationHeaderMalformed", 400, UserError, "set s3.region"),
    ("SlowDown", 503, StoreUnavailable, "try again later, or with fewer workers"),
]


@pytest.mark.parametrize(("code", "status", "kind", "line"), ERRORS, ids=[row[0] for row in ERRORS])
def test_what_a_store_refuses_is_one_line_with_the_fix(
    s3_server: str, bucket: str, code: str, status: int, kind: type[UserError], line: str
) -> None:
    with FaultyProxy(s3_server, [Rule(action="error", status=status, code=code, times=99)]) as proxy:
        store = store_at(proxy.url, bucket, max_attempts=1)
        for verb in (lambda: store.put("x", b"1"), lambda: store.read("x"), lambda: list(store.list())):
            with pytest.raises(kind) as caught:
                verb()
            message = str(caught.value)
            assert line in message
            assert "\n" not in message
            assert "testing" not in message  # the credentials


def test_a_head_without_a_body_is_still_told_apart(s3_server: str, bucket: str) -> None:
    store = store_at(s3_server, bucket)
    assert not store.exists("x")
    with (
        FaultyProxy(s3_server, [Rule(action="error", status=403, code="", times=99)]) as proxy,
        pytest.raises(AccessRefused),
    ):
        store_at(proxy.url, bucket).exists("x")


def test_a_revoked_key_is_not_taken_for_one_forbidden_object(s3_server: str, bucket: str) -> None:
    """A HEAD says 403 to both. Taken for the latter, every recording to come would go into quarantine."""
    revoked = [
        Rule(action="error", method="HEAD", status=403, code="", times=99),
        Rule(action="error", method="GET", status=403, code="InvalidAccessKeyId", times=99),
    ]
    with (
        FaultyProxy(s3_server, revoked) as proxy,
        pytest.raises(UserError, match="the access key is unknown") as caught,
    ):
        store_at(proxy.url, bucket, max_attempts=1).size("x")
    assert not isinstance(caught.value, AccessRefused)


def test_an_object_under_a_strangers_key_is_one_refused_object(s3_server: str, bucket: str) -> None:
    for code in ("InvalidRequest", "KMS.DisabledException"):
        sealed = [
            Rule(action="error", method="HEAD", status=400, code="", times=99),
            Rule(action="error", method="GET", status=400, code=code, times=99),
        ]
        with (
            FaultyProxy(s3_server, sealed) as proxy,
            pytest.raises(AccessRefused, match=f"with {code}: it is encrypted"),
        ):
            store_at(proxy.url, bucket, max_attempts=1).size("x")


def test_an_endpoint_that_is_not_there_is_one_line_without_its_password(s3_server: str, bucket: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreUnavailable, match=rf"^cannot reach http://127.0.0.1:{port} for s3://{bucket}") as caught:
        store_at(f"http://user:hunter2@127.0.0.1:{port}", bucket, max_attempts=2).read("x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["store:9000", "http://", "http://user:hunter2@sto re", "http://[::1"])
@pytest.mark.parametrize("by", ["setting", "environment"])
def test_an_endpoint_that_is_no_url_is_one_line(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, endpoint: str, by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    store = open_store("s3://bucket/run", S3Settings(endpoint_url=endpoint if by == "setting" else None))
    with pytest.raises(
        UserError, match=r"^the endpoint of S3 is no URL: fix s3\.endpoint_url or AWS_ENDPOINT_URL"
    ) as caught:
        store.read("x")
    assert "hunter2" not in str(caught.value)


def test_missing_credentials_and_profiles_are_one_line(
    s3_server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match=r"^no usable credentials for s3://.*: set AWS_ACCESS_KEY_ID"):
        store_at(s3_server, bucket, connect_timeout=7.0).read("x")
    with pytest.raises(UserError, match="no profile nobody"):
        store_at(s3_server, bucket, profile="nobody").read("x")


def test_a_fetched_copy_is_whole_and_gone_afterwards(s3_server: str, bucket: str, tmp_path: Path) -> None:
    content = noise(3 * MEGABYTE)
    store = store_at(s3_server, bucket)
    store.put("crawl/ü #1 100%25.tar", content)
    uri = store.url("crawl/ü #1 100%25.tar")
    with FaultyProxy(s3_server, [Rule(action="cut", method="GET", times=2, after_bytes=MEGABYTE)]) as proxy:
        fetch = Fetch(S3Settings(endpoint_url=proxy.url), str(tmp_path))
        with fetch.fetch(uri) as path:
            assert Path(path).read_bytes() == content
            assert Path(path).is_relative_to(tmp_path)
        assert not Path(path).exists()
        proxy.requests.clear()
        with fetch.fetch(f"{uri}#a/b.mp3", (MEGABYTE, 1000)) as path, open(path, "rb") as file:
            file.seek(MEGABYTE)
            assert file.read(1000) == content[MEGABYTE : MEGABYTE + 1000]
        assert sum(request.sent_bytes for request in proxy.requests) == 1000
        with pytest.raises(FileNotFoundError), fetch.fetch(store.url("crawl/gone.mp3")):
            pass


_COPY = (
    "import sys; from operators.storage.fetch import local_copy; from operators.storage.base import S3Settings\n"
    "print(local_copy(sys.argv[2], S3Settings(endpoint_url=sys.argv[1])), flush=True); sys.stdin.read()"
)


def copying(endpoint: str, uri: str, folder: Path) -> subprocess.Popen[str]:
    """A process that asks for a local copy, says where it is, and ends when its stdin does."""
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, "-c", _COPY, endpoint, uri]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def place(process: subprocess.Popen[str]) -> Path:
    assert process.stdout
    return Path(process.stdout.readline().strip())


def test_processes_share_one_copy_of_an_object_which_goes_with_the_last(
    s3_server: str, bucket: str, tmp_path: Path
) -> None:
    content = noise(3 * MEGABYTE)
    store = store_at(s3_server, bucket)
    store.put("index", content)
    uri = store.url("index")
    with FaultyProxy(s3_server, [Rule(action="delay", method="GET", seconds=1)]) as proxy:
        processes = [copying(proxy.url, uri, tmp_path) for _ in range(3)]
        try:
            first, *others = map(place, processes)
            assert {first} == set(others)
            assert first.read_bytes() == content
            assert len([request for request in proxy.requests if request.method == "GET"]) == 1
            processes[0].kill()  # one goes without a word, one as it should: the third still has its copy
            processes[0].communicate()
            processes[1].communicate("")
            assert first.exists()
            store.put("index", b"another version")
            newer = copying(proxy.url, uri, tmp_path)
            processes.append(newer)
            assert place(newer).read_bytes() == b"another version"
            assert first.read_bytes() == content
            newer.communicate("")
            processes[2].communicate("")
            assert not list(tmp_path.iterdir())
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def test_the_shared_copy_of_a_killed_process_is_removed_by_the_next(
    s3_server: str, bucket: str, tmp_path: Path
) -> None:
    store = store_at(s3_server, bucket)
    for key in ("old", "new"):
        store.put(key, key.encode())
    killed = copying(s3_server, store.url("old"), tmp_path)
    left = place(killed)
    killed.kill()
    killed.communicate()
    assert left.exists()
    living = copying(s3_server, store.url("new"), tmp_path)
    try:
        assert place(living).read_bytes() == b"new"
        assert not left.exists()
    finally:
        living.communicate("")


def test_a_folder_of_another_user_is_no_place_for_a_shared_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operators.storage.scratch.os.getuid", lambda: os.geteuid() + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        shared_copy("x", lambda file: file.write(b"1"), str(tmp_path))


def test_a_local_source_is_its_own_copy(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"1")
    assert local_copy(path_to_uri(str(path))) == path
    with pytest.raises(FileNotFoundError):
        local_copy(str(tmp_path / "none"))
    with pytest.raises(UserError, match="ftp:// is no storage we know"):
        local_copy("ftp://host/x")


def test_the_copies_of_a_killed_process_are_removed_by_the_next(s3_server: str, bucket: str, tmp_path: Path) -> None:
    store_at(s3_server, bucket).put("x", noise(MEGABYTE))
    script = (
        "import sys, time; from operators.storage.fetch import Fetch; from operators.storage.base import S3Settings\n"
        "with Fetch(S3Settings(endpoint_url=sys.argv[1]), sys.argv[2]).fetch(sys.argv[3]) as path:\n"
        "    print(path, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, s3_server, str(tmp_path), f"s3://{bucket}/run/x"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    left = Path(process.stdout.readline().strip())
    living = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert living.stdout
    used = Path(living.stdout.readline().strip())
    process.kill()
    process.communicate()
    try:
        assert left.exists()
        with Fetch(S3Settings(endpoint_url=s3_server), str(tmp_path)).fetch(f"s3://{bucket}/run/x"):
            assert not left.exists()
            assert used.exists()
    finally:
        living.kill()
        living.communicate()


KEYS = ["a&b", "a+b c", "100%/plus+", "zwölf/访谈-000001.parquet", "<angle>", 'quote"d', "x" * 300]


def test_keys_are_listed_as_they_were_put_whatever_is_in_them(s3_server: str, bucket: str) -> None:
    store = store_at(s3_server, bucket)
    for size, key in enumerate(KEYS):
        store.put(key, bytes(size))
    assert dict(store.list()) == {key: size for size, key in enumerate(KEYS)}


CONTENTS = "<Contents><Key>run/{}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>{}</Size></Contents>"
PAGE = "<?xml version='1.0'?><ListBucketResult{}><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
S3_XMLNS = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
ONE_AND_TWO = CONTENTS.format("one", 1) + CONTENTS.format("two", 2)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (PAGE.format(S3_XMLNS, ONE_AND_TWO), [("one", 1), ("two", 2)]),
        (PAGE.format("", ONE_AND_TWO.replace("<Contents>", "\n  <Contents>\n    ")), [("one", 1), ("two", 2)]),
        (PAGE.format("", ONE_AND_TWO.replace("one", "a&amp;b")), [("a&b", 1), ("two", 2)]),
        (PAGE.format("", ONE_AND_TWO.replace("run/one", "<![CDATA[run/a&b]]>")), [("a&b", 1), ("two", 2)]),
        (PAGE.format("", ONE_AND_TWO.replace("one", "访谈")), [("访谈", 1), ("two", 2)]),
        (PAGE.format("", "<Name>" + "</Name>"), []),
        (
            PAGE.format("", ONE_AND_TWO + "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>"),
            [("one", 1), ("two", 2)],
        ),
    ],
    ids=["S3", "pretty", "entity", "CDATA", "Han", "empty", "prefixes"],
)
def test_pages_of_stores_that_write_them_otherwise_are_read_too(page: str, expected: list[tuple[str, int]]) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page.encode())))
            self.end_headers()
            self.wfile.write(page.encode())

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = store_at(f"http://127.0.0.1:{server.server_port}", "bucket")
        try:
            assert list(store.list()) == expected
        finally:
            server.shutdown()
