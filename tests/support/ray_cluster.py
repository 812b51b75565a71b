"""A real Ray cluster on this machine, as `ray start` makes it on many: one head, more nodes, token authentication on.

    Cluster ──ray start --head──> head   (driver and dashboard; no work of its own)
            ──ray start --address──> node, node, ...   each with its own raylet, object store and agent
    cluster.submit(...) ──ray job submit over HTTP──> job, its log followed

Every node is a session of processes of its own, so one can be killed whole, as a machine dies.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.kills import sweep

RAY = str(Path(sys.executable).parent / "ray")
TOKEN = "f3a1c09be5d74286a0b9c8d7e6f51234"
OBJECT_STORE = 100_000_000
"""bytes of each node's: audio of a few units, on a machine that holds several nodes"""


@dataclass
class Node:
    process: subprocess.Popen[bytes]
    log: Path
    agent_port: int
    """Where its dashboard agent answers /api/local_raylet_healthz."""
    metrics_port: int
    """Where it offers its metrics to Prometheus."""

    def family(self) -> list[psutil.Process]:
        """Its processes: `ray start`, the raylet, and all that this started."""
        with suppress(psutil.Error):
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        return []

    def stages(self) -> int:
        """How many workers of the pipeline's stages it holds."""
        found = 0
        for process in self.family():
            with suppress(psutil.Error):
                found += " ".join(process.cmdline()).startswith("ray::MapWorker")
        return found

    def kill(self) -> None:
        """End every process of the node at once, as a power cut does."""
        for process in self.family():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        sweep(self.process.pid)
        self.process.wait(timeout=10)


@dataclass
class Cluster:
    folder: Path
    environment: dict[str, str]
    """of every node, beside this process's own"""
    port: int
    dashboard_port: int
    temp: str
    nodes: list[Node] = field(default_factory=list)
    """the head first"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_node(self, *options: str) -> Node:
        """Join one more node; the first is the head. `wait_for_nodes` says when it runs."""
        agent_port, metrics_port = free_port(), free_port()
        ports = {"dashboard-agent-listen-port": agent_port, "metrics-export-port": metrics_port}
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE}"]
        command += ["--min-worker-port=0", "--max-worker-port=0"]  # free ones, as nodes share this machine
        # And a folder each: in a common one, nodes that start at the same time take the same sockets.
        command += [f"--temp-dir={self.temp}/{len(self.nodes)}"]
        if not self.nodes:
            ports |= {"port": self.port, "dashboard-port": self.dashboard_port, "ray-client-server-port": free_port()}
            command += ["--head"]
        else:
            command += [f"--address={own_address()}:{self.port}"]
        command += [f"--{name}={value}" for name, value in ports.items()]
        log = self.folder / f"node-{len(self.nodes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *options], cwd=self.folder, env=environment(self.environment),
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        node = Node(process, log, agent_port, metrics_port)
        self.nodes.append(node)
        return node

    def wait_for_nodes(self) -> None:
        """Until the cluster has every node that was started and not killed."""
        started = [node for node in self.nodes if node.process.returncode is None]

        def there() -> bool:
            for node in started:
                assert node.process.poll() is None, node.log.read_text(errors="replace")
            return self.alive() == len(started)

        wait_for(there, 120, f"{len(started)} nodes of {self.url}")

    def get(self, path: str, port: int | None = None, token: str | None = None) -> tuple[int, str]:
        """Status and body of a GET, of the dashboard or of a node's agent. Status 0: nothing listens there."""
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.dashboard_port}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def alive(self) -> int:
        """How many nodes the cluster itself takes for alive."""
        status, body = self.get("/api/v0/nodes", token=TOKEN)
        rows = json.loads(body)["data"]["result"]["result"] if status == 200 else []
        return sum(row["state"] == "ALIVE" for row in rows)

    def job(self, *arguments: str, token: str = TOKEN, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`ray job ARGUMENTS`, to its end."""
        return subprocess.run(
            self._job(arguments), env=environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}),
            cwd=cwd or self.folder, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    def follow(self, *arguments: str, log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """`ray job ARGUMENTS` in the background; what it says goes to `log`, line by line."""
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            return subprocess.Popen(
                self._job(arguments), env=environment(variables),
                cwd=cwd or self.folder, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _job(self, arguments: Sequence[str]) -> list[str]:
        verb, *rest = arguments
        return [RAY, "job", verb, f"--address={self.url}", *rest]

    def stop(self) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.kill()
        shutil.rmtree(self.temp, ignore_errors=True)


@contextmanager
def start_cluster(
    folder: Path, variables: Mapping[str, str], head: Sequence[str] = ("--num-cpus=0",)
) -> Iterator[Cluster]:
    """A cluster of one head. `variables` is the environment of its nodes."""
    quick = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # A dead node is noticed in two seconds; Ray's own pace is slower than a test can wait.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        # Else every node starts as many idle workers as it says it has CPUs, as soon as a job comes.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_raylet_start_wait_time_s": "100",  # on a machine that is busy with something else
        # Not every ten seconds. A gauge lives for two reports, so it outlives the five seconds between two values.
        "RAY_metrics_report_interval_ms": "3000",
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Ray's sockets lie there, and the name of a socket may have a hundred letters.
    cluster = Cluster(
        folder, quick | dict(variables), free_port(), free_port(), tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    )
    try:
        cluster.start_node(*head)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.stop()


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would point Ray or Python somewhere else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in the image
    return kept | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | dict(more)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def own_address() -> str:
    return socket.gethostbyname(socket.gethostname())
