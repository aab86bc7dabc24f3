"""The outside programs of these checks; a test says so and is skipped where one is missing."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu", "gpu", "gpu-keda", "jetson")
FROM_DEBIAN = {"promtool": "prometheus", "prometheus": "prometheus"}


def tool(name: str) -> str:
    """Path of a program."""
    path = shutil.which(name) or shutil.which(name, path=str(ROOT / ".venv-deploy" / "bin"))
    if path is None:
        source = FROM_DEBIAN.get(name)
        pytest.skip(
            f"{name} is not installed (Debian: {source})"
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
def rendered(overlay: str) -> str:
    return run("kubectl", "kustomize", ROOT / "k8s" / "overlays" / overlay)


def objects(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    """The overlay's objects, of these kinds only when any are named."""
    documents = yaml.safe_load_all(rendered(overlay))
    return [document for document in documents if not kinds or document["kind"] in kinds]
