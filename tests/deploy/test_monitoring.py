"""Dashboard, alerts and monitors: what they ask for exists, they fit the schemas of their readers, and alerts fire.

That a real scrape offers it all is seen in tests/pipeline/executor/test_job_submit.py, where a cluster runs anyway.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.executor.metrics import GAUGES, HISTOGRAMS
from tests.conftest import REPOSITORY
from tests.deploy import monitoring
from tests.deploy.monitoring import dashboard, expressions, missing, rules, wanted
from tests.support import manifests

OF_RAY = {
    "ray_node_gpus_utilization": {"ip", "GpuIndex"},
    "ray_node_gram_used": {"ip", "GpuIndex"},
    "ray_node_cpu_utilization": {"ip"},
    "ray_node_mem_used": {"ip"},
    "ray_node_mem_total": {"ip"},
}
"""Ray's own metrics that the dashboard draws."""


def ours() -> dict[str, set[str]]:
    found = {f"ray_{name}": {"run", *labels} for name, (_, labels) in GAUGES.items()}
    for name, (_, labels, _) in HISTOGRAMS.items():
        found |= {f"ray_{name}_count": {"run", *labels}, f"ray_{name}_bucket": {"run", "le", *labels}}
    return found


def test_every_expression_asks_for_what_is_there() -> None:
    offer = ours() | OF_RAY
    for place, expression in expressions("runs/first").items():
        assert wanted(expression) or "run_domain_outcome" in expression, place
        assert missing(wanted(expression), offer) == [], place


def test_rays_own_metrics_bear_these_names() -> None:
    """GPUs are rare where tests run, so Ray's text is asked: its module takes seconds to import."""
    (place,) = importlib.util.find_spec("ray").submodule_search_locations or ()  # type: ignore[union-attr]
    folder = Path(place) / "dashboard"
    text = (folder / "modules" / "reporter" / "reporter_agent.py").read_text(encoding="utf-8")
    for name, labels in OF_RAY.items():
        tags = "GPU_TAG_KEYS" if "GpuIndex" in labels else "NODE_TAG_KEYS"
        declared = re.search(rf'Gauge\(\s*"{name.removeprefix("ray_")}",[^)]*?\b(\w+_TAG_KEYS)', text)
        assert declared, name
        assert declared[1] == tags
    labels = (folder / "consts.py").read_text(encoding="utf-8")
    assert re.search(r'^NODE_TAG_KEYS = \["ip"', labels, flags=re.MULTILINE)
    assert re.search(r'^GPU_TAG_KEYS = NODE_TAG_KEYS \+ \[[^]]*"GpuIndex"', labels, flags=re.MULTILINE)


@pytest.mark.parametrize("slip", ["ray_touchasp_units", "ray_touchasp_units_total{stage='x'}", "max by (unit) ({})"])
def test_a_slip_would_be_noticed(slip: str) -> None:
    assert missing(wanted(slip.replace("{}", "ray_touchasp_units_total")), ours())


def test_totals_are_folded_before_anything_is_added() -> None:
    """Two drivers of one run export the same totals, so a plain sum would count every clip twice."""
    totals = "|".join(f"ray_{name}" for name in GAUGES if name.startswith("touchasp"))
    for place, expression in expressions("runs/first").items():
        for match in re.finditer(rf"(\w+)(?: by \([^)]*\))? \((?:last_over_time\()?(?:{totals})\b", expression):
            assert match[1] in ("max", "min"), f"{place}: {match[0]}"
        asked = re.findall(rf"(.*?)\b(?:{totals})\b", expression, flags=re.DOTALL)
        assert all(re.search(r"(max|min) by \([^)]*\) \((last_over_time\()?$", before) for before in asked), place


