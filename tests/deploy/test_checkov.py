"""checkov's rules over all that is deployed; `k8s/checkov.yaml` says which two are not followed."""

from pathlib import Path

import pytest

from deploy.tools import OVERLAYS, ROOT, rendered, run

pytestmark = pytest.mark.slow


def test_manifests(tmp_path: Path):
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(rendered(overlay))
    config = ROOT / "k8s" / "checkov.yaml"
    run("checkov", "--config-file", config, "--framework", "kubernetes", "-d", tmp_path)


def test_dockerfiles():
    folder = ROOT / "docker"
    run("checkov", "--skip-download", "--compact", "--framework", "dockerfile", "-d", folder)
