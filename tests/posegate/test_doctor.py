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
