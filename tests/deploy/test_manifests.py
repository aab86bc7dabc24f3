"""What schema checks do not see: selectors, limits, probes, names that must agree."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.tools import OVERLAYS, objects, run
from posegate.api.rest import create_app
from posegate.build import build_pipeline
from posegate.metrics import Metrics
from posegate.settings import Settings

SCHEMALESS = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}  # kinds of operators
COMPONENT = "app.kubernetes.io/component"
PROBES = ("startup", "readiness", "liveness")
UNITS = {"": 1, "m": Decimal("0.001"), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def pods(overlay: str) -> list[dict[str, Any]]:
    return [each["spec"]["template"] for each in objects(overlay, "Deployment")]


def containers(overlay: str) -> list[dict[str, Any]]:
    return [
        container
        for pod in pods(overlay)
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    ]


def amount(text: str) -> Decimal:
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()
    return Decimal(number) * UNITS[unit]


def test_schemas_accept_every_object(overlay, tmp_path: Path):
    known = [each for each in objects(overlay) if each["kind"] not in SCHEMALESS]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(known))
    run("kubernetes-validate", "-k", "1.32", "--strict", tmp_path / "all.yaml")


def test_every_object_is_in_the_namespace(overlay):
    for each in objects(overlay):
        if each["kind"] != "Namespace":
            assert each["metadata"].get("namespace") == "posegate", each["metadata"]["name"]


def test_every_selector_selects_a_pod(overlay):
    labels = [pod["metadata"]["labels"] for pod in pods(overlay)]
    for each in objects(overlay, "Deployment", "PodDisruptionBudget"):
        assert any(selects(each["spec"]["selector"], one) for one in labels), each["metadata"]
    for each in objects(overlay, "Service"):
        assert any(each["spec"]["selector"].items() <= one.items() for one in labels)
    for each in objects(overlay, "NetworkPolicy"):
        assert any(selects(each["spec"]["podSelector"], one) for one in labels), each["metadata"]


def test_deployments_select_their_own_pods_and_nobody_elses(overlay):
    for each in objects(overlay, "Deployment"):
        selector = each["spec"]["selector"]
        chosen = [pod for pod in pods(overlay) if selects(selector, pod["metadata"]["labels"])]
        assert chosen == [each["spec"]["template"]]


def test_spread_constraints_count_their_own_pods(overlay):
    for pod in pods(overlay):
        for constraint in pod["spec"]["topologySpreadConstraints"]:
            assert selects(constraint["labelSelector"], pod["metadata"]["labels"])


def test_service_and_probe_ports_exist_in_the_container(overlay):
    for service in objects(overlay, "Service"):
        for pod in pods(overlay):
            if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items():
                names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for pod in pods(overlay):
        (container,) = pod["spec"]["containers"]
        names = {port["name"] for port in container["ports"]}
        for probe in PROBES:
            assert container[f"{probe}Probe"]["httpGet"]["port"] in names


def test_service_monitors_find_a_service_and_its_port(overlay):
    for monitor in objects(overlay, "ServiceMonitor"):
        found = [
            service
            for service in objects(overlay, "Service")
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
        ]
        assert len(found) == 1
        ports = {port["name"] for port in found[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_probes_ask_for_what_is_served(overlay, repository):
    """Triton's paths are those that tests/triton_server asks a real one for."""
    settings, metrics = Settings(model_repository=repository, threads=1), Metrics()
    gateway = create_app(build_pipeline(settings, metrics), settings, metrics)
    served = {
        "gateway": set(gateway.openapi()["paths"]),
        "triton": {"/v2/health/live", "/v2/health/ready"},
    }
    for pod in pods(overlay):
        (container,) = pod["spec"]["containers"]
        paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in PROBES}
        assert set(paths.values()) <= served[container["name"]]
        assert "live" in paths["liveness"]
        assert "ready" in paths["readiness"]
        assert paths["startup"] == paths["readiness"]


def test_no_request_is_over_its_limit(overlay):
    for container in containers(overlay):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= requests.keys() & limits.keys()
        for what, requested in requests.items():
            assert amount(requested) <= amount(limits[what]), (container["name"], what)


def test_gateway_threads_are_its_cpu_limit(overlay):
    (gateway,) = [one for one in containers(overlay) if one["name"] == "gateway"]
    environment = {one["name"]: one["value"] for one in gateway["env"]}
    assert amount(environment["POSEGATE_THREADS"]) == amount(gateway["resources"]["limits"]["cpu"])


