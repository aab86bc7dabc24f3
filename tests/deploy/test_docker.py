"""Dockerfiles, compose files, the matrix of images and the plan builder."""

import importlib.util
import json
import os
import re
import stat
import tomllib
from pathlib import Path

import pytest
import yaml

from deploy.tools import ROOT, run
from fakes import DETECTOR_NAME, POSE_NAME, make_repository

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


def test_the_default_composition_is_the_gateway_alone():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert [name for name, one in services.items() if "profiles" not in one] == ["gateway"]
    assert {one["profiles"][0] for one in services.values() if "profiles" in one} == {"gpu"}


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


def fake_trtexec(folder: Path, *, fails_for: str = "nothing") -> None:
    """A trtexec that writes a plan, except for one network."""
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(
        "#!/bin/sh\n"
        'echo "TensorRT v101300"\n'
        f'case "$*" in *{fails_for}*) exit 1;; esac\n'
        'for a in "$@"; do case "$a" in --saveEngine=*) echo plan > "${a#*=}";; esac; done\n'
        'echo "$@" >> "$CALLS"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def builder():
    spec = importlib.util.spec_from_file_location(
        "plans", DOCKER / "plan-builder" / "build_plans.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    repository = make_repository(tmp_path)
    for name in (POSE_NAME, DETECTOR_NAME):
        (repository / name / "config.pbtxt").write_text(f'name: "{name}"')
    return repository


def build(builder, onnx: Path, tmp_path: Path, monkeypatch, *more: str) -> int:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    places = {"--onnx": onnx, "--cache": tmp_path / "cache", "--models": tmp_path / "models"}
    return builder.main([str(word) for pair in places.items() for word in pair] + list(more))


def builds(tmp_path: Path) -> int:
    return (tmp_path / "calls").read_text().count("--saveEngine")


def test_plans_take_the_place_of_the_onnx_and_are_built_once(builder, onnx, tmp_path, monkeypatch):
    fake_trtexec(tmp_path / "bin")
    assert build(builder, onnx, tmp_path, monkeypatch) == 0
    version = tmp_path / "models" / POSE_NAME / "1"
    assert [path.name for path in version.iterdir()] == ["model.plan"]
    assert (version.parent / "config.pbtxt").is_file()
    assert build(builder, onnx, tmp_path, monkeypatch) == 0
    assert builds(tmp_path) == 2
    assert build(builder, onnx, tmp_path, monkeypatch, "--precision", "fp16") == 0
    assert builds(tmp_path) == 4


def test_a_network_without_a_plan_is_served_from_its_onnx(builder, onnx, tmp_path, monkeypatch):
    fake_trtexec(tmp_path / "bin", fails_for=POSE_NAME)
    assert build(builder, onnx, tmp_path, monkeypatch) == 1
    models = tmp_path / "models"
    assert [path.name for path in (models / POSE_NAME / "1").iterdir()] == ["model.onnx"]
    assert [path.name for path in (models / DETECTOR_NAME / "1").iterdir()] == ["model.plan"]
    card = json.loads((models / POSE_NAME / "posegate.json").read_text())
    assert card["name"] == POSE_NAME


def test_a_machine_without_trtexec_serves_everything_from_onnx(
    builder, onnx, tmp_path, monkeypatch
):
    assert build(builder, onnx, tmp_path, monkeypatch) == 1
    assert (tmp_path / "models" / POSE_NAME / "1" / "model.onnx").is_file()
