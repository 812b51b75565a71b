"""What the manifests under deploy/k8s become: kustomize builds them, and their pods and schemas are taken apart here.

deploy/k8s/overlays/NAME ──kubectl kustomize──> objects ──pods()──> every pod template, inside custom resources too
CustomResourceDefinition ──closed()──> JSON schema that also refuses unknown fields
"""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

K8S = REPOSITORY / "deploy" / "k8s"
CURATION = ("base", "overlays/dev", "overlays/gpu", "overlays/spot")
"""Builds that hold the RayJob."""
ALL = (*CURATION, "overlays/cluster", "training")

Object = dict[str, Any]


@functools.cache
def _built(name: str) -> str:
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if not (kubectl or kustomize):
        pytest.skip("neither kubectl nor kustomize is installed: the overlays cannot be built")
    command = [kubectl, "kustomize"] if kubectl else [str(kustomize), "build"]
    done = subprocess.run(
        [*command, str(K8S / name)],
        capture_output=True,
        text=True,
        env=os.environ | {"KUBECONFIG": os.devnull},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns about {name}: {done.stderr}"
    return done.stdout


@functools.cache
def _loaded(name: str) -> list[Object]:
    return [item for item in yaml.load_all(_built(name), Loader=yaml.CSafeLoader) if item]


def objects(name: str) -> list[Object]:
    """What a build holds, as Kubernetes would be given it. The caller may change what it gets."""
    return copy.deepcopy(_loaded(name))


def one(name: str, kind: str, called: str | None = None) -> Object:
    """The only object of a kind, or the one of a name."""
    found = [item for item in objects(name) if item["kind"] == kind and called in (None, item["metadata"]["name"])]
    assert len(found) == 1, f"{name} holds {len(found)} objects of kind {kind}"
    return found[0]


def cluster_spec(name: str) -> Object:
    """The RayClusterSpec of a build: its RayJob's, or its RayCluster's."""
    kinds = {item["kind"]: item for item in objects(name)}
    spec: Object = kinds["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in kinds else kinds["RayCluster"]["spec"]
    return spec


def groups(name: str) -> list[Object]:
    """Head group first, then the worker groups."""
    spec = cluster_spec(name)
    return [spec["headGroupSpec"] | {"groupName": "head"}, *spec["workerGroupSpecs"]]


@dataclass(frozen=True, slots=True)
class PodTemplate:
    where: str
    template: Object

    @property
    def spec(self) -> Object:
        return self.template["spec"]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.template["metadata"]["labels"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(name: str) -> Iterator[PodTemplate]:
    """Every pod that a build will lead to. What KubeRay adds beside a head is `autoscaler`."""
    for item in objects(name):
        label = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Job":
            yield PodTemplate(label, item["spec"]["template"])
        if item["kind"] == "RayJob":
            yield PodTemplate(f"{label} submitter", item["spec"]["submitterPodTemplate"])
        if item["kind"] in ("RayJob", "RayCluster"):
            for group in groups(name):
                yield PodTemplate(f"{label} {group['groupName']}", group["template"])


def autoscaler(name: str) -> Object:
    """The container that KubeRay puts beside the head, as far as it is ours to say."""
    options: Object = cluster_spec(name)["autoscalerOptions"]
    return {"name": "autoscaler", **{key: options.get(key) for key in ("resources", "securityContext", "volumeMounts")}}


def custom_schema(definition: Path) -> Object:
    """The schema of a definition's v1, closed: Kubernetes drops what it does not know, here it is refused."""
    content = yaml.load(definition.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    version = next(version for version in content["spec"]["versions"] if version["name"] == "v1")
    schema: Object = version["schema"]["openAPIV3Schema"]
    schema["properties"].pop("status", None)
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, the same for all kinds
    return closed(schema)


def closed(schema: Any) -> Any:
    """A structural schema with `additionalProperties: false` wherever it lists properties."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part) for key, part in schema.items()}
    listed = isinstance(schema.get("properties"), dict)
    if listed and schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number: 200m is 0.2, 24Gi is 24 * 2**30."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    for unit, factor in sorted(units.items(), key=lambda item: -len(item[0])):
        if str(text).endswith(unit):
            return float(str(text)[: -len(unit)]) * factor
    return float(text)


def shared_memory(group: Object) -> float:
    """Bytes that a group's /dev/shm may hold."""
    spec = group["template"]["spec"]
    (name,) = (mount["name"] for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm")
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == name)
    return quantity(volume["emptyDir"]["sizeLimit"])


def logical(group: Object) -> tuple[float, float]:
    """CPUs and GPUs that a node of a group offers to Ray: rayStartParams, else the limits of its container."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus = group["rayStartParams"].get("num-cpus") or quantity(limits["cpu"])
    return float(cpus), quantity(limits.get("nvidia.com/gpu", 0))
