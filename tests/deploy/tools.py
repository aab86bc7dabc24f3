"""The outside programs of these checks; a test says so and is skipped where one is missing."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu", "gpu", "gpu-keda", "jetson")
SOURCES = {
    "promtool": "Debian: prometheus",
    "prometheus": "Debian: prometheus",
    "docker-compose": "Debian: docker-compose",
    "kubectl": "1.22 or newer; Debian 13: kubectl, else Kubernetes' own binary",
}


def tool(name: str) -> str:
    """Path of a program."""
    path = shutil.which(name) or shutil.which(name, path=str(ROOT / ".venv-deploy" / "bin"))
    if path is None:
        source = SOURCES.get(name)
        pytest.skip(
            f"{name} is not installed ({source})"
            if source
            else f"{name} is not installed; make test-deploy installs what the index has"
        )
    return path


def run(name: str, *arguments: object, cwd: Path = ROOT) -> str:
    """Run a program that must succeed; its output."""
    result = subprocess.run(
        [tool(name), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@cache
def kubectl_is_too_old() -> bool:
    """Whether it is older than 1.22, whose kustomize knows components and replacements."""
    version = json.loads(run("kubectl", "version", "--client", "--output=json"))["clientVersion"]
    return (int(version["major"]), int(re.match(r"\d+", version["minor"])[0])) < (1, 22)


@cache
def rendered(overlay: str, folder: Path = ROOT / "k8s") -> str:
    if kubectl_is_too_old():
        pytest.skip(f"kubectl is too old ({SOURCES['kubectl']})")
    return run("kubectl", "kustomize", folder / "overlays" / overlay)


def objects(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    """The overlay's objects, of these kinds only when any are named."""
    documents = yaml.safe_load_all(rendered(overlay))
    return [document for document in documents if not kinds or document["kind"] in kinds]
