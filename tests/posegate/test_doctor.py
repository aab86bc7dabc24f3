"""doctor says what cannot work, with the exit status too."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posegate import doctor
from posegate.cli import app
from posegate.settings import Settings

ROWS = tomllib.loads(doctor.PLATFORMS.read_text())["platform"]


# machine, L4T release, the row that fits
@pytest.mark.parametrize(
    ("machine", "l4t", "name"),
    [
        ("x86_64", None, "desktop"),
        ("aarch64", "36.4.3", "jetpack-6"),
        ("aarch64", "38.2.0", "jetpack-7"),
        ("aarch64", "32.7.1", None),  # JetPack 4: no image of ours
        ("riscv64", None, None),
    ],
)
def test_platform_for_a_machine(machine, l4t, name):
    row = doctor.fitting_platform(machine=machine, l4t=l4t, platforms=ROWS)
    assert (row and row["name"]) == name


def test_jetson_release_is_read(tmp_path: Path, monkeypatch):
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    monkeypatch.setattr(doctor, "L4T_RELEASE", release)
    found = {one.what: one.found for one in doctor.examine(Settings(model_repository=tmp_path))}
    assert found["L4T"] == "36.4.3"


def test_a_machine_that_can_serve_exits_with_zero(repository: Path):
    result = CliRunner().invoke(app, ["doctor", "--model-repository", str(repository), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert "wrong" not in {row["verdict"] for row in rows}


def test_a_folder_without_networks_is_wrong(tmp_path: Path):
    result = CliRunner().invoke(app, ["doctor", "--model-repository", str(tmp_path), "--json"])
    assert result.exit_code == 1
    (row,) = [row for row in json.loads(result.stdout) if row["verdict"] == "wrong"]
    assert row["what"] == "model repository"


def test_a_triton_that_is_not_there_is_wrong(repository: Path):
    pytest.importorskip("tritonclient")
    settings = ["--model-repository", str(repository), "--backend", "triton"]
    result = CliRunner().invoke(app, ["doctor", *settings, "--triton-urls", "127.0.0.1:9"])
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stdout


# the target, what the machine is, the backend, and the words of what is wrong, if anything is
@pytest.mark.parametrize(
    ("target", "sm", "backend", "words"),
    [
        ("desktop", None, "triton", "no NVIDIA GPU"),
        ("jetson", None, "triton", "no NVIDIA GPU"),
        ("desktop", "8.9", "onnx", "runs on the CPU"),
        ("desktop", "8.7", "triton", "this is a Jetson"),
        ("jetson", "8.9", "triton", "no Jetson"),
        ("desktop", "8.9", "triton", None),
        ("jetson", "8.7", "triton", None),
        ("cpu", None, "onnx", None),
    ],
)
def test_a_gpu_that_was_asked_for_and_would_not_be_used_is_wrong(
    monkeypatch, repository: Path, target: str, sm: str | None, backend: str, words: str | None
):
    async def no_tritons(*_: object) -> list[doctor.Finding]:
        return []

    monkeypatch.setattr(doctor, "gpu_sm", lambda: sm)
    monkeypatch.setattr(doctor, "_tritons", no_tritons)
    settings = Settings(model_repository=repository, backend=backend)
    findings = doctor.examine(settings, target=target)
    wrong = [one for one in findings if one.verdict == "wrong"]
    if words is None:
        assert wrong == []
    else:
        (finding,) = wrong
        assert finding.what == f"target {target}"
        assert words in finding.found


def test_asking_for_a_gpu_where_there_is_none_exits_with_one(monkeypatch, repository: Path):
    monkeypatch.setattr(doctor, "gpu_sm", lambda: None)
    monkeypatch.setattr(doctor, "output_of", lambda *_: "")
    command = ["doctor", "--model-repository", str(repository), "--target", "desktop", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "no NVIDIA GPU is here" in result.stdout
