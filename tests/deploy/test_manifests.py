"""The manifests are valid, as strict as they say, and agree with each other, with the settings, and with the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from model_training import __main__ as training
from model_training import config as training_config
from operators.storage.fetch import Fetch, open_store
from pipeline import config, recipe
from pipeline.executor.cluster import check_fit
from tests.conftest import REPOSITORY
from tests.support import manifests
from tests.support.manifests import ALL, CURATION, Object

KUBERNETES = "1.33"
NOT_MADE_HERE = {"touchasp-s3", "touchasp-ray-token", "touchasp-models", "touchasp-training"}
"""Secrets and claims that a cluster's owner makes. The page on KubeRay says how."""


@pytest.fixture(scope="session")
def schemas(shared: Path) -> dict[str, Object]:
    """KubeRay's own, by kind."""
    folder = shared / "schemas"
    return {
        "RayJob": manifests.custom_schema(folder / "ray.io_rayjobs.yaml"),
        "RayCluster": manifests.custom_schema(folder / "ray.io_rayclusters.yaml"),
    }


def custom_errors(item: Object, schemas: dict[str, Object]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schemas[item["kind"]])
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validator.iter_errors(item)
    ]


@pytest.mark.parametrize("build", [name for name in ALL if name != "training"])
def test_ray_objects_fit_kuberays_schemas(build: str, schemas: dict[str, Object]) -> None:
    found = [item for item in manifests.objects(build) if item["apiVersion"] == "ray.io/v1"]
    assert [item["kind"] for item in found] == (["RayCluster"] if build == "overlays/cluster" else ["RayJob"])
    for item in found:
        assert custom_errors(item, schemas) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backofLimit", 3),
        ("ttlSecondsAfterFinished", "soon"),
        ("rayClusterSpec.authOptions.mode", "password"),
        ("rayClusterSpec.workerGroupSpecs.0.minReplica", 1),
        ("rayClusterSpec.workerGroupSpecs.1.template.spec.containers.0.resources.limits.memory", "32 gigabytes"),
        ("rayClusterSpec.headGroupSpec.template.spec.containers.0.livenessProbe.httpGet.ports", 1),
        ("rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
    ],
)
def test_a_slip_would_be_noticed(path: str, value: object, schemas: dict[str, Object]) -> None:
    job = manifests.one("base", "RayJob")
    put(job["spec"], path, value)
    assert custom_errors(job, schemas)


def put(tree: Any, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for step in parents:
        tree = tree[int(step) if isinstance(tree, list) else step]
    tree[last] = value


@pytest.mark.parametrize("build", ALL)
def test_core_objects_fit_kubernetes_schemas(build: str) -> None:
    for item in manifests.objects(build):
        if item["apiVersion"] not in ("ray.io/v1", "monitoring.coreos.com/v1"):  # test_monitoring.py has the latter
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("build", ALL)
def test_every_pod_fits_kubernetes_schema(build: str) -> None:
    """The schemas of custom resources are an extract: pods are also held against the whole one."""
    found = list(manifests.pods(build))
    assert found
    for pod in found:
        item = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": pod.template["metadata"] | {"name": "x"},
            "spec": pod.spec,
        }
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
        names = {volume["name"] for volume in pod.spec["volumes"]}
        for container in pod.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= names, pod.where


def unsafe(pod: Object, container: Object) -> list[str]:
    """What of the Pod Security Standard "restricted", and of our own rules beyond it, a container breaks."""
    wanted = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    context = container.get("securityContext") or {}
    broken = [name for name, value in wanted.items() if context.get(name) != value]
    broken += [name for name in ("privileged", "procMount", "runAsUser") if name in context]
    broken += [name for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.get(name)]
    kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}
    broken += [volume["name"] for volume in pod["volumes"] if not kinds & volume.keys()]
    broken += [
        volume["name"] for volume in pod["volumes"] if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]
    ]
    for part in ("requests", "limits"):
        given = (container.get("resources") or {}).get(part, {})
        broken += [f"{part}.{name}" for name in ("cpu", "memory") if name not in given]
    return broken