def test_pods_are_restricted(overlay):
    for pod in pods(overlay):
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        for volume in pod["spec"]["volumes"]:
            assert "hostPath" not in volume
    for container in containers(overlay):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]


def test_mounts_name_volumes_that_exist(overlay):
    claims = {claim["metadata"]["name"] for claim in objects(overlay, "PersistentVolumeClaim")}
    for pod in pods(overlay):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounted = pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        names = {mount["name"] for one in mounted for mount in one["volumeMounts"]}
        assert names == volumes.keys()
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims


def test_a_pod_outlives_its_last_request(overlay):
    for pod in pods(overlay):
        (container,) = pod["spec"]["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        waits_s = int(re.search(r"(\d+)\)?$", command[-1])[1])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= waits_s + 30 + 2


def test_a_new_gateway_is_ready_before_an_old_one_goes(overlay):
    deployments = {one["metadata"]["name"]: one for one in objects(overlay, "Deployment")}
    gateway = deployments["posegate-gateway"]
    assert gateway["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_scalers_name_a_deployment(overlay):
    names = {each["metadata"]["name"] for each in objects(overlay, "Deployment")}
    scalers = objects(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    assert len(scalers) == (0 if overlay == "jetson" else 1)
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"]["name"] in names


def test_the_gateway_asks_the_triton_that_is_deployed(overlay):
    (gateway,) = [one for one in containers(overlay) if one["name"] == "gateway"]
    environment = {one["name"]: one["value"] for one in gateway["env"]}
    if overlay == "cpu":
        assert "POSEGATE_BACKEND" not in environment
        return
    name, port = environment["POSEGATE_TRITON_URLS"].split(":")
    (service,) = [one for one in objects(overlay, "Service") if one["metadata"]["name"] == name]
    assert service["spec"]["clusterIP"] == "None"
    assert int(port) in {one["port"] for one in service["spec"]["ports"]}


def flows(overlay: str) -> set[tuple[str, str, str | int]]:
    """(component, direction, port) of all that the policies let through."""
    return {
        (chosen.get(COMPONENT, "all"), direction, port["port"])
        for policy in objects(overlay, "NetworkPolicy")
        for chosen in [policy["spec"]["podSelector"].get("matchLabels", {})]
        for direction in ("ingress", "egress")
        for rule in policy["spec"].get(direction, [])
        for port in rule["ports"]
    }


def test_nothing_is_let_through_but_what_is_needed(overlay):
    (default,) = [
        one for one in objects(overlay, "NetworkPolicy") if not one["spec"]["podSelector"]
    ]
    assert default["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    expected = {("gateway", "ingress", "http"), ("gateway", "ingress", "grpc")}
    if overlay != "cpu":
        expected |= {
            ("gateway", "egress", "grpc"),
            ("gateway", "egress", 53),
            ("triton", "ingress", "grpc"),
            ("triton", "ingress", "metrics"),
        }
    assert flows(overlay) == expected


def test_policies_name_pods_and_ports_that_exist(overlay):
    for policy in objects(overlay, "NetworkPolicy"):
        for side, direction in (("from", "ingress"), ("to", "egress")):
            for rule in policy["spec"].get(direction, []):
                others = [
                    pod
                    for peer in rule.get(side, [])
                    if "namespaceSelector" not in peer
                    for pod in pods(overlay)
                    if selects(peer["podSelector"], pod["metadata"]["labels"])
                ]
                near = [
                    pod
                    for pod in pods(overlay)
                    if selects(policy["spec"]["podSelector"], pod["metadata"]["labels"])
                ]
                assert others or all("namespaceSelector" in one for one in rule.get(side, []))
                for pod in near if direction == "ingress" else others:
                    names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
                    assert {port["port"] for port in rule["ports"]} <= names


def test_plans_are_built_before_triton_starts_and_outlive_it(overlay):
    for deployment in objects(overlay, "Deployment"):
        if deployment["metadata"]["name"] != "posegate-triton":
            continue
        pod = deployment["spec"]["template"]["spec"]
        (job,), (triton,) = pod["initContainers"], pod["containers"]
        where = {mount["mountPath"]: mount["name"] for mount in job["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert "persistentVolumeClaim" in volumes[where["/cache"]]
        assert {"name": where["/models"], "mountPath": "/models", "readOnly": True} in triton[
            "volumeMounts"
        ]
        assert "--model-repository=/models" in triton["args"]
