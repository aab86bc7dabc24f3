"""Alert rules, dashboards and autoscaler queries name metrics that exist, and alerts fire."""

import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest
import yaml

from deploy.tools import ROOT, run, tool
from posegate.metrics import Metrics
from triton_server.serving import (
    TritonProcess,
    free_port,
    make_backends,
    make_triton_repository,
    triton_folder,
)

RULES = ROOT / "monitoring" / "rules.yaml"
COMPONENTS = ROOT / "k8s" / "components"
SCALED = ("", "-triton")
"""Endings of the autoscaling components: of the gateways, of the Tritons."""
DASHBOARD = COMPONENTS / "monitoring" / "dashboard.json"
TRITON = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count",
    "nv_inference_exec_count", "nv_inference_queue_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_gpu_utilization", "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
}  # fmt: skip


def expressions() -> list[str]:
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        *(rule["expr"] for rule in rules),
        *(target["expr"] for panel in panels for target in panel["targets"]),
        *(keda_trigger(scaled)["metadata"]["query"] for scaled in SCALED),
        *(adapter_query(rule) for rule in adapter_rules()),
    ]


def adapter_rules() -> list[dict]:
    """Of the gateways, of the Tritons."""
    path = COMPONENTS / "autoscaling-hpa" / "prometheus-adapter.yaml"
    return yaml.safe_load(path.read_text())["rules"]["custom"]


def adapter_query(rule: dict) -> str:
    """prometheus-adapter's query, its templates filled in as the adapter does."""
    matchers = 'namespace="posegate",pod=~"a|b"'
    return (
        rule["metricsQuery"].replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")
    )


def keda_trigger(scaled: str) -> dict:
    """The one that asks Prometheus."""
    path = COMPONENTS / f"autoscaling-keda{scaled}" / "scaledobject.yaml"
    triggers = yaml.safe_load(path.read_text())["spec"]["triggers"]
    (found,) = [trigger for trigger in triggers if trigger["type"] == "prometheus"]
    return found


def known_series() -> set[str]:
    names = set(TRITON)
    for family in Metrics().registry.collect():
        names |= {family.name + end for end in ("", "_total", "_bucket", "_sum", "_count")}
    rules = yaml.safe_load(RULES.read_text())["groups"]
    return names | {
        rule["record"] for group in rules for rule in group["rules"] if "record" in rule
    }


def test_every_series_asked_for_exists():
    asked = set(re.findall(r"\b(?:posegate|nv)[_:][a-z0-9_:]+", " ".join(expressions())))
    assert asked <= known_series()


@pytest.mark.slow
def test_triton_really_has_the_series_asked_for(repository: Path, tmp_path: Path):
    """Those about GPUs only where there is one."""
    if triton_folder() is None:
        pytest.skip("nvidia-pytriton is not installed; make test-deploy does it")
    served = make_triton_repository(repository, tmp_path)
    with TritonProcess(served, make_backends(tmp_path), tmp_path / "log") as server:
        has = set(re.findall(r"^# TYPE (\w+)", server.metrics(), re.M))
    assert {name for name in TRITON if not name.startswith("nv_gpu")} <= has


@pytest.mark.parametrize(
    ("scaled", "rule", "target", "seconds"),
    [("", 0, "100m", 0.1), ("-triton", 1, "50m", 0.05)],
    ids=["gateway", "triton"],
)
def test_autoscalers_ask_for_the_same_age(scaled: str, rule: int, target: str, seconds: float):
    hpa = yaml.safe_load((COMPONENTS / f"autoscaling-hpa{scaled}" / "hpa.yaml").read_text())
    adapter = adapter_rules()[rule]
    (age,) = [one["pods"] for one in hpa["spec"]["metrics"] if one["type"] == "Pods"]
    assert age["metric"]["name"] == adapter["name"]["as"]
    assert re.fullmatch(adapter["name"]["matches"], adapter["seriesQuery"].partition("{")[0])
    assert age["target"]["averageValue"] == target
    assert float(keda_trigger(scaled)["metadata"]["threshold"]) == seconds