@pytest.mark.parametrize("build", ALL)
def test_no_pod_has_more_rights_than_it_needs(build: str) -> None:
    for pod in manifests.pods(build):
        head = pod.labels["app.kubernetes.io/component"] == "head"
        assert pod.spec["securityContext"]["runAsUser"] == 1000
        # Only the head's autoscaler talks to Kubernetes.
        assert pod.spec["serviceAccountName"] == ("touchasp-head" if head else "touchasp")
        assert head or pod.spec["automountServiceAccountToken"] is False
        for container in [*pod.containers, *([manifests.autoscaler(build)] if head else [])]:
            assert unsafe(pod.spec, container) == [], f"{pod.where} {container['name']}"
    namespace = manifests.one(build, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    "slip", ["securityContext.readOnlyRootFilesystem", "securityContext.capabilities", "resources.limits.memory"]
)
def test_a_lost_guard_would_be_noticed(slip: str) -> None:
    pod = manifests.one("base", "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    *parents, last = slip.split(".")
    tree = pod["containers"][0]
    for step in parents:
        tree = tree[step]
    del tree[last]
    assert unsafe(pod, pod["containers"][0])


@pytest.mark.parametrize("build", [name for name in ALL if name != "training"])
def test_whatever_is_written_lies_on_a_volume(build: str) -> None:
    """The root file system is read-only: Ray's files, spilled objects, downloads and caches need a place."""
    settings = settings_of(build)
    for group in manifests.groups(build):
        container = group["template"]["spec"]["containers"][0]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        home = next(entry["value"] for entry in container["env"] if entry["name"] == "HOME")
        spill = group["rayStartParams"]["object-spilling-directory"]
        assert {home, spill, settings.execution.scratch, "/tmp", "/dev/shm"} <= writable, group["groupName"]
        read_only = {mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")}
        for model in (settings.asr.model, *settings.copilot.models.values()):
            assert not model.startswith("/") or any(model.startswith(f"{path}/") for path in read_only), model


def settings_of(build: str) -> config.Settings:
    """The run's settings, from the ConfigMap, by the product's own loader: unknown keys are errors."""
    content = yaml.safe_load(manifests.one(build, "ConfigMap", "touchasp-curation")["data"]["curation.yaml"])
    return config.restore(content)


@pytest.mark.parametrize("build", [name for name in ALL if name != "training"])
def test_the_nodes_that_are_there_from_the_start_hold_the_run(build: str) -> None:
    """`run` refuses a cluster that cannot hold its smallest pools, so the autoscaler would come too late for those."""
    settings = settings_of(build)
    stages = recipe.build(settings, open_store("unused", settings.s3), Fetch(settings.s3))
    head, *workers = manifests.groups(build)
    assert manifests.logical(head) == (0.0, 0.0), "no work on the head"
    for group in workers:
        assert group["minReplicas"] == group["replicas"] <= group["maxReplicas"]
    check_fit(stages, [manifests.logical(group) for group in workers for _ in range(group["minReplicas"])])
    # And the largest pools fit the largest cluster, or the settings promise what never comes.
    for index, kind in enumerate(("cpus", "gpus")):
        most = sum(getattr(stage.resources, kind) * stage.resources.max_workers for stage in stages)
        offered = sum(manifests.logical(group)[index] * group["maxReplicas"] for group in workers)
        assert most <= offered, kind
    if any(manifests.logical(group)[1] for group in workers):
        assert settings.asr.device == settings.copilot.device == "cuda"
    else:
        assert settings.asr.device == settings.copilot.device == "cpu"


@pytest.mark.parametrize("build", [name for name in ALL if name != "training"])
def test_the_object_store_lies_in_memory(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's own choice of its size and place. On a pod's /tmp it would be a disk's speed; its pages are the pod's
    memory.
    """
    from ray._private import services, utils

    for group in manifests.groups(build):
        name = group["groupName"]
        memory = manifests.quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        shared = manifests.shared_memory(group)
        monkeypatch.setattr("ray._private.utils.get_shared_memory_bytes", lambda shared=shared: shared)
        monkeypatch.setattr("ray._common.utils.get_system_memory", lambda memory=memory: memory)
        asked = group["rayStartParams"].get("object-store-memory")
        store = utils.resolve_object_store_memory(int(memory), asked and int(asked))
        place, _, size = services.determine_plasma_store_config(store, "/tmp")
        assert (place, size) == ("/dev/shm", store), name
        assert store <= 0.9 * shared, f"{name}: the raylet leaves a tenth of /dev/shm free"
        assert store <= 0.3 * memory, f"{name}: Ray's own share, which leaves the rest to workers"


@pytest.mark.parametrize("build", ["overlays/gpu", "overlays/spot", "overlays/cluster", "training"])
def test_a_worker_fits_a_machine_of_eight_cores_and_32_gib(build: str) -> None:
    """Kubernetes and its agents keep some of both for themselves."""
    for pod in manifests.pods(build):
        asked = [container["resources"]["requests"] for container in pod.containers]
        assert sum(manifests.quantity(one["cpu"]) for one in asked) <= 7, pod.where
        assert sum(manifests.quantity(one["memory"]) for one in asked) <= 26 * 2**30, pod.where


@pytest.mark.parametrize("build", CURATION)
def test_kuberays_controller_takes_the_job(build: str) -> None:
    """Its rules beyond the schema: controllers/ray/utils/validation.go."""
    job = manifests.one(build, "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert len(job["metadata"]["name"]) <= 47
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for group in manifests.groups(build):
        assert group["template"]["spec"]["restartPolicy"] == "Never", "the autoscaler's second version asks for it"
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins, "KubeRay acts by the version it is told"
    assert cluster["authOptions"] == {"mode": "token", "secretName": "touchasp-ray-token"}


@pytest.mark.parametrize("build", ALL)
def test_policies_and_budgets_meet_the_pods(build: str) -> None:
    found = list(manifests.pods(build))

    def chosen(selector: Object) -> list[manifests.PodTemplate]:
        return [pod for pod in found if selector["matchLabels"].items() <= pod.labels.items()]

    policies = {
        item["metadata"]["name"]: item["spec"] for item in manifests.objects(build) if item["kind"] == "NetworkPolicy"
    }
    assert set(policies["touchasp"]["policyTypes"]) == {"Ingress", "Egress"}
    assert len(chosen(policies["touchasp"]["podSelector"])) == len(found), "a pod without walls"
    if build == "training":
        return
    heads = [pod for pod in found if pod.where.endswith("head")]
    assert chosen(policies["touchasp-operator"]["podSelector"]) == heads
    budget = manifests.one(build, "PodDisruptionBudget")["spec"]
    assert chosen(budget["selector"]) == heads
    assert isinstance(budget["minAvailable"], int)


def test_the_rule_for_credential_agents_is_whole_without_its_comment_marks() -> None:
    """As it stands, no pod reaches the addresses of cloud metadata."""
    text = (manifests.K8S / "common" / "network-policy.yaml").read_text(encoding="utf-8")
    opened = re.sub(r"(?m)^    # (?=[- ] )", "    ", text)
    (before, after) = (next(yaml.safe_load_all(each)) for each in (text, opened))
    kubernetes_validate.validate(after, KUBERNETES, strict=True)
    *rest, rule = after["spec"]["egress"]
    assert rest == before["spec"]["egress"]
    assert {each["ipBlock"]["cidr"] for each in rule["to"]} == {"169.254.170.23/32", "169.254.169.254/32"}
    assert rule["ports"] == [{"protocol": "TCP", "port": 80}]
    (outside,) = (each["ipBlock"] for allowed in rest for each in allowed["to"] if "ipBlock" in each)
    assert outside["except"] == ["169.254.0.0/16"]


def references(tree: Any) -> set[str]:
    """Names of Secrets, ConfigMaps, claims and accounts that something asks for."""
    if isinstance(tree, list):
        return set().union(*map(references, tree))
    if not isinstance(tree, dict):
        return set()
    found = set().union(*map(references, tree.values()))
    for key, field in (("secretKeyRef", "name"), ("configMap", "name"), ("persistentVolumeClaim", "claimName")):
        if isinstance(tree.get(key), dict):
            found.add(tree[key][field])
    return found | {str(tree[key]) for key in ("serviceAccountName", "secretName") if key in tree}


@pytest.mark.parametrize("build", ALL)
def test_what_is_referred_to_is_made_here_or_documented(build: str) -> None:
    made = {
        item["metadata"]["name"] for item in manifests.objects(build) if item["kind"] in ("ConfigMap", "ServiceAccount")
    }
    asked = references(manifests.objects(build))
    assert asked <= made | NOT_MADE_HERE
    page = (REPOSITORY / "docs" / "how-to" / "run-on-kuberay.md").read_text(encoding="utf-8")
    for name in asked & NOT_MADE_HERE:
        assert name in page
    assert not [item for item in manifests.objects(build) if item["kind"] == "Secret"], (
        "secrets stand in no file of ours"
    )


def test_the_cluster_that_stays_is_the_jobs() -> None:
    """One description of pods for both ways of running."""
    cluster = manifests.one("overlays/cluster", "RayCluster")
    assert cluster["spec"] == manifests.one("overlays/gpu", "RayJob")["spec"]["rayClusterSpec"]
    assert not [item for item in manifests.objects("overlays/cluster") if item["kind"] == "RayJob"]
    command = manifests.one("overlays/cluster", "Job")["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--address=http://{cluster['metadata']['name']}-head-svc:8265" in command, "the service that KubeRay makes"


def test_spot_machines_for_workers_only() -> None:
    head, *workers = manifests.groups("overlays/spot")

    def terms(group: Object) -> list[Object]:
        affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
        return affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    def takes(group: Object, labels: dict[str, str]) -> bool:
        def holds(rule: Object) -> bool:
            value = labels.get(rule["key"])
            return {
                "In": value in rule.get("values", ()),
                "NotIn": value not in rule.get("values", ()),
                "DoesNotExist": value is None,
            }[rule["operator"]]

        return any(all(holds(rule) for rule in term["matchExpressions"]) for term in terms(group))

    spots = [
        {"karpenter.sh/capacity-type": "spot"},
        {"cloud.google.com/gke-spot": "true"},
        {"eks.amazonaws.com/capacityType": "SPOT"},
        {"kubernetes.azure.com/scalesetpriority": "spot"},
    ]
    for labels in spots:
        assert not takes(head, labels)
        assert all(takes(group, labels) for group in workers)
    for labels in ({}, {"karpenter.sh/capacity-type": "on-demand"}, {"eks.amazonaws.com/capacityType": "ON_DEMAND"}):
        assert takes(head, labels)
        assert not any(takes(group, labels) for group in workers)


def test_the_training_command_is_one_that_the_trainer_takes() -> None:
    """Arguments, preset and settings, by the trainer's own parser and loader; checkpoints outlive the pod."""
    spec = manifests.one("training", "Job")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    program, arguments = container["command"][:3], container["command"][3:]
    assert program == ["python", "-m", "model_training"]
    options = training.parser().parse_args(arguments)
    assert options.command == "train"
    assert options.data.startswith("s3://")
    settings = training_config.load(options.config, options.settings)
    assert settings.train.device == "cuda"
    claimed = {volume["name"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume}
    kept = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in claimed]
    assert any(options.out.startswith(f"{path}/") for path in kept)


def test_the_image_of_the_trial_is_the_one_that_the_page_builds() -> None:
    (image,) = {container["image"] for pod in manifests.pods("overlays/dev") for container in pod.containers}
    page = (REPOSITORY / "docs" / "how-to" / "run-on-kuberay.md").read_text(encoding="utf-8")
    assert f"docker build -f deploy/Dockerfile --target cpu -t {image} ." in page
    assert f"kind load docker-image {image}" in page


@pytest.mark.parametrize("build", ["overlays/gpu", "overlays/spot", "overlays/cluster", "training"])
def test_images_are_named_by_version(build: str) -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    assert found
    for pod in manifests.pods(build):
        gpu = any("nvidia.com/gpu" in container["resources"]["limits"] for container in pod.containers)
        for container in pod.containers:
            assert container["image"].endswith(f"/touchasp:{found[1]}-{'cuda' if gpu else 'cpu'}"), pod.where
