"""Storage on local disk and on an S3 server over HTTP: atomic, ordered, and clear about what is wrong."""

from __future__ import annotations

import fcntl
import http.client
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from operators.errors import UserError
from operators.storage.atomic import TEMPORARY, replace
from operators.storage.base import AccessRefused, S3Settings, Store
from operators.storage.fetch import Fetch, open_store
from tests.conftest import REPOSITORY

ODD_KEYS = ["a b/ü 访谈 🔥.txt", "100%25 real%20/#1?x=y&z+.txt", "tab\tand 'quotes\"", "plain/deep/er/x.parquet"]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "run"))
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return open_store(f"s3://{bucket}/some/run", S3Settings(endpoint_url=server))


def test_what_was_put_is_read_back_whole_and_in_part(store: Store) -> None:
    store = pickle.loads(pickle.dumps(store))
    content = bytes(range(256)) * 10
    for key in ODD_KEYS:
        assert not store.exists(key)
        store.put(key, b"before")
        store.put(key, content)
        assert store.exists(key)
        assert store.read(key) == content
        assert store.size(key) == len(content)
        assert store.read_range(key, 100, 50) == content[100:150]
        assert store.read_range(key, len(content) - 10, 50) == content[-10:]
        assert store.read_range(key, len(content), 50) == b""
    assert dict(store.list()) == {key: len(content) for key in ODD_KEYS}
    store.delete(ODD_KEYS[0])
    store.delete(ODD_KEYS[0])
    assert not store.exists(ODD_KEYS[0])
    for verb in (store.read, store.size):
        with pytest.raises(FileNotFoundError):
            verb(ODD_KEYS[0])


def test_a_file_is_put_as_its_bytes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 100_000)
    store.put("copy", tmp_path / "source")
    store.put("empty", b"")
    assert store.read("copy") == b"x" * 100_000
    assert store.read("empty") == b""


def test_a_version_changes_with_the_object(store: Store) -> None:
    store.put("x", b"1")
    first = store.version("x")
    assert store.version("x") == first
    store.put("x", b"2")
    assert store.version("x") != first
    with pytest.raises(FileNotFoundError):
        store.version("none")


def test_what_a_function_writes_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x"
    replace(path, lambda file: file.write(b"before"))

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace(path, fail)
    assert path.read_bytes() == b"before"
    assert os.listdir(path.parent) == ["x"]


def test_listing_is_in_order_of_whole_keys_and_by_string_prefix(store: Store) -> None:
    keys = ["a/b", "a-b", "a.b", "a/c/d", "ab/c", "访/谈", "é", "Z"]
    for key in keys:
        store.put(key, b"1")
    assert [key for key, _ in store.list()] == sorted(keys, key=str.encode)
    assert [key for key, _ in store.list("a/")] == sorted(key for key in keys if key.startswith("a/"))
    assert [key for key, _ in store.list("a")] == sorted(key for key in keys if key.startswith("a"))
    assert list(store.list("nowhere/")) == []


def test_keys_that_leave_the_root_are_a_bug(store: Store) -> None:
    for key in ("", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "nul\0"):
        with pytest.raises(ValueError, match="not a storage key"):
            store.put(key, b"")


def test_listing_goes_past_one_page_of_s3(s3_server: str, bucket: str) -> None:
    store = open_store(f"s3://{bucket}", S3Settings(endpoint_url=s3_server))
    keys = [f"k{number:04d}" for number in range(1003)]  # a page is 1,000
    connection = http.client.HTTPConnection(urlsplit(s3_server).netloc)
    for key in keys:  # without boto, for speed
        connection.request("PUT", f"/{bucket}/{key}", b"1", {"Authorization": "AWS testing:none"})
        connection.getresponse().read()
    connection.close()
    assert list(store.list("k")) == [(key, 1) for key in keys]


