"""`export --forms half-outputs`: what is written is what the service and a real Triton run."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from fakes import POSE_NAME, make_repository
from posegate.build import running_pipeline
from posegate.catalog import CONFIG_NAME, Model, load_card, sha256_of
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posenets.export.forms import write_form
from triton_server.asking import PHOTO, over, people
from triton_server.serving import TritonProcess, make_triton_repository

HALF = f"{POSE_NAME}-half-outputs"


@pytest.fixture(scope="module")
def with_halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gaussian heatmaps, and the same network whose heatmaps leave as halves."""
    repository = make_repository(tmp_path_factory.mktemp("halves"))
    folder = repository / POSE_NAME
    write_form(Model(load_card(folder / "posegate.json"), folder), "half-outputs")
    return repository


async def keypoints_of(pipeline: Pipeline, model: str) -> np.ndarray:
    options = EstimateOptions(model=model, boxes_xywh=people(5).boxes_xywh)
    return (await pipeline.estimate(PHOTO, options)).poses.keypoints.xy


def test_file_card_and_configuration_agree(with_halves: Path):
    folder = with_halves / HALF
    file = folder / "1" / "model.onnx"
    (output,) = onnx.load(file).graph.output
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT16
    card = json.loads((folder / "posegate.json").read_text())
    assert (card["name"], card["sha256"]) == (HALF, sha256_of(file))
    assert card["output"]["names"] == [output.name]
    config = (folder / CONFIG_NAME).read_text()
    assert f'name: "{output.name}" data_type: TYPE_FP16' in config
    assert 'name: "input" data_type: TYPE_FP32' in config


async def test_embedded_service_gives_the_same_keypoints(with_halves: Path):
    async with running_pipeline(Settings(model_repository=with_halves, threads=1)) as pipeline:
        whole = await keypoints_of(pipeline, POSE_NAME)
        halves = await keypoints_of(pipeline, HALF)
    assert not np.array_equal(halves, whole), "nothing was rounded"
    np.testing.assert_allclose(halves, whole, rtol=0, atol=0.05)


async def test_triton_sends_halves_by_the_configuration_as_written(
    with_halves: Path, backends: Path, tmp_path: Path
):
    served = make_triton_repository(with_halves, tmp_path)
    shutil.copy2(with_halves / HALF / CONFIG_NAME, served / HALF / CONFIG_NAME)
    with TritonProcess(served, backends, tmp_path / "log") as server:
        async with over(with_halves, server) as pipeline:
            whole = await keypoints_of(pipeline, POSE_NAME)
            halves = await keypoints_of(pipeline, HALF)
            sent = pipeline.networks[HALF]._tensors.output_bytes
            assert sent == (17 * 16 * 12 * 2,)
    assert not np.array_equal(halves, whole), "nothing was rounded"
    np.testing.assert_allclose(halves, whole, rtol=0, atol=0.05)