def test_scalers_see_what_waits_in_tritons_queue(tmp_path: Path):
    """Two Tritons: the slower of a's networks waits 0.3 s, b's waits 0.1 s."""
    waits_us = {("a", "pose"): 300_000, ("a", "detect"): 10_000, ("b", "pose"): 100_000}
    series = [
        {"series": f'{name}{{namespace="posegate",pod="{pod}",model="{model}"}}', "values": values}
        for (pod, model), wait_us in waits_us.items()
        for name, values in (
            ("nv_inference_queue_duration_us", f"0+{wait_us * 150}x20"),
            ("nv_inference_request_success", "0+150x20"),
        )
    ]
    asked = {
        adapter_query(adapter_rules()[1]): [
            {"labels": '{pod="a"}', "value": 0.3},
            {"labels": '{pod="b"}', "value": 0.1},
        ],
        keda_trigger("-triton")["metadata"]["query"]: [{"labels": "{}", "value": 0.4}],
    }
    check_samples(tmp_path, series, asked)


def test_an_idle_fleet_waits_no_time_at_all(tmp_path: Path):
    """An HPA without a sample would never shrink it; KEDA takes no sample for 0."""
    names = (
        'posegate_queue_age_seconds_bucket{le="0.05",',
        'posegate_queue_age_seconds_bucket{le="+Inf",',
        "nv_inference_queue_duration_us{",
        "nv_inference_request_success{",
    )
    series = [
        {"series": f'{name}namespace="posegate",pod="{pod}",model="m"}}', "values": "100x20"}
        for name in names
        for pod in ("a", "b")
    ]
    idle = [{"labels": f'{{pod="{pod}"}}', "value": 0} for pod in ("a", "b")]
    check_samples(tmp_path, series, {adapter_query(rule): idle for rule in adapter_rules()})


def test_an_idle_gateway_does_not_hide_what_waits_in_another(tmp_path: Path):
    """Of a's crops half wait up to 0.25 s, half up to 0.5 s; b has none."""
    name = "posegate_queue_age_seconds_bucket"
    values = {("a", "0.25"): "0+75x20", ("a", "0.5"): "0+150x20", ("a", "+Inf"): "0+150x20"}
    values |= {("b", le): "100x20" for le in ("0.25", "0.5", "+Inf")}
    series = [
        {"series": f'{name}{{namespace="posegate",pod="{pod}",le="{le}"}}', "values": each}
        for (pod, le), each in values.items()
    ]
    samples = [{"labels": '{pod="a"}', "value": 0.475}, {"labels": '{pod="b"}', "value": 0}]
    check_samples(tmp_path, series, {adapter_query(adapter_rules()[0]): samples})


def check_samples(
    tmp_path: Path, series: list[dict], asked: dict[str, list[dict]], rules: dict | None = None
) -> None:
    """Each expression gives these samples after four minutes of the series, and of the rules."""
    tests = [
        {"expr": expression, "eval_time": "4m", "exp_samples": samples}
        for expression, samples in asked.items()
    ]
    test = {"interval": "15s", "input_series": series, "promql_expr_test": tests}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules or {"groups": []}))
    whole = {"rule_files": ["rules.yaml"], "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(whole))
    run("promtool", "test", "rules", tmp_path / "test.yaml")


def test_promtool_understands_every_expression(tmp_path: Path):
    rules = [
        {"record": f"test:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions())
    ]
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]})
    )
    run("promtool", "check", "rules", tmp_path / "rules.yaml")


def test_alerts_fire_when_they_should_and_only_then():
    run("promtool", "check", "rules", RULES)
    run("promtool", "test", "rules", "rules_test.yaml", cwd=RULES.parent)


