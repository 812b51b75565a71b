"""The commands that the manifests name, run on a real Ray cluster: `ray start`, probes, both ways of submitting.

    manifest ──paths, ports and engines replaced, nothing else──> the same command here

What KubeRay adds to them (ports, the head's address, --block) is added by tests/support/ray_cluster.py in its place.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from tests.conftest import REPOSITORY
from tests.pipeline.test_s3_run import upload
from tests.support import fast_engines, manifests
from tests.support.manifests import Object
from tests.support.ray_cluster import TOKEN, Cluster, environment, start_cluster, wait_for
from tests.support.s3_server import CREDENTIALS, bucket, s3_server

__all__ = ["bucket", "s3_server"]

SECRETS = {"touchasp-s3": CREDENTIALS, "touchasp-ray-token": {"auth_token": TOKEN}}


@dataclass
class Machine:
    """This machine in the place of the pods': every path that a manifest mounts lies below one folder."""

    folder: Path
    mounts: tuple[str, ...]

    def path(self, text: str) -> str:
        """A command's or variable's text with the pods' paths made ours."""
        for mount in sorted(self.mounts, key=len, reverse=True):
            if text == mount or text.startswith(f"{mount}/") or f"={mount}" in text:
                return text.replace(mount, f"{self.folder}{mount}", 1)
        return text

    def variables(self, container: Object) -> dict[str, str]:
        """The environment that the container's `env` makes, secrets looked up."""
        found = {}
        for entry in container["env"]:
            secret = entry.get("valueFrom", {}).get("secretKeyRef")
            if secret is None:
                found[entry["name"]] = self.path(entry["value"])
            elif secret["key"] in SECRETS[secret["name"]]:
                found[entry["name"]] = SECRETS[secret["name"]][secret["key"]]
            else:
                assert secret["optional"]
        return found

    def start_options(self, group: Object) -> list[str]:
        """What KubeRay makes of a group: its rayStartParams, with CPUs and GPUs of the limits where those say none.

        The size of the object store stays that of tests/support/ray_cluster.py: several nodes share this machine.
        """
        cpus, gpus = manifests.logical(group)
        params = {"num-cpus": f"{cpus:g}"} | ({"num-gpus": f"{gpus:g}"} if gpus else {}) | group["rayStartParams"]
        del params["object-store-memory"]
        return [f"--{name}={self.path(value)}" for name, value in params.items()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    mounted = {
        mount["mountPath"]
        for group in manifests.groups("base")
        for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    folder = tmp_path_factory.mktemp("pods")
    for path in mounted:
        (folder / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return Machine(folder, tuple(mounted))


@pytest.fixture(scope="module")
def cluster(machine: Machine, s3_server: str) -> Iterator[Cluster]:
    """Head, one cpu node and one gpu node, each started with its group's own parameters and environment."""
    head, *workers = manifests.groups("base")
    variables = [machine.variables(group["template"]["spec"]["containers"][0]) for group in (head, *workers)]
    assert all(one == variables[0] for one in variables), "nodes of one cluster, started here from one environment"
    stand_in = {"PYTHONPATH": str(REPOSITORY)}  # the image has our packages; these nodes the tests' engines too
    with start_cluster(machine.folder / "nodes", variables[0] | stand_in, machine.start_options(head)) as cluster:
        for group in workers:
            cluster.start_node(*machine.start_options(group))
        cluster.wait_for_nodes()
        yield cluster


def test_probes_answer_while_the_node_lives(cluster: Cluster) -> None:
    """Without a token, as the kubelet asks."""
    for node, group in zip(cluster.nodes, manifests.groups("base"), strict=True):
        ports = {8265: cluster.dashboard_port, 52365: node.agent_port}
        container = group["template"]["spec"]["containers"][0]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[kind]["httpGet"]
            wait_for(
                lambda asked=asked, ports=ports: cluster.get(asked["path"], ports[asked["port"]])[0] == 200,
                20,
                str(asked),
            )
    assert cluster.get("/api/jobs/")[0] == 401, "everything else asks for the token"


def settings_for(machine: Machine, endpoint: str, bucket: str) -> Object:
    """The ConfigMap's settings with other sources, engines and pool sizes; CPUs and GPUs stay as they are."""
    content = yaml.safe_load(manifests.one("base", "ConfigMap", "touchasp-curation")["data"]["curation.yaml"])
    content["output"] = f"s3://{bucket}/run"
    content["sources"] = [{"path": f"s3://{bucket}/crawl"}]
    content["s3"] |= {"endpoint_url": endpoint, "addressing_style": "path"}
    content["plan"] = {"unit_minutes": 1.0, "edge_radius_seconds": 2.0}
    content["vad"] = {"engine": "tests.support.fast_engines:EnergyVad"}
    content["asr"] |= {"engine": "tests.support.fast_engines:HashRecogniser", "model": "hash"}
    content["copilot"] |= {"engine": "tests.support.fast_engines:HashCopilot", "models": {"en": "hash"}}
    execution = content["execution"]
    execution["scratch"] = machine.path(execution["scratch"])
    for stage in execution.values():
        if isinstance(stage, dict):
            stage["max_workers"] = stage.get("min_workers", 1)
    return content


def test_the_manifests_commands_curate(
    cluster: Cluster, machine: Machine, tmp_path: Path, s3_server: str, bucket: str
) -> None:
    """The RayJob's entrypoint as KubeRay submits it, then the submit Job's command, which finds nothing left to do."""
    fast_engines.write_crawl(tmp_path / "crawl", 20, seed=31)
    upload(tmp_path / "crawl", s3_server, bucket)
    settings = settings_for(machine, s3_server, bucket)
    mounted = Path(machine.path("/etc/touchasp/curation.yaml"))
    mounted.write_text(yaml.safe_dump(settings))

    job = manifests.one("base", "RayJob")
    entrypoint = [machine.path(word) for word in shlex.split(job["spec"]["entrypoint"])]
    submitted = cluster.job("submit", "--submission-id=touchasp-curation", "--no-wait", "--", *entrypoint)
    assert submitted.returncode == 0, submitted.stderr
    followed = cluster.job("logs", "--follow", "touchasp-curation")
    assert "succeeded" in cluster.job("status", "touchasp-curation").stdout, followed.stdout
    assert "3 node(s), 14 logical CPUs, 1 GPUs" in followed.stdout

    container = manifests.one("overlays/cluster", "Job")["spec"]["template"]["spec"]["containers"][0]
    command = [
        word.replace("http://touchasp-head-svc:8265", cluster.url)
        if word.startswith("--address=")
        else machine.path(word)
        for word in container["command"]
    ]
    again = subprocess.run(
        command,
        env=environment(machine.variables(container)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "units are done already" in again.stdout, "the settings travelled with the job"

    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(settings | {"output": str(tmp_path / "plain")}))
    plain = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(tmp_path / "plain.yaml"), "execution.runner=local"],
        cwd=REPOSITORY, env=os.environ | CREDENTIALS, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    remote = open_store(f"s3://{bucket}/run", S3Settings(endpoint_url=s3_server, region="us-east-1"))
    local = open_store(str(tmp_path / "plain"), S3Settings())
    keys = [key for key, _ in local.list("shards/")]
    assert len(keys) >= 2
    assert [key for key, _ in remote.list("shards/")] == keys
    assert all(remote.read(key) == local.read(key) for key in keys)
