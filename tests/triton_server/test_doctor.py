"""doctor asks the Triton that is set."""

import json
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from posegate import doctor
from posegate.cli import app
from posegate.platforms import PLATFORMS
from posegate.settings import Settings
from triton_server.serving import TritonProcess

MATRIX = tomllib.loads(PLATFORMS.read_text())


def test_every_network_of_a_live_triton_is_ready(repository: Path, triton: TritonProcess):
    settings = ["--model-repository", str(repository), "--backend", "triton"]
    result = CliRunner().invoke(app, ["doctor", *settings, "--triton-urls", triton.url, "--json"])
    assert result.exit_code == 0, result.output
    rows = {row["what"]: row["found"] for row in json.loads(result.stdout)}
    older = f"2.51.0, older than {MATRIX['server']} of release {MATRIX['release']}"
    assert rows[f"Triton {triton.url}"] == older
    assert rows[f"made-pose at {triton.url}"] == "READY"


def test_networks_that_fell_back_to_the_cpu_are_wrong_where_a_gpu_was_asked_for(
    repository: Path, triton: TritonProcess, monkeypatch
):
    monkeypatch.setattr(doctor, "gpu_sm", lambda: "8.9")
    settings = Settings(model_repository=repository, backend="triton", triton_urls=(triton.url,))
    wrong = {
        one.what: one.found
        for one in doctor.examine(settings, target="desktop")
        if one.verdict == "wrong"
    }
    assert wrong[f"made-pose at {triton.url}"] == "runs on the CPU"
    assert wrong[f"made-detector at {triton.url}"] == "runs on the CPU"
    on_cpu = doctor.examine(settings, target="cpu")
    assert "wrong" not in {one.verdict for one in on_cpu}
