"""The dashboard and the alert rules as they stand in deploy/, and what they ask of a scrape.

dashboard.json, rules.yaml ──expressions──> wanted: metrics and the labels they are taken by
GET :PORT/metrics ──prometheus_client's parser──> offered                    missing(wanted, offered) is empty
a Prometheus, where one is installed, scrapes the same port and evaluates every expression
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import REPOSITORY
from tests.support.ray_cluster import free_port, wait_for

FOLDER = REPOSITORY / "deploy" / "k8s" / "monitoring"
Offered = dict[str, set[str]]
"""The labels of each series name."""


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return content


def rule_groups() -> dict[str, Any]:
    """What a Prometheus without an operator reads."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["spec"]
    return content


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups()["groups"] for rule in group["rules"]]


def expressions(run: str) -> dict[str, str]:
    """Every expression of dashboard and rules, by where it stands, for a run."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$run", run)
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    }
    return found | {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}


_SELECTOR = re.compile(
    r"(?:\b(?:by|on) \((?P<taken>[^)]*)\) \()?(?:\w+\()?\b(?P<name>ray_\w+)(?:\{(?P<matched>[^}]*)\})?"
)


def wanted(expression: str) -> Offered:
    """The metrics of an expression, with the labels by which each is matched or aggregated."""
    found: Offered = {}
    for match in _SELECTOR.finditer(re.sub(r"\w+:ray_\w+:\w+", "recorded", expression)):
        labels = found.setdefault(match["name"], set())
        labels |= {label.strip() for label in (match["taken"] or "").split(",") if label.strip()}
        labels |= set(re.findall(r"(\w+)\s*[=!]", match["matched"] or ""))
    return found


def offered(scrape: str) -> Offered:
    found: Offered = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def missing(want: Offered, offer: Offered) -> list[str]:
    """What an expression asks for and nobody offers. `instance` is Prometheus' own."""
    lost = [name for name in want if name not in offer]
    known = {name: offer[name] | {"instance"} for name in want if name in offer}
    return lost + [f"{name}{{{label}}}" for name, has in known.items() for label in want[name] - has]


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
        return text


@dataclass
class Scraper:
    """A Scraper asks a node for its metrics, again and again, as Prometheus does."""

    port: int
    seen: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[Scraper]:
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.5):
                with suppress(OSError):
                    self.seen.append(scrape(self.port))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join(timeout=20)

    def fullest(self) -> str:
        """The scrape of the most series."""
        return max(self.seen, key=lambda text: text.count("ray_touchasp_"))

    def folded(self, name: str, run: str) -> list[dict[tuple[str, ...], float]]:
        """A total at each scrape, by its labels but those of the process: the largest that any process says."""
        moments = []
        for text in self.seen:
            moment: dict[tuple[str, ...], float] = {}
            for line in text.splitlines():
                if line.startswith(f"{name}{{") and f'run="{run}"' in line:
                    (family,) = text_string_to_metric_families(line)
                    (sample,) = family.samples
                    own = ("domain", "outcome", "stage", "reason")
                    labels = tuple(sample.labels[label] for label in own if label in sample.labels)
                    moment[labels] = max(sample.value, moment.get(labels, 0.0))
            moments.append(moment)
        return moments


@dataclass
class Prometheus:
    """A real Prometheus over one node's metrics, with the rules of deploy/."""

    url: str
    started: float

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gave at any second since the beginning. Raises AssertionError where it is refused."""
        asked = {"query": expression, "start": self.started, "end": time.time(), "step": 1}
        status, body = self._get(f"/api/v1/query_range?{urllib.parse.urlencode(asked)}")
        assert status == 200, f"{expression}: {body}"
        result: list[dict[str, Any]] = json.loads(body)["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        status, body = self._get("/api/v1/rules")
        assert status == 200
        return [rule for group in json.loads(body)["data"]["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[Prometheus | None]:
    """Over the metrics at a port of this machine; None where none is installed."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    folder.mkdir()
    groups = rule_groups()
    for group in groups["groups"]:
        group["interval"] = "1s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(groups))
    settings = {
        "global": {"scrape_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    listen = f"127.0.0.1:{free_port()}"
    command = [program, "--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={listen}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        server = Prometheus(f"http://{listen}", time.time())
        wait_for(lambda: server._get("/-/ready")[0] == 200 or process.poll() is not None, 30, "Prometheus is ready")
        assert process.poll() is None, (folder / "log").read_text()
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)
