"""Clips that come back in `redecide`, and examples of the report: what they cost to fetch from S3."""

from __future__ import annotations

from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
import yaml

from operators.text.spoken import RULES_VERSION
from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.curated_handoffs import curate, ledger_rows
from tests.support.s3_server import FaultyProxy


def test_a_recording_is_fetched_once_for_all_its_clips(tmp_path: Path, s3_server: str, bucket: str) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 40, seed=4, domains=["live"])
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    files = sorted((tmp_path / "crawl" / "live").iterdir())
    for path in files:
        client.upload_file(str(path), bucket, f"crawl/live/{path.name}")
    with FaultyProxy(s3_server) as proxy:
        reach = [f"s3.endpoint_url={proxy.url}", "s3.region=us-east-1", "s3.addressing_style=path"]
        run = curate(tmp_path, "run", f"s3://{bucket}/crawl", *reach, "plan.unit_minutes=30")
        del proxy.requests[:]
        again = str(tmp_path / "again")
        assert main(["redecide", run, "rover.max_wer=1000", "rover.max_per=1000", "--output", again]) == 0
        fetched = [request for request in proxy.requests if request.method == "GET"]
    before, now = ({row["clip_id"]: row for row in ledger_rows(each)} for each in (run, again))
    back = [row["uri"] for name, row in now.items() if name not in before]
    assert len(back) >= 2 * len(set(back)), "too few clips came back: this test tests nothing"
    size = {f"s3://{bucket}/crawl/live/{path.name}": path.stat().st_size for path in files}
    assert len(fetched) == len(set(back))
    assert sum(request.sent_bytes for request in fetched) == sum(size[uri] for uri in set(back))


def test_examples_of_one_recording_share_its_download(tmp_path: Path, s3_server: str, bucket: str) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 30, seed=4, domains=["live"])
    file = max((tmp_path / "crawl" / "live").iterdir(), key=lambda path: path.stat().st_size)
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.upload_file(str(file), bucket, "crawl/live/one.flac")
    with FaultyProxy(s3_server) as proxy:
        reach = [f"s3.endpoint_url={proxy.url}", "s3.region=us-east-1", "s3.addressing_style=path"]
        run = curate(tmp_path, "run", f"s3://{bucket}/crawl", *reach)
        del proxy.requests[:]
        assert main(["report", run]) == 0
        fetched = [request for request in proxy.requests if request.method == "GET"]
    assert (Path(run) / "report.html").read_bytes().count(b"data:audio") >= 2
    assert [request.sent_bytes for request in fetched] == [file.stat().st_size]


def test_a_source_that_is_gone_or_changed_costs_its_unit_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 6, seed=4, domains=["live"])
    run = curate(tmp_path, "run", str(tmp_path / "crawl"), "plan.unit_minutes=30")
    for path in (tmp_path / "crawl" / "live").iterdir():
        path.rename(path.with_suffix(".gone"))
    capsys.readouterr()
    again = ["redecide", run, "rover.max_wer=1000", "rover.max_per=1000", "--output", str(tmp_path / "again")]
    assert main(again) != 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "can no longer be read" in said
    assert "Traceback" not in said
    for path in (tmp_path / "crawl" / "live").iterdir():
        path.rename(path.with_suffix(".flac"))
    assert main(again) == 0
    before, now = ({row["clip_id"] for row in ledger_rows(each)} for each in (run, str(tmp_path / "again")))
    assert before < now, "clips that only the source had"


def test_a_run_begun_under_other_text_rules_is_told_so_and_can_be_judged_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 6, seed=4, domains=["live"])
    run = curate(tmp_path, "run", str(tmp_path / "crawl"), "plan.unit_minutes=30")
    config = Path(run) / "config.yaml"
    stored = yaml.safe_load(config.read_text())
    assert stored["text_rules"] == RULES_VERSION
    config.write_text(yaml.safe_dump(stored | {"text_rules": RULES_VERSION - 1, "fingerprint": "of other rules"}))
    for path in Path(run).glob("shards/*/*.parquet"):  # ledgers of then did not say whether the numbers agree
        then = pq.read_table(path).drop_columns(["numbers_agree"])
        pq.write_table(then, path)
    capsys.readouterr()
    same = fast_engines.settings(run, str(tmp_path / "crawl"), "execution.runner=local", "plan.unit_minutes=30")
    (tmp_path / "empty.yaml").write_text("{}")
    assert main(["run", str(tmp_path / "empty.yaml"), *same]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"version {RULES_VERSION - 1} of the text rules" in error
    assert "redecide" in error
    again = str(tmp_path / "again")
    assert main(["redecide", run, "--output", again]) == 0, "no new setting is needed: the rules are new"
    assert [row | {"numbers_agree": None} for row in ledger_rows(again)] == [
        row | {"numbers_agree": None} for row in ledger_rows(run)
    ]
    for path in Path(again).glob("shards/*/*.parquet"):
        assert pq.read_schema(path).metadata[b"touchasp.text_rules"] == str(RULES_VERSION).encode()
