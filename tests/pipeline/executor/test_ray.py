"""Ray gives the plain runner's bytes, with any number of workers, and refuses a cluster that would starve a stage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from operators.errors import UserError
from operators.storage.fetch import Fetch, open_store
from pipeline import config, recipe
from pipeline.__main__ import main
from pipeline.executor.cluster import check_fit
from tests.conftest import REPOSITORY
from tests.support import fast_engines
from tests.support.kills import digest, sweep


def run(settings: list[str], config_file: Path) -> subprocess.CompletedProcess[str]:
    config_file.write_text("{}\n")
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(config_file), *settings],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize("numbers", [(4,), pytest.param((1, 2), marks=pytest.mark.soak)])
def test_any_number_of_workers_writes_the_same_bytes(numbers: tuple[int, ...], tmp_path: Path) -> None:
    """With clips that share windows and are annotated: both are functions of the unit."""
    fast_engines.write_crawl(tmp_path / "crawl", 60, seed=9)
    outputs = {"plain": ["execution.runner=local"]}
    for workers in numbers:
        outputs[f"ray{workers}"] = [
            f"execution.{stage}.{bound}={workers}"
            for stage in ("segment", "transcribe", "copilot", "annotate")
            for bound in ("max_workers", "min_workers")
        ]
    digests = {}
    for name, more in outputs.items():
        more = fast_engines.annotated(fast_engines.SHARING, *more)
        done = run(fast_engines.settings(str(tmp_path / name), str(tmp_path / "crawl"), *more), tmp_path / "empty.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        digests[name] = digest(tmp_path / name)
    assert len(digests["plain"]) >= 8
    for name in outputs:
        assert digests[name] == digests["plain"], name


def test_the_terminal_is_kept_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of Ray, whisperX or FFmpeg between the user and the progress of the run; nor is a cluster joined that
    nobody named, though one has left its note here.
    """
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    (Path(scratch) / "ray").mkdir()
    (Path(scratch) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", scratch)
    fast_engines.write_crawl(tmp_path / "crawl", 10, seed=9)
    settings = fast_engines.settings(str(tmp_path / "run"), str(tmp_path / "crawl"), "execution.num_cpus=3")
    done = run(settings, tmp_path / "empty.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "3 logical CPUs" in done.stdout
    for noise in ("INFO", "WARNING", "core_worker", "Deprecat"):
        assert noise not in done.stdout


def test_a_starving_graph_is_refused_at_once() -> None:
    settings = config.load(
        None,
        [
            "output=unused",
            "execution.transcribe.gpus=0.5",
            "execution.segment.min_workers=4",
            "execution.segment.max_workers=4",
        ],
    )
    store = open_store("unused", settings.s3)
    stages = recipe.build(settings, store, Fetch(settings.s3))
    check_fit(stages, [(8.0, 1.0)])
    check_fit(stages, [(2.0, 0.0), (4.0, 0.0), (2.0, 1.0)])
    with pytest.raises(UserError, match=r"Transcribe worker of 1 CPUs and 0\.5 GPUs"):
        check_fit(stages, [(16.0, 0.0)])
    with pytest.raises(UserError, match="Segment"):
        check_fit(stages, [(3.0, 1.0)])
    with pytest.raises(UserError, match="cluster is too small"):
        check_fit(stages, [(0.5, 1.0)] * 20)


def test_a_small_cluster_and_a_missing_one_are_one_line(tmp_path: Path) -> None:
    fast_engines.write_crawl(tmp_path / "crawl", 4, seed=9)
    settings = fast_engines.settings(str(tmp_path / "run"), str(tmp_path / "crawl"))
    small = run([*settings, "execution.num_cpus=1", "execution.segment.cpus=3"], tmp_path / "empty.yaml")
    assert small.returncode == 2
    assert "Segment worker of 3 CPUs" in small.stderr
    assert small.stderr.count("\n") == 1
    missing = run([*settings, "execution.address=127.0.0.1:1"], tmp_path / "empty.yaml")
    assert missing.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in missing.stderr
    assert "Traceback" not in missing.stderr


TOKEN = "0123456789abcdef0123456789abcdef"


def test_a_ray_that_does_not_start_is_one_line_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a busy machine Ray's own processes are later than the 30 s that it waits for them."""
    import ray

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because\nof anything.")

    fast_engines.write_crawl(tmp_path / "crawl", 2, seed=1)
    monkeypatch.setattr(ray, "init", late)
    (tmp_path / "my.yaml").write_text("{}\n")
    settings = fast_engines.settings(str(tmp_path / "run"), str(tmp_path / "crawl"))
    assert main(["run", str(tmp_path / "my.yaml"), *settings]) == 1
    said = capsys.readouterr().err
    assert said.startswith("touchasp: Ray did not start on this machine")
    assert "timed out during startup" in said
    assert "the same command goes on" in said
    assert said.count("\n") == 1


def test_a_running_cluster_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of a cluster read the headers and do the work; the bytes are those of the plain runner."""
    fast_engines.write_crawl(tmp_path / "crawl", 30, seed=12)
    plain = run(
        fast_engines.settings(str(tmp_path / "plain"), str(tmp_path / "crawl"), "execution.runner=local"),
        tmp_path / "empty.yaml",
    )
    assert plain.returncode == 0, plain.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=4"]
    options = [
        "--include-dashboard=false",
        "--disable-usage-stats",
        f"--temp-dir={tempfile.mkdtemp(prefix='ray-', dir='/tmp')}",
    ]
    with (tmp_path / "cluster.log").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "RAY_AUTH_TOKEN": TOKEN}
        cluster = subprocess.Popen([*ray, *options], stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        address = f"{socket.gethostbyname(socket.gethostname())}:{port}"
        until = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "cluster.log").read_text():
            assert time.monotonic() < until, (tmp_path / "cluster.log").read_text()
            time.sleep(0.2)
        settings = fast_engines.settings(
            str(tmp_path / "joined"), str(tmp_path / "crawl"), f"execution.address={address}"
        )
        monkeypatch.setenv("RAY_AUTH_TOKEN", "not-the-token")
        refused = run(settings, tmp_path / "empty.yaml")
        assert refused.returncode == 2
        assert "RAY_AUTH_TOKEN" in refused.stderr
        assert refused.stderr.count("\n") == 1
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        joined = run(settings, tmp_path / "empty.yaml")
        assert joined.returncode == 0, joined.stdout + joined.stderr
        assert "4 logical CPUs" in joined.stdout
    finally:
        cluster.kill()
        sweep(cluster.pid)
    assert digest(tmp_path / "joined") == digest(tmp_path / "plain")
