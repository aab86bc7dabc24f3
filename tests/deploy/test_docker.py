"""Dockerfiles, compose files, the matrix of images and how the plan builder is called."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deploy.memory import needed_bytes
from deploy.tools import ROOT, objects, run
from fakes import DETECTOR_NAME, POSE_NAME, make_repository
from posegate import cli_build
from posegate.cli import app
from posegate.settings import Settings

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
PLATFORMS = tomllib.loads((ROOT / "service" / "posegate" / "platforms.toml").read_text())[
    "platform"
]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path):
    run("hadolint", path)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_are_pinned_and_run_as_nobody_special(path: Path):
    text = path.read_text()
    assert re.findall(r"^USER (\S+)", text, re.M)[-1] == "10001:10001"
    assert "HEALTHCHECK" in text
    for image in re.findall(r"^FROM (\S+)", text, re.M):
        assert re.search(r":(\$\{TAG\}|\d+\.\d+)", image), image
        assert "latest" not in image


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_is_in_the_project_and_in_the_build_context(path: Path):
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    for line in re.findall(r"^COPY (.+)$", path.read_text(), re.M):
        if "--from=" in line:
            continue
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert any(source == one or source.startswith(one + "/") for one in allowed), source


@pytest.mark.parametrize("name", ["compose.yaml", "compose.jetson.yaml"])
def test_compose_accepts_the_file(name: str):
    run("docker-compose", "-f", DOCKER / name, "config", "-q")


def services_of(profile: str) -> dict[str, dict]:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    return {name: one for name, one in services.items() if profile in one["profiles"]}


def test_the_default_composition_is_the_gateway_alone():
    chosen = re.fullmatch(r"COMPOSE_PROFILES=(\w+)\n", (DOCKER / ".env").read_text())[1]
    assert list(services_of(chosen)) == ["gateway"]
    limits = {"POSEGATE_MAX_IMAGES", "POSEGATE_MAX_STREAMS"}
    assert set(services_of(chosen)["gateway"]["environment"]) == limits


@pytest.mark.parametrize(("profile", "name"), [("cpu", "gateway"), ("gpu", "gateway-gpu")])
def test_a_gateway_full_of_the_largest_pictures_is_under_its_memory_limit(profile, name):
    gateway = services_of(profile)[name]
    gibibytes = re.fullmatch(r"(\d+)g", gateway["mem_limit"])[1]
    assert needed_bytes(gateway["environment"]) <= int(gibibytes) * 2**30


@pytest.mark.parametrize("name", ["compose.yaml", "compose.jetson.yaml"])
def test_a_composed_gateway_has_as_long_to_stop_as_one_in_kubernetes(name: str):
    _, deployment = yaml.safe_load_all((ROOT / "k8s" / "base" / "gateway.yaml").read_text())
    grace_s = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    services = yaml.safe_load((DOCKER / name).read_text())["services"]
    gateways = [one for one in services.values() if one["image"].startswith("posegate:")]
    assert {one["stop_grace_period"] for one in gateways} == {f"{grace_s}s"}


def test_the_composition_with_a_gpu_asks_triton_and_is_watched():
    services = services_of("gpu")
    assert set(services) == {"gateway-gpu", "triton", "prometheus", "grafana"}
    gateway = services["gateway-gpu"]
    assert gateway["environment"]["POSEGATE_BACKEND"] == "triton"
    assert gateway["environment"]["POSEGATE_TRITON_URLS"].split(":")[0] in services
    known = {*services, *gateway["networks"]["default"]["aliases"]}
    scraped = yaml.safe_load((ROOT / "monitoring" / "prometheus.yaml").read_text())
    for job in scraped["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            assert target.split(":")[0] in known


def test_the_table_of_images_is_the_matrix():
    text = (DOCKER / "README.md").read_text()
    for row in PLATFORMS:
        machine = f"JetPack {', '.join(row['jetpack'])}" if "jetpack" in row else "desktop"
        tried = "yes" if row["tried"] else "no"
        cells = [row["name"], machine, row["architecture"], f"`{row['triton']}`", tried]
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.parametrize("name", ["compose.yaml", "compose.jetson.yaml"])
def test_every_setting_that_is_named_exists(name: str):
    known = {f"POSEGATE_{field.upper()}" for field in Settings.model_fields}
    services = yaml.safe_load((DOCKER / name).read_text())["services"]
    named = {
        variable
        for service in services.values()
        for variable in service.get("environment", {})
        if variable.startswith("POSEGATE_")
    }
    assert named
    assert named <= known


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_settings_of_images_exist(path: Path):
    named = set(re.findall(r"\bPOSEGATE_[A-Z_]+(?==)", path.read_text()))
    assert named <= {f"POSEGATE_{field.upper()}" for field in Settings.model_fields}


def test_mounted_files_exist():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (DOCKER / volume.split(":")[0]).exists(), volume


def test_default_tags_are_those_of_the_matrix():
    tags = {platform["name"]: platform["triton"] for platform in PLATFORMS}
    for path in (DOCKER / "triton.Dockerfile", DOCKER / "plan-builder.Dockerfile"):
        assert f"ARG TAG={tags['desktop']}\n" in path.read_text()
    assert f"${{TAG:-{tags['jetpack-6']}}}" in (DOCKER / "compose.jetson.yaml").read_text()


def test_triton_is_never_older_than_the_one_that_mended_the_python_backend():
    for platform in PLATFORMS:
        assert tuple(map(int, platform["triton"].split("-")[0].split("."))) >= (25, 8)


def plan_commands(service: str = "plans") -> dict[str, str]:
    """Where plans are built, or networks copied, and by what command."""
    text = (DOCKER / "plan-builder.Dockerfile").read_text().replace("\\\n", "")
    entrypoint, default = (
        json.loads(re.search(rf"^{kind} (\[.*)$", text, re.M)[1]) for kind in ("ENTRYPOINT", "CMD")
    )
    compose = yaml.safe_load((DOCKER / "compose.jetson.yaml").read_text())
    commands = {
        "plan-builder": " ".join(entrypoint + default),
        "compose.jetson": " ".join(entrypoint + compose["services"][service]["command"]),
    }
    for overlay in ("gpu", "jetson"):
        for deployment in objects(overlay, "Deployment"):
            for one in deployment["spec"]["template"]["spec"].get("initContainers", []):
                if one["name"] == service:
                    words = " ".join(one["args"] if "command" in one else entrypoint + one["args"])
                    commands[overlay] = re.search(r"python3 -m posegate [^|&;]+", words)[0].strip()
    return commands


@pytest.mark.parametrize("place", ["compose.jetson", "jetson"])
def test_networks_are_copied_before_a_triton_that_plans_are_built_beside(place, tmp_path):
    repository = make_repository(tmp_path)
    command = plan_commands("networks")[place]
    for folder, ours in (("/onnx", repository), ("/models", tmp_path / "models")):
        command = command.replace(folder, str(ours))
    result = CliRunner().invoke(app, command.split()[3:])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "models" / POSE_NAME / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("place", ["compose.jetson", "plan-builder", "gpu", "jetson"])
def test_the_plan_builder_is_called_with_options_that_it_has(place, tmp_path, monkeypatch):
    """Here, without a GPU, it copies the networks, then says what is missing."""
    repository = make_repository(tmp_path)
    command = plan_commands()[place]
    assert ("--target jetson" in command) == ("jetson" in place)
    for folder, ours in (("/onnx", repository), ("/models", tmp_path / "models")):
        command = command.replace(folder, str(ours))
    monkeypatch.setattr(cli_build, "is_jetson", lambda: "jetson" in place)
    monkeypatch.setattr(cli_build, "find_trtexec", lambda: None)
    program, arguments = command.split()[:3], command.split()[3:]
    assert program == ["python3", "-m", "posegate"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert "needs TensorRT" in result.stderr
    for name in (POSE_NAME, DETECTOR_NAME):
        assert (tmp_path / "models" / name / "1" / "model.onnx").is_file()
