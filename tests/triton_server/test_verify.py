"""`posegate models verify --triton-urls` against a real Triton."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from fakes import POSE_NAME, encode, make_photo, make_repository
from labelled_folder import BOXES, label, write
from posegate.backends.triton_config import write_configs
from posegate.cli import app
from triton_server.serving import (
    TritonProcess,
    add_plan_backends,
    make_backends,
    make_triton_repository,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two labelled photos, on which the made network sees the truth."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (folder / "images" / name).write_bytes(encode(make_photo(width=640, height=480)))
    write(folder, [label(1, 1, BOXES[0]), label(2, 2, BOXES[1])])
    return folder


def row_of_triton(models: Path, data: Path, server: TritonProcess) -> tuple[int, dict[str, Any]]:
    command = ["models", "verify", POSE_NAME, "--data", str(data), "--json"]
    places = ["--model-repository", str(models), "--triton-urls", server.url]
    result = CliRunner().invoke(app, [*command, *places])
    assert result.exit_code in (0, 1), result.output
    (row,) = [row for row in json.loads(result.stdout) if row["form"] == "triton"]
    return result.exit_code, row


def shift_keypoints(path: Path) -> None:
    """Every keypoint a little to the right: AP is the same, places are not."""
    network = onnx.load(path)
    (template,) = [one for one in network.graph.initializer if one.name == "template"]
    maps = numpy_helper.to_array(template)
    moved = (0.8 * maps + 0.2 * np.roll(maps, 1, axis=-1)).astype(np.float32)
    template.CopyFrom(numpy_helper.from_array(moved, "template"))
    onnx.save(network, path)


def test_triton_must_give_the_keypoints_of_the_onnx_file(backends, data, tmp_path):
    models = make_repository(tmp_path, detector=False)
    served = make_triton_repository(models, tmp_path)
    with TritonProcess(served, backends, tmp_path / "log") as server:
        code, row = row_of_triton(models, data, server)
        assert (code, row["ok"], row["ap_diff"]) == (0, True, 0.0)
        assert row["max_pixel_diff"] <= 0.01
        server.kill()
        shift_keypoints(served / POSE_NAME / "network.onnx")
        server.start()
        code, row = row_of_triton(models, data, server)
    assert (code, row["ok"]) == (1, False)
    assert row["max_pixel_diff"] > 0.5
    assert row["ap_diff"] > -0.010, "AP alone would have let it pass"


def test_a_plan_is_judged_by_its_ap(data, tmp_path):
    models = make_repository(tmp_path, detector=False)
    write_configs(models)
    version = models / POSE_NAME / "1"
    plan = tmp_path / "moved.onnx"
    shutil.copy2(version / "model.onnx", plan)
    shift_keypoints(plan)
    (version / "model.plan").write_bytes(plan.read_bytes() + b"101300fp32")
    backends = add_plan_backends(make_backends(tmp_path))
    with TritonProcess(models, backends, tmp_path / "log") as server:
        _, row = row_of_triton(models, data, server)
    assert (row["ok"], row["note"]) == (True, "runs a TensorRT plan")
    assert row["max_pixel_diff"] > 0.5