def test_the_dashboard_can_be_imported() -> None:
    """By the fields of Grafana's classic model: everything has a place, a source, and a word to the reader."""
    board = dashboard()
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    assert "id" not in board, "the number of a dashboard is its Grafana's"
    source, run = board["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert (run["type"], run["query"]["query"]) == ("query", "label_values(ray_touchasp_units_planned, run)")
    here = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in {"stat", "timeseries", "bargauge", "table"}
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == here
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert all(target["datasource"] == here and target["expr"] for target in panel["targets"])


ENDPOINT = {"port", "interval", "path", "scheme", "scrapeTimeout", "honorLabels", "relabelings", "metricRelabelings"}
RELABELLING = {"action", "regex", "sourceLabels", "targetLabel", "replacement", "separator", "modulus"}


def closed(fields: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "additionalProperties": False, "required": list(required)}


TEXT, TEXTS = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
RULE = closed({"alert": TEXT, "record": TEXT, "expr": TEXT, "for": TEXT, "labels": TEXTS, "annotations": TEXTS}, "expr")
SPECS = {
    "PodMonitor": closed(
        {
            "selector": {"type": "object"},
            "podTargetLabels": {"type": "array", "items": TEXT},
            "podMetricsEndpoints": {
                "type": "array",
                "items": closed(
                    {name: {} for name in ENDPOINT}
                    | {"metricRelabelings": {"items": closed({name: {} for name in RELABELLING})}}
                ),
            },
        },
        "selector",
        "podMetricsEndpoints",
    ),
    "PrometheusRule": closed(
        {
            "groups": {
                "type": "array",
                "items": closed({"name": TEXT, "interval": TEXT, "rules": {"type": "array", "items": RULE}}, "name"),
            }
        }
    ),
}
"""The fields of monitoring.coreos.com/v1 that are used here, from the operator's API reference; no others."""


@pytest.mark.parametrize("build", ["monitoring", "overlays/gpu", "overlays/spot", "overlays/cluster"])
def test_monitors_and_rules_fit_the_operators_schemas(build: str) -> None:
    found = [item for item in manifests.objects(build) if item["apiVersion"] == "monitoring.coreos.com/v1"]
    assert sorted(item["kind"] for item in found) == sorted(SPECS)
    for item in found:
        jsonschema.Draft202012Validator(SPECS[item["kind"]]).validate(item["spec"])
        assert item["metadata"]["namespace"] == "touchasp"
        assert item["metadata"]["labels"]["release"] == "prometheus"


def test_the_rest_fits_kubernetes_schemas_and_meets_the_pods() -> None:
    for item in manifests.objects("monitoring"):
        if item["apiVersion"] != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(item, "1.33", strict=True)
    board = manifests.one("monitoring", "ConfigMap")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1", "what Grafana's sidecar looks for"
    assert yaml.safe_load(board["data"]["touchasp.json"]) == dashboard()
    policy = manifests.one("monitoring", "NetworkPolicy")["spec"]
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8080}], "KubeRay's port of metrics"
    selector = manifests.one("monitoring", "PodMonitor")["spec"]["selector"]
    (condition,) = selector["matchExpressions"]
    for pod in manifests.pods("overlays/gpu"):
        assert selector["matchLabels"].items() <= pod.labels.items()
        assert policy["podSelector"]["matchLabels"].items() <= pod.labels.items()
    assert condition == {"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}


def test_every_metric_and_every_alert_is_explained() -> None:
    page = (REPOSITORY / "docs" / "how-to" / "watch-a-run.md").read_text(encoding="utf-8")
    for rule in rules():
        if "alert" in rule:
            assert f"`{rule['alert']}`" in page
            assert {"summary", "description"} <= rule["annotations"].keys()


RUN = 'run="s3://touchasp/runs/first"'


def hours(outcome: str, stage: str = "", reason: str = "", worker: str = "a") -> str:
    labels = f'outcome="{outcome}", stage="{stage}", reason="{reason}", WorkerId="{worker}"'
    return f'ray_touchasp_audio_seconds_total{{{RUN}, domain="talk", {labels}}}'


CASES: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "a run that goes well, submitted twice": (
        {
            f'ray_touchasp_seconds_since_progress{{{RUN}, WorkerId="a"}}': "1x200",
            f'ray_touchasp_seconds_since_progress{{{RUN}, WorkerId="b"}}': "0+60x200",
            f"ray_touchasp_units_planned{{{RUN}}}": "100x200",
            f'ray_touchasp_units_total{{{RUN}, domain="talk", WorkerId="a"}}': "0+1x200",
            f'ray_touchasp_first_units_kept_ratio{{{RUN}, domain="talk"}}': "0.5x200",
            hours("kept"): "0+90x200",
            hours("kept", worker="b"): "0+90x200",
            hours("rejected", "rover", "wer_and_per"): "0+90x200",
            f'ray_touchasp_recordings_total{{{RUN}, domain="talk", outcome="read"}}': "970x200",
            f'ray_touchasp_recordings_total{{{RUN}, domain="talk", outcome="quarantined", WorkerId="a"}}': "30x200",
            f'ray_touchasp_recordings_total{{{RUN}, domain="talk", outcome="quarantined", WorkerId="b"}}': "30x200",
            f'ray_touchasp_failed_units_total{{{RUN}, stage="Rover"}}': "0x200",
        },
        "90m",
        {},
    ),
    "nothing moves": (
        {f"ray_touchasp_seconds_since_progress{{{RUN}}}": "0+60x60"},
        "45m",
        {"TouchaspNoProgress": RUN},
    ),
    "its driver died in the middle": (
        {
            f"ray_touchasp_units_planned{{{RUN}}}": "100x20 _x60",
            f'ray_touchasp_units_total{{{RUN}, domain="talk"}}': "0+1x20 _x60",
        },
        "45m",
        {"TouchaspRunGone": RUN},
    ),
    "it ended, all units done": (
        {
            f"ray_touchasp_units_planned{{{RUN}}}": "20x20 _x60",
            f'ray_touchasp_units_total{{{RUN}, domain="talk"}}': "0+1x20 _x60",
        },
        "45m",
        {},
    ),
    "all that comes is rejected": (
        {
            f'ray_touchasp_first_units_kept_ratio{{{RUN}, domain="talk"}}': "0.5x200",
            hours("kept"): "0+90x60 5400x140",
            hours("rejected", "rover", "wer_and_per"): "0+90x60 5400+180x140",
        },
        "140m",
        {"TouchaspRetentionHalved": f'{RUN}, domain="talk"'},
    ),
    "four tenths of what was kept at first": (
        {
            f'ray_touchasp_first_units_kept_ratio{{{RUN}, domain="talk"}}': "0.5x200",
            hours("kept"): "0+90x60 5400+36x140",
            hours("rejected", "rover", "wer_and_per"): "0+90x60 5400+144x140",
        },
        "140m",
        {"TouchaspRetentionHalved": f'{RUN}, domain="talk"'},
    ),
    "six tenths of it": (
        {
            f'ray_touchasp_first_units_kept_ratio{{{RUN}, domain="talk"}}': "0.5x200",
            hours("kept"): "0+90x60 5400+54x140",
            hours("rejected", "rover", "wer_and_per"): "0+90x60 5400+126x140",
        },
        "140m",
        {},
    ),
    "all that comes is rejected, but it is little": (
        {
            f'ray_touchasp_first_units_kept_ratio{{{RUN}, domain="talk"}}': "0.5x200",
            hours("kept"): "0+9x60 540x140",
            hours("rejected", "rover", "wer_and_per"): "0+9x60 540+18x140",
        },
        "140m",
        {},
    ),
    "one recording in ten is broken": (
        {
            f'ray_touchasp_recordings_total{{{RUN}, domain="talk", outcome="read"}}': "900x60",
            f'ray_touchasp_recordings_total{{{RUN}, domain="talk", outcome="quarantined"}}': "100x60",
        },
        "45m",
        {"TouchaspQuarantine": RUN},
    ),
    "a unit failed": (
        {f'ray_touchasp_failed_units_total{{{RUN}, stage="Rover"}}': "0x10 1x50"},
        "45m",
        {"TouchaspUnitsFail": f'{RUN}, stage="Rover"'},
    ),
}
"""Series by the minute, when they are looked at, and the labels with which each alert fires then; no other does."""

