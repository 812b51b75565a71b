"""`ray job submit` on a real cluster: a node dies, a job is stopped, two drivers run at once; the bytes stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from operators.clip import SAMPLE_RATE
from operators.storage.base import Store
from operators.storage.fetch import open_store
from pipeline import config, ledger
from pipeline.watch.totals import WATCH_COLUMNS, Totals
from tests.conftest import REPOSITORY
from tests.deploy import monitoring
from tests.pipeline.test_s3_run import upload
from tests.support import fast_engines
from tests.support.kills import digest, start, sweep
from tests.support.ray_cluster import Cluster, start_cluster, wait_for
from tests.support.s3_server import CREDENTIALS, FaultyProxy, Rule

NODE = "--num-cpus=4"


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What --working-dir sends: the packages, as in a clean clone."""
    folder = tmp_path_factory.mktemp("code")
    for package in ("operators", "stages", "pipeline", "tests"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "empty.yaml").write_text("{}\n")
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[Cluster]:
    """A head that does no work and two nodes that do. Of our tests they have what --working-dir sends."""
    with start_cluster(tmp_path_factory.mktemp("cluster"), CREDENTIALS) as cluster:
        for _ in range(2):
            cluster.start_node(NODE)
        cluster.wait_for_nodes()
        yield cluster


def submit(settings: list[str], name: str, delay: float) -> list[str]:
    """Arguments of `ray job`. Recognisers take `delay` seconds a clip, so that there is a middle to be killed in."""
    variables = json.dumps({"env_vars": {"FAST_ENGINES_DELAY": str(delay)}})
    options = ["--working-dir=.", f"--submission-id={name}", f"--runtime-env-json={variables}"]
    return ["submit", *options, "--", "python", "-m", "pipeline", "run", "empty.yaml", *settings]


def plain(settings: list[str], tmp_path: Path) -> None:
    """The same run on a laptop: one process, no Ray."""
    process = start([*settings, "execution.runner=local"], tmp_path / "plain.log")
    code = process.wait(timeout=600)
    sweep(process.pid)
    assert code == 0, (tmp_path / "plain.log").read_text()


def written(store: Store) -> dict[str, bytes]:
    """Every shard, ledger and quarantine file."""
    return {key: store.read(key) for key, _ in store.list("") if key.startswith(("shards/", "quarantine/"))}


def ledgers(store: Store) -> int:
    return sum(key.endswith(".parquet") for key, _ in store.list("shards/"))


def units(log: Path) -> int:
    """How many units the run has, by its own account."""
    line = next(line for line in log.read_text().splitlines() if "planned" in line)
    return int(line.partition(" into ")[2].split()[0])


def kill_a_node(cluster: Cluster) -> None:
    """The one that holds most workers of the run. Ray is not told; it has to notice."""
    before = cluster.alive()
    victim = max(
        (node for node in cluster.nodes[1:] if node.process.returncode is None), key=lambda node: node.stages()
    )
    assert victim.stages() > 0, "no node does any work"
    victim.kill()
    wait_for(lambda: cluster.alive() < before, 30, "the cluster notices that a node died")


def run_on_failing_s3(
    cluster: Cluster, code: Path, tmp_path: Path, endpoint: str, bucket: str, clips: int, kills: int, delay: float
) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", clips, seed=21)
    (tmp_path / "crawl" / "live").mkdir(exist_ok=True)
    (tmp_path / "crawl" / "live" / "broken.mp3").write_bytes(b"no audio")
    upload(tmp_path / "crawl", endpoint, bucket)
    reach = ["s3.region=us-east-1", "s3.addressing_style=path"]
    faults = [  # together more than one request of twenty
        Rule(action="error", every=31, times=10**6),
        Rule(action="reset", every=37, times=10**6),
        Rule(action="cut", method="GET", every=11, times=10**6),
        Rule(action="lose_response", method="PUT", every=5, times=10**6),
    ]
    remote = open_store(f"s3://{bucket}/run", config.S3Settings(endpoint_url=endpoint, region="us-east-1"))
    with FaultyProxy(endpoint, faults) as proxy:
        settings = fast_engines.settings(
            f"s3://{bucket}/run", f"s3://{bucket}/crawl", f"s3.endpoint_url={proxy.url}", *reach
        )
        log = tmp_path / "job.log"
        job = cluster.follow(*submit(settings, f"s3-{bucket}", delay), log=log, cwd=code)
        try:
            for kill in range(1, kills + 1):
                wait_for(lambda kill=kill: ledgers(remote) >= kill or job.poll() is not None, 120, f"ledger {kill}")
                assert job.poll() is None, log.read_text()
                kill_a_node(cluster)
                done = ledgers(remote)
                assert done < units(log), "the node died after the work was done: nothing is proven"
                cluster.start_node(NODE)
            assert job.wait(timeout=600) == 0, log.read_text()
        finally:
            job.kill()
        assert "every stage has loaded its models" in log.read_text(), "the log is followed"
        met = sum(request.fault is not None for request in proxy.requests)
        assert met >= 0.05 * len(proxy.requests), f"{met} faults in {len(proxy.requests)} requests are too few"
    laptop = fast_engines.settings(str(tmp_path / "run"), f"s3://{bucket}/crawl", f"s3.endpoint_url={endpoint}", *reach)
    plain(laptop, tmp_path)
    expected = written(open_store(str(tmp_path / "run"), config.S3Settings()))
    assert len(expected) >= 8
    assert written(remote) == expected


