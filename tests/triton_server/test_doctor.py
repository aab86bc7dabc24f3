"""doctor asks the Triton that is set."""

import json
from pathlib import Path

from typer.testing import CliRunner

from posegate.cli import app
from triton_server.serving import TritonProcess


def test_every_network_of_a_live_triton_is_ready(repository: Path, triton: TritonProcess):
    settings = ["--model-repository", str(repository), "--backend", "triton"]
    result = CliRunner().invoke(app, ["doctor", *settings, "--triton-urls", triton.url, "--json"])
    assert result.exit_code == 0, result.output
    rows = {row["what"]: row["found"] for row in json.loads(result.stdout)}
    assert rows[f"Triton {triton.url}"] == "2.51.0"
    assert rows[f"made-pose at {triton.url}"] == "READY"