def test_every_alert_has_a_firing_test():
    rules = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((RULES.parent / "rules_test.yaml").read_text())["tests"]
    fired = {
        row["alertname"] for test in tests for row in test["alert_rule_test"] if "exp_alerts" in row
    }
    assert alerts == fired


def test_kubernetes_gets_the_same_rules():
    assert cluster_rules() == yaml.safe_load(RULES.read_text())


def cluster_rules() -> dict:
    return yaml.safe_load((COMPONENTS / "monitoring" / "rules.yaml").read_text())["spec"]


def test_every_sum_in_a_rule_keeps_namespaces_apart():
    """Prometheus evaluates each namespace's copy of the rules over the series of all."""
    over_all = r"(?<!:)\b(sum|min|max|avg|count)\b(?! by \((\w+, )*namespace\b)"
    for group in cluster_rules()["groups"]:
        for rule in group["rules"]:
            assert not re.search(over_all, rule["expr"]), rule


def test_alerts_are_about_one_namespace_however_well_another_does(tmp_path: Path):
    """In south all of a few requests fail and gateways go; north answers very many."""
    requests = 'posegate_request_seconds_count{route="/v1/poses"'
    values = {
        f'{requests},code="200",namespace="north"}}': "0+90000x20",
        f'{requests},code="503",namespace="south"}}': "0+15x20",
        'posegate_backend_up{namespace="north"}': "1x20",
        'posegate_backend_up{namespace="south"}': "1x4 stale",
    }
    series = [{"series": name, "values": each} for name, each in values.items()]
    firing_for = 'count by (alertname, namespace) (ALERTS{alertstate="firing"})'
    ratio = "posegate:request_errors:ratio5m"
    asked = {
        firing_for: [
            {"labels": f'{{alertname="{alert}",namespace="south"}}', "value": 1}
            for alert in ("PosegateAbsent", "PosegateErrors")
        ],
        ratio: [
            {"labels": f'{ratio}{{namespace="north"}}', "value": 0},
            {"labels": f'{ratio}{{namespace="south"}}', "value": 1},
        ],
    }
    check_samples(tmp_path, series, asked, cluster_rules())


def test_every_panel_shows_the_chosen_namespace():
    dashboard = json.loads(DASHBOARD.read_text())
    (chosen,) = [one for one in dashboard["templating"]["list"] if one["name"] == "namespace"]
    assert chosen["allValue"] == ".*", "compose has no namespaces"
    of_chosen = re.escape('{namespace=~"$namespace"')
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert not re.search(rf"\b(posegate|nv)[_:][a-z0-9_:]++(?!{of_chosen})", target["expr"])


def test_dashboard_panels_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})


@pytest.mark.slow
def test_a_live_prometheus_fires_an_alert_about_a_backend_that_is_down(tmp_path: Path):
    from prometheus_client import start_http_server

    metrics = Metrics()
    metrics.backend_up.labels("triton").set(0)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = "1s"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    target = f"127.0.0.1:{server.server_port}"
    config = {
        "global": dict.fromkeys(
            ("scrape_interval", "scrape_timeout", "evaluation_interval"), "500ms"
        ),
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": "posegate", "static_configs": [{"targets": [target]}]},
        ],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    process = Popen(
        [
            tool("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        expected = {"PosegateBackendDown"}
        assert firing(port, until=lambda names: names == expected) == expected
        metrics.backend_up.labels("triton").set(1)
        assert firing(port, until=lambda names: not names) == set()
    finally:
        process.terminate()
        process.wait(20)
        server.shutdown()
        server.server_close()
        thread.join()


def firing(port: int, *, until) -> set[str]:
    """Names of the alerts that fire, once `until` holds of them."""
    query = urllib.parse.urlencode({"query": 'ALERTS{alertstate="firing"}'})
    ends, names = time.monotonic() + 40, set()
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}") as page:
                rows = json.load(page)["data"]["result"]
            names = {row["metric"]["alertname"] for row in rows}
            if until(names):
                return names
        except OSError:
            pass
        time.sleep(0.3)
    return names