def test_a_node_dies_while_s3_fails(cluster: Cluster, code: Path, tmp_path: Path, s3_server: str, bucket: str) -> None:
    run_on_failing_s3(cluster, code, tmp_path, s3_server, bucket, clips=80, kills=1, delay=0.08)


def test_stopped_and_submitted_twice_at_once(cluster: Cluster, code: Path, tmp_path: Path) -> None:
    """A job is stopped half way; then two people submit it again, neither knowing of the other. What Prometheus is told
    meanwhile counts no clip twice, and offers all that dashboard and alerts ask for.
    """
    fast_engines.write_crawl(tmp_path / "crawl", 60, seed=22)
    (tmp_path / "crawl" / "live" / "page.mp3").write_bytes(b"<html>404</html>")
    port = cluster.nodes[0].metrics_port  # of the head, where jobs are driven
    with monitoring.Scraper(port).running() as scraper, monitoring.prometheus(tmp_path / "watch", port) as prometheus:
        stopped_and_submitted_twice(cluster, code, tmp_path)
        seen = len(scraper.seen)  # the last word of a driver lies on its node when it ends
        wait_for(lambda: len(scraper.seen) >= seen + 3, 20, "scrapes of the end")
        run = str(tmp_path / "run")
        the_metrics_are_the_ledgers(scraper, run)
        offer = monitoring.offered(scraper.seen[-1]) | monitoring.offered(scraper.fullest())
        for place, expression in monitoring.expressions(run).items():
            if place not in OF_GPUS:
                assert monitoring.missing(monitoring.wanted(expression), offer) == [], place
        if prometheus is not None:
            answers = {place: prometheus.ask(asked) for place, asked in monitoring.expressions(run).items()}
            alerts = {rule["alert"] for rule in monitoring.rules() if "alert" in rule}
            assert {place for place, answer in answers.items() if not answer} <= OF_GPUS | OF_AN_HOUR | alerts
            assert {rule["health"] for rule in prometheus.rules()} == {"ok"}


OF_GPUS = {"GPU use A", "GPU memory A"}
OF_AN_HOUR = {"Speed of the run A", "Retention of the last hour, against the plan's first units A"}
"""What the dashboard cannot show of a run of some seconds; tests/deploy/test_monitoring.py evaluates the latter."""


def the_metrics_are_the_ledgers(scraper: monitoring.Scraper, run: str) -> None:
    """At no time more, at the end as much."""
    store, totals = open_store(run, config.S3Settings()), Totals()
    for unit_id in ledger.done_units(store):
        totals.add(unit_id, ledger.columns(store, unit_id, WATCH_COLUMNS))
    clips = scraper.folded("ray_touchasp_clips_total", run)
    assert any(clips), "nothing was published"
    most = max(clips, key=lambda moment: sum(moment.values()))
    assert most == dict(totals.clips)
    seconds = scraper.folded("ray_touchasp_audio_seconds_total", run)
    for moment in seconds:
        for account, value in moment.items():
            assert value <= totals.samples[account] / SAMPLE_RATE
    assert max(sum(moment.values()) for moment in seconds) == pytest.approx(totals.input_seconds())


def stopped_and_submitted_twice(cluster: Cluster, code: Path, tmp_path: Path) -> None:
    settings = fast_engines.settings(str(tmp_path / "run"), str(tmp_path / "crawl"))
    store = open_store(str(tmp_path / "run"), config.S3Settings())
    first = cluster.follow(*submit(settings, "first", 0.1), log=tmp_path / "first.log", cwd=code)
    wait_for(lambda: ledgers(store) >= 1 or first.poll() is not None, 120, "a first ledger")
    assert first.poll() is None, (tmp_path / "first.log").read_text()
    assert cluster.job("stop", "first").returncode == 0
    first.wait(timeout=60)
    assert "was stopped" in cluster.job("status", "first").stdout
    done, planned = ledgers(store), units(tmp_path / "first.log")
    assert 1 <= done < planned, "stopped too late: nothing is left to resume"

    both = ["second", "third"]
    drivers = [cluster.follow(*submit(settings, name, 0.02), log=tmp_path / f"{name}.log", cwd=code) for name in both]
    for name, driver in zip(both, drivers, strict=True):
        assert driver.wait(timeout=240) == 0, (tmp_path / f"{name}.log").read_text()
    told = (tmp_path / "second.log").read_text()
    resumed = next(line for line in told.splitlines() if "are done already" in line)
    assert int(resumed.split()[0]) >= done
    plain(fast_engines.settings(str(tmp_path / "plain"), str(tmp_path / "crawl")), tmp_path)
    assert digest(tmp_path / "run") == digest(tmp_path / "plain")


def test_without_the_token_nothing_is_submitted(cluster: Cluster, code: Path, tmp_path: Path) -> None:
    run = submit(fast_engines.settings(str(tmp_path / "run"), "nowhere"), "stranger", 0)
    refused = cluster.job(*run, token="0" * 32, cwd=code)
    assert refused.returncode != 0
    assert cluster.get("/api/jobs/")[0] == 401
    assert cluster.get("/api/jobs/", token="0" * 32)[0] == 403
    assert cluster.job("status", "stranger").returncode != 0, "it is there all the same"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_nodes_die_while_s3_fails(
    cluster: Cluster, code: Path, tmp_path: Path, s3_server: str, bucket: str
) -> None:
    run_on_failing_s3(cluster, code, tmp_path, s3_server, bucket, clips=800, kills=6, delay=0.2)