DRAWN_OF_THE_FIRST_CASE = [
    ("Done A", RUN, 90),
    ("Units left A", RUN, 10),
    ("Retention A", RUN, 50),
    ("Speed of the run A", RUN, 3),
    ("Retention of the last hour, against the plan's first units A", f'{RUN}, domain="talk"', 1),
    ("Recordings in quarantine A", RUN, 3),
]
"""What panels show then: two drivers that export the same count once."""


def test_alerts_fire_when_they_should_and_then_only(tmp_path: Path) -> None:
    """By promtool, which evaluates the rules as Prometheus does."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: install Prometheus (apt-get install prometheus) to evaluate the alert rules")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(monitoring.rule_groups()))
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tests = []
    for name, (series, at, firing) in CASES.items():
        expected = [{"labels": f'{{alertname="{alert}", {labels}}}', "value": 1} for alert, labels in firing.items()]
        firing_now = 'count by (alertname, run, domain, stage) (ALERTS{alertstate="firing"})'
        tests.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": [{"series": one, "values": values} for one, values in series.items()],
                "promql_expr_test": [{"expr": firing_now, "eval_time": at, "exp_samples": expected}],
            }
        )
    drawn = expressions("s3://touchasp/runs/first")
    for place, labels, value in DRAWN_OF_THE_FIRST_CASE:
        asked = {"expr": drawn[place], "eval_time": "90m", "exp_samples": [{"labels": f"{{{labels}}}", "value": value}]}
        tests[0]["promql_expr_test"].append(asked)  # type: ignore[attr-defined]
    assert {alert for _, _, firing in CASES.values() for alert in firing} == alerts, "an alert that never fires"
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
