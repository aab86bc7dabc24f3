"""Kubernetes' probes of Triton, as the manifests write them, asked of a real server."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes import DETECTOR_NAME, POSE_NAME, make_repository
from triton_server.serving import ROOT, TritonProcess, make_triton_repository

MANIFEST = ROOT / "k8s" / "components" / "triton" / "triton.yaml"
OTHER = "another-pose"


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: curl)")
    deployment = next(yaml.safe_load_all(MANIFEST.read_text()))
    return deployment["spec"]["template"]["spec"]["containers"][0]


def serve(
    container: dict[str, Any], backends: Path, folder: Path, *, corrupt: str
) -> TritonProcess:
    """Three networks, one of them corrupt; the server's options are the manifest's."""
    repository = make_repository(folder)
    shutil.copytree(repository / POSE_NAME, repository / OTHER)
    card_path = repository / OTHER / "posegate.json"
    card_path.write_text(json.dumps(json.loads(card_path.read_text()) | {"name": OTHER}))
    served = make_triton_repository(repository, folder)
    (served / corrupt / "network.onnx").write_bytes(b"corrupt")
    options = [option for option in container["args"] if option.startswith("--strict")]
    assert options
    return TritonProcess(served, backends, folder / "log", *options)


def passes(container: dict[str, Any], server: TritonProcess, kind: str) -> bool:
    """What kubelet would find, with this server's port and networks in their places."""
    probe = container[f"{kind}Probe"]
    if "httpGet" in probe:
        return server.answers(probe["httpGet"]["path"].removeprefix("/"))
    *command, url = probe["exec"]["command"]
    assert url.startswith("http://127.0.0.1:8000/v2/models/{")
    ours = f"http://127.0.0.1:{server._http}/v2/models/{{{DETECTOR_NAME},{POSE_NAME}}}/ready"
    return subprocess.run([*command, ours], timeout=10, check=False).returncode == 0


# the corrupt network; is Triton ready?
@pytest.mark.parametrize(
    ("corrupt", "is_ready"), [(OTHER, True), (POSE_NAME, False), (DETECTOR_NAME, False)]
)
def test_a_broken_network_restarts_nothing_and_default_ones_decide(
    container, backends, tmp_path, corrupt, is_ready
):
    with serve(container, backends, tmp_path, corrupt=corrupt) as server:
        assert passes(container, server, "startup")
        assert passes(container, server, "liveness")
        assert passes(container, server, "readiness") == is_ready
        assert server.answers("v2/health/ready"), "the health check of the image"
        for name in {POSE_NAME, DETECTOR_NAME, OTHER} - {corrupt}:
            assert server.answers(f"v2/models/{name}/ready")


def test_the_image_is_started_as_the_manifest_does(container):
    text = (ROOT / "docker" / "triton.Dockerfile").read_text().replace("\\\n", "")
    (command,) = [json.loads(line[4:]) for line in text.splitlines() if line.startswith("CMD ")]
    shared = {"--strict-readiness=false", "--exit-on-error=false"}
    assert shared <= set(command)
    assert shared <= set(container["args"])
