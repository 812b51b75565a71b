"""A whole run with sources and output on S3, through a network that fails: the bytes are those of a run on local
disk.
"""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from operators.storage.fetch import open_store
from pipeline import config
from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.kills import digest
from tests.support.s3_server import FaultyProxy, Rule

SECRET = "s3cr3t-that-must-not-leak"


def upload(folder: Path, endpoint: str, bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"crawl/{path.relative_to(folder)}")


def test_a_run_on_a_failing_s3_equals_a_local_one(
    tmp_path: Path, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 24, seed=6)
    (tmp_path / "crawl" / "live").mkdir(exist_ok=True)
    (tmp_path / "crawl" / "live" / "broken.mp3").write_bytes(b"no audio")
    upload(tmp_path / "crawl", s3_server, bucket)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    empty = tmp_path / "empty.yaml"
    empty.write_text("{execution: {runner: local}}\n")
    faults = [  # together more than 5 % of all requests
        Rule(action="error", every=31, times=10**6),
        Rule(action="reset", every=37, times=10**6),
        Rule(action="cut", method="GET", every=11, times=10**6),
        Rule(action="lose_response", method="PUT", every=5, times=10**6),
    ]
    with FaultyProxy(s3_server, faults) as proxy:
        reach = [f"s3.endpoint_url={proxy.url}", "s3.region=us-east-1", "s3.addressing_style=path"]
        settings = fast_engines.settings(f"s3://{bucket}/run", f"s3://{bucket}/crawl", *reach)
        assert main(["run", str(empty), *settings]) == 0
        assert main(["report", f"s3://{bucket}/run", *reach]) == 0
        met = [request.fault for request in proxy.requests if request.fault]
        assert len(met) >= 0.05 * len(proxy.requests), "the network was too good for this test"
    told = capsys.readouterr()
    assert main(["run", str(empty), *fast_engines.settings(str(tmp_path / "run"), str(tmp_path / "crawl"))]) == 0

    remote = open_store(f"s3://{bucket}/run", config.S3Settings(endpoint_url=s3_server, region="us-east-1"))
    content = {key: remote.read(key) for key, _ in remote.list("")}
    local = {key for key in digest(tmp_path / "run") if key.endswith((".tar", ".parquet"))}
    assert {key for key in content if key.startswith("shards/")} == local
    for key in local:
        if key.endswith(".tar"):
            assert untold(content[key]) == untold((tmp_path / "run" / key).read_bytes()), key
    for key, data in content.items():
        assert SECRET.encode() not in data, key
    assert SECRET not in told.out + told.err


def untold(tar: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of a tar but for the one thing that must differ: the uri in each clip's record."""
    import io
    import json
    import tarfile

    members = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            file = opened.extractfile(member)
            assert file is not None
            data = file.read()
            if member.name.endswith(".json"):
                record = json.loads(data)
                record.pop("uri")
                data = json.dumps(record).encode()
            members.append((member.name, data))
    return members


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("output=s3://no-such-bucket-here/run", ["no-such-bucket-here"]),
        ("sources=s3://no-such-bucket-here/crawl", ["no-such-bucket-here"]),
        ("s3.endpoint_url=http://127.0.0.1:1", ["127.0.0.1:1"]),
    ],
)
def test_unreachable_stores_are_one_line(
    setting: str, words: list[str], tmp_path: Path, s3_server: str, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 2)
    empty = tmp_path / "empty.yaml"
    empty.write_text("{execution: {runner: local}}\n")
    reach = [f"s3.endpoint_url={s3_server}", "s3.region=us-east-1", "s3.max_attempts=2"]
    settings = fast_engines.settings(f"s3://{bucket}/run", str(tmp_path / "crawl"), *reach, setting)
    assert main(["run", str(empty), *settings]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_missing_credentials_are_one_line(
    tmp_path: Path, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 2)
    empty = tmp_path / "empty.yaml"
    empty.write_text("{execution: {runner: local}}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    # Connections are kept per process and settings: other settings, so that none with credentials is used again.
    reach = [f"s3.endpoint_url={s3_server}", "s3.region=us-east-1", "s3.connect_timeout=9"]
    settings = fast_engines.settings(f"s3://{bucket}/run", str(tmp_path / "crawl"), *reach)
    assert main(["run", str(empty), *settings]) == 2
    error = capsys.readouterr().err
    assert "credentials" in error
    assert error.count("\n") == 1
