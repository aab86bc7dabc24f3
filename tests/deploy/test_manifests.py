"""What schema checks do not see: selectors, limits, probes, names that must agree."""

import re
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.memory import needed_bytes
from deploy.tools import OVERLAYS, ROOT, objects, rendered, run
from posegate.api.rest import create_app
from posegate.build import build_pipeline
from posegate.catalog import load_catalog
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


def test_another_namespace_is_one_line_of_an_overlay(overlay, tmp_path: Path):
    """KEDA's queries, which name it, follow."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    path = tmp_path / "k8s" / "overlays" / overlay / "kustomization.yaml"
    path.write_text(path.read_text().replace("namespace: posegate\n", "namespace: north\n"))
    text = rendered(overlay, tmp_path / "k8s")
    for each in yaml.safe_load_all(text):
        meta = each["metadata"]
        assert meta["name" if each["kind"] == "Namespace" else "namespace"] == "north"
    named = re.findall(r'[{,]namespace="(\w+)"', text)
    assert named == ["north"] * (3 if overlay == "gpu-keda" else 0)


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
            assert "exec" in container[f"{probe}Probe"] or (
                container[f"{probe}Probe"]["httpGet"]["port"] in names
            )


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
    """Triton's paths are asked of a real one in test_triton_probes.py."""
    settings, metrics = Settings(model_repository=repository, threads=1), Metrics()
    gateway = create_app(build_pipeline(settings, metrics), settings, metrics)
    asked = {
        container["name"]: [path_of(container[f"{kind}Probe"]) for kind in PROBES]
        for pod in pods(overlay)
        for container in pod["spec"]["containers"]
    }
    assert asked["gateway"] == ["/livez", "/readyz", "/livez"]
    assert set(asked["gateway"]) <= set(gateway.openapi()["paths"])
    if overlay != "cpu":
        catalog = load_catalog(ROOT / "model_repository")
        defaults = sorted(catalog.get(None, task).name for task in ("pose", "detect"))
        ready = f"/v2/models/{{{','.join(defaults)}}}/ready"
        assert asked["triton"] == ["/v2/health/live", ready, "/v2/health/live"]


def path_of(probe: dict[str, Any]) -> str:
    """What the probe asks for, itself or by curl."""
    if "exec" not in probe:
        return probe["httpGet"]["path"]
    return probe["exec"]["command"][-1].removeprefix("http://127.0.0.1:8000")


def test_no_request_is_over_its_limit(overlay):
    for container in containers(overlay):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= requests.keys() & limits.keys()
        for what, requested in requests.items():
            assert amount(requested) <= amount(limits[what]), (container["name"], what)


def test_gateway_threads_are_its_cpu_limit(overlay):
    gateway, environment = gateway_and_environment(overlay)
    assert amount(environment["POSEGATE_THREADS"]) == amount(gateway["resources"]["limits"]["cpu"])


def test_a_gateway_full_of_the_largest_pictures_is_under_its_memory_limit(overlay):
    gateway, environment = gateway_and_environment(overlay)
    assert needed_bytes(environment) <= amount(gateway["resources"]["limits"]["memory"])


def gateway_and_environment(overlay: str) -> tuple[dict[str, Any], dict[str, str]]:
    (gateway,) = [one for one in containers(overlay) if one["name"] == "gateway"]
    return gateway, {one["name"]: one["value"] for one in gateway["env"]}


def test_pods_are_restricted(overlay):
    for pod in pods(overlay):
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False  # POSEGATE_GRPC_PORT of a Service
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
        assert pod["spec"]["terminationGracePeriodSeconds"] >= waits_s + 30 + 12


def test_a_new_gateway_is_ready_before_an_old_one_goes(overlay):
    deployments = {one["metadata"]["name"]: one for one in objects(overlay, "Deployment")}
    gateway = deployments["posegate-gateway"]
    assert gateway["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_gateway_may_take_as_long_to_be_ready_as_the_triton_it_waits_for(overlay):
    deadlines = {
        one["metadata"]["name"]: one["spec"]["progressDeadlineSeconds"]
        for one in objects(overlay, "Deployment")
    }
    assert deadlines["posegate-gateway"] == deadlines.get("posegate-triton", 300)


def test_scalers_name_a_deployment(overlay):
    names = {each["metadata"]["name"] for each in objects(overlay, "Deployment")}
    scalers = objects(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    scaled = [scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers]
    assert sorted(scaled) == ([] if overlay == "jetson" else sorted(names))


def test_applying_again_does_not_shrink_what_a_scaler_has_grown(overlay):
    scalers = objects(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers}
    for each in objects(overlay, "Deployment"):
        assert ("replicas" in each["spec"]) != (each["metadata"]["name"] in scaled)


def test_keda_knows_where_to_go_when_prometheus_is_down(overlay):
    """Its fallback is refused before KEDA 2.18 unless some figure is an AverageValue."""
    for scaler in objects(overlay, "ScaledObject"):
        triggers = [one for one in scaler["spec"]["triggers"] if one["type"] == "prometheus"]
        assert {one["metricType"] for one in triggers} == {"AverageValue"}
        assert scaler["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    if overlay == "gpu-keda":
        (gateway,) = [
            one
            for one in objects(overlay, "ScaledObject")
            if one["metadata"]["name"] == "posegate-gateway"
        ]
        assert [one["type"] for one in gateway["spec"]["triggers"]] == ["prometheus", "cpu"]


def test_every_setting_that_is_named_exists(overlay):
    known = {f"POSEGATE_{name.upper()}" for name in Settings.model_fields}
    named = {
        variable["name"]
        for container in containers(overlay)
        for variable in container.get("env", [])
        if variable["name"].startswith("POSEGATE_")
    }
    assert named <= known


def test_every_image_is_built_by_a_command_that_is_written_down(overlay):
    heads = "".join(path.read_text() for path in (ROOT / "docker").glob("*.Dockerfile"))
    built = set(re.findall(r"^#.* -t (\S+) \.$", heads, re.M))
    assert {container["image"] for container in containers(overlay)} <= built


def test_the_gateway_asks_the_triton_that_is_deployed(overlay):
    _, environment = gateway_and_environment(overlay)
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


def test_plans_are_built_before_or_beside_triton_and_outlive_it(overlay):
    for deployment in objects(overlay, "Deployment"):
        if deployment["metadata"]["name"] != "posegate-triton":
            continue
        pod = deployment["spec"]["template"]["spec"]
        (*before, builder), (triton,) = pod["initContainers"], pod["containers"]
        where = {mount["mountPath"]: mount["name"] for mount in builder["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert "persistentVolumeClaim" in volumes[where["/cache"]]
        assert volumes[where["/photos"]]["configMap"]["optional"] is True
        assert {"name": where["/models"], "mountPath": "/models", "readOnly": True} in triton[
            "volumeMounts"
        ]
        assert "--model-repository=/models" in triton["args"]
        beside = builder.get("restartPolicy") == "Always"
        assert beside == (overlay == "jetson")
        assert [one["name"] for one in before] == (["networks"] if beside else [])
        assert ("--triton-urls" in builder["args"][-1]) == beside
        told = {"--model-control-mode=explicit", "--load-model=*"} & set(triton["args"])
        assert len(told) == (2 if beside else 0)
        asked = [one["resources"]["limits"].get("nvidia.com/gpu") for one in (builder, triton)]
        assert asked == [None if beside else "1", "1"], "a pod may ask for one GPU"
