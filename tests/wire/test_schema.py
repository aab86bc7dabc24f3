"""Requests made up from the OpenAPI document, good and bad: none may break the service."""

import subprocess
import sys
from pathlib import Path

import pytest

from wire.running import Service

MOST_EXAMPLES = 50
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "504"]
"""
"""504 answers an X-Request-Timeout too short for anything: what the caller asked for."""


@pytest.mark.slow
def test_no_made_up_request_meets_a_server_error(service: Service, tmp_path: Path):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        str(program), "run", f"{service.url}/openapi.json",
        "--checks", "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--phases", "examples,coverage,fuzzing",
        "--max-examples", str(MOST_EXAMPLES), "--seed", "7", "--workers", "1",
        "--generation-database", "none", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    with service.client() as client:
        assert client.get("/readyz").status_code == 200
    assert "request failed" not in service.log.read_text()
