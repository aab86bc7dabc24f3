"""A repository whose pose network looks at its input, and Tritons that serve it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fakes import HEATMAP_SIZE_WH, POSE_NAME, POSE_SIZE_WH, make_repository
from triton_server.serving import (
    PYTHON,
    TritonProcess,
    make_backends,
    make_triton_repository,
    triton_folder,
)

collect_ignore = ["plan_backend.py", "served_model.py"]  # they import what only Triton has


@pytest.fixture(scope="session", autouse=True)
def _needs_triton() -> None:
    if triton_folder() is None:
        pytest.skip(f"nvidia-pytriton is not installed beside {PYTHON}; make test-deploy does it")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made networks, the pose one a random convolution, so that every input pixel matters."""
    repository = make_repository(tmp_path_factory.mktemp("networks"))
    data = _convolution().SerializeToString()
    folder = repository / POSE_NAME
    (folder / "1" / "model.onnx").write_bytes(data)
    card = json.loads((folder / "posegate.json").read_text())
    card["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "posegate.json").write_text(json.dumps(card))
    return repository


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backends(tmp_path_factory.mktemp("backends"))


@pytest.fixture(scope="session")
def triton_repository(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_triton_repository(repository, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="session")
def triton(
    triton_repository: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    """One server for all tests that leave it alive and awake."""
    with TritonProcess(
        triton_repository, backends, tmp_path_factory.mktemp("log") / "triton"
    ) as server:
        yield server


@pytest.fixture
def second_triton(
    triton_repository: Path, backends: Path, tmp_path: Path
) -> Iterator[TritonProcess]:
    """Another server, to be killed."""
    with TritonProcess(triton_repository, backends, tmp_path / "triton") as server:
        yield server


def _convolution() -> onnx.ModelProto:
    """Stride 4: (n, 3, 64, 48) to (n, 17, 16, 12)."""
    random = np.random.default_rng(7)
    weights = random.normal(0, 0.05, (17, 3, 4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weights"], ["heatmaps"], strides=[4, 4])],
        "convolution",
        [_value("input", 3, POSE_SIZE_WH)],
        [_value("heatmaps", 17, HEATMAP_SIZE_WH)],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _value(name: str, channels: int, size_wh: tuple[int, int]) -> onnx.ValueInfoProto:
    width, height = size_wh
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, height, width])
