"""Nothing is told to anybody: ONNX Runtime keeps and sends no telemetry."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import POSE_NAME

RUN = """
import {module}
import onnxruntime
onnxruntime.InferenceSession({network!r}, providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize("module", ["posegate.backends.onnx", "posenets.evaluation.predict"])
def test_a_process_of_ours_leaves_no_telemetry_at_home(
    repository: Path, tmp_path: Path, module: str
):
    home = tmp_path / "home"
    home.mkdir()
    network = str(repository / POSE_NAME / "1" / "model.onnx")
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run(
        [sys.executable, "-c", RUN.format(module=module, network=network)],
        env={**kept, "HOME": str(home)},
        check=True,
        timeout=120,
    )
    assert not list(home.rglob("*onnxruntime*"))