@pytest.mark.parametrize("root", ["", "gs://bucket/x", "http://host/x", "file:///x", "nul\0", "s3://", "s3:///key"])
def test_a_root_that_is_no_store_is_refused_in_one_line(root: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(root)
    assert "\n" not in str(caught.value)


# Local disk


def test_killed_at_any_moment_a_writer_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    size, dice = 3_000_000, random.Random(0)
    store = open_store(str(tmp_path))
    store.put("run/object", b"0" * size)
    writer = (
        "import sys; from operators.storage.fetch import open_store\n"
        "store = open_store(sys.argv[1]); print(flush=True)\n"
        f"while True:\n for byte in b'12': store.put('run/object', bytes([byte]) * {size})"
    )
    seen = set()
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", writer, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        content = store.read("run/object")
        assert len(content) == size
        assert content in (b"0" * size, b"1" * size, b"2" * size)
        seen.add(content[:1])
        assert [key for key, _ in store.list()] == ["run/object"]
    assert seen & {b"1", b"2"}, "no writer got as far as writing: the test saw nothing"
    left = [name for name in os.listdir(tmp_path / "run") if name.startswith(TEMPORARY)]
    assert left, "no writer was killed while writing: the test saw nothing"
    assert store.sweep() == len(left)
    assert os.listdir(tmp_path / "run") == ["object"]


def test_a_sweep_leaves_a_write_in_progress_alone(tmp_path: Path) -> None:
    with (tmp_path / f"{TEMPORARY}1").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        (tmp_path / f"{TEMPORARY}2").write_bytes(b"left by the dead")
        assert open_store(str(tmp_path)).sweep() == 1
    assert os.listdir(tmp_path) == [f"{TEMPORARY}1"]


def test_writers_and_sweepers_at_once_never_show_a_part(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    contents = [bytes([byte]) * 200_000 for byte in b"abc"]
    store.put("x", contents[0])
    until = time.monotonic() + 1.0
    failures: list[BaseException] = []

    def repeat(step: object) -> None:
        try:
            while time.monotonic() < until:
                step()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    def check() -> None:
        assert store.read("x") in contents

    steps = [lambda content=content: store.put("x", content) for content in contents]
    threads = [threading.Thread(target=repeat, args=(step,)) for step in [*steps, check, store.sweep]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_file_too_large_for_the_system_fails_in_one_line_and_leaves_the_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("x", b"old")
    script = (
        "import sys; from operators.storage.fetch import open_store; open_store(sys.argv[1]).put('x', bytes(1_000_000))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert "UserError: cannot write" in done.stderr
    assert "ulimit -f" in done.stderr
    assert store.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_fails_in_one_line_and_leaves_the_old(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        store = open_store(str(tmp_path))
        store.put("x", b"old")
        with pytest.raises(UserError, match=r"^cannot write .*: the disk is full; free some space"):
            store.put("x", bytes(1_000_000))
        assert store.read("x") == b"old"
        assert os.listdir(tmp_path) == ["x"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_missing_permission_is_one_line(unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        store.put("locked/x", b"1")
        os.chmod(f"{folder}/locked/x", 0)
        os.chmod(f"{folder}/locked", 0o500)
        for verb in (
            lambda: store.put("locked/y", b""),
            lambda: store.read("locked/x"),
            lambda: store.delete("locked/x"),
        ):
            with pytest.raises(AccessRefused, match=r"^no permission to (write|read|delete) .*: fix its mode or owner"):
                verb()
        os.chmod(f"{folder}/locked", 0o700)


def test_a_root_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="a part of the path is a file"):
        open_store(str(tmp_path / "file" / "run")).put("x", b"")


def test_a_root_where_no_folder_can_be_made_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^cannot make the folder /proc/x: /proc takes no new names; choose another$"):
        open_store("/proc/x").put("config.yaml", b"")


def test_a_local_source_is_handed_out_as_it_is(tmp_path: Path) -> None:
    name = tmp_path / "100%25 #1.mp3"
    with Fetch().fetch(str(name)) as path:
        assert path == str(name)
    with Fetch().fetch(f"{tmp_path}/x.tar#a/b.mp3", (512, 10)) as path:
        assert path == f"{tmp_path}/x.tar"
