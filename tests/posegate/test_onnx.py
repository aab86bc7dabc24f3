"""crops -> heatmaps in the process: posegate.backends.onnx."""

import asyncio
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fakes import DETECTOR_NAME, MADE_JOINTS_HEATMAP, POSE_NAME, gaussian_heatmaps, make_repository
from made_networks import constant_network, replace_network
from posegate.backends.onnx import OPEN_BATCH, OnnxBackend
from posegate.backends.workers import Workers
from posegate.catalog import load_catalog
from posegate.errors import BadCard


def backend_of(repository: Path, name: str) -> OnnxBackend:
    return OnnxBackend(load_catalog(repository).models[name], workers=Workers(2))


async def test_runs_any_number_of_crops_and_several_batches_at_once(repository: Path) -> None:
    backend = backend_of(repository, POSE_NAME)
    await backend.start()
    sizes = (1, 3, 8, 2)
    answers = await asyncio.gather(
        *(backend.infer(np.ones((size, 3, 64, 48), np.float32)) for size in sizes)
    )
    for size, (heatmaps,) in zip(sizes, answers, strict=True):
        assert heatmaps.dtype == np.float32
        assert np.array_equal(heatmaps, np.stack([gaussian_heatmaps(MADE_JOINTS_HEATMAP)] * size))
    await backend.stop()


async def test_is_ready_between_start_and_stop(repository: Path) -> None:
    backend = backend_of(repository, DETECTOR_NAME)
    assert backend.ready() == f"network {DETECTOR_NAME} is not loaded"
    await backend.start()
    assert backend.ready() is None
    await backend.stop()
    assert backend.ready() is not None


def convolution(kernel: type[np.generic], *, through: str | None = None) -> bytes:
    """A network that convolves with a kernel of that type, as it is or `through` an operator."""
    nodes = [helper.make_node("Conv", ["input", "QuantizeLinear" if through else "kernel"], ["y"])]
    if through:
        nodes.insert(0, helper.make_node(through, ["kernel"], ["QuantizeLinear"]))
    tensor = numpy_helper.from_array(np.zeros((1, 3, 1, 1), kernel), "kernel")
    return helper.make_model(helper.make_graph(nodes, "made", [], [], [tensor])).SerializeToString()


@pytest.mark.parametrize(
    ("content", "precision"),
    [
        (convolution(np.float32), "fp32"),
        (convolution(np.float16), "fp16"),
        (convolution(np.float16, through="Cast"), "fp32"),
        (convolution(np.float32, through="QuantizeLinear"), "int8"),
        (convolution(np.int8, through="DequantizeLinear"), "fp32"),
        (b"not a network", "unknown"),
        (b"\xff" * 10**6, "unknown"),
        (bytes(10**6), "unknown"),
        (b"", "unknown"),
    ],
    ids=[
        "floats",
        "halves",
        "only kept in halves",
        "8 bits",
        "only kept in 8 bits",
        "words",
        "a number without end",
        "zeros",
        "nothing",
    ],
)
def test_the_precision_is_what_the_file_computes_in(
    tmp_path: Path, content: bytes, precision: str
) -> None:
    model = load_catalog(make_repository(tmp_path)).models[POSE_NAME]
    model.onnx_path.write_bytes(content)
    assert OnnxBackend(model, workers=Workers(1)).info.precision == precision


HEATMAP = {"kind": "heatmap", "width": 12, "height": 16}
INPUT = {"width": 48, "height": 64, "color": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]}


async def test_memory_that_loading_freed_goes_back_to_the_system(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    system = SimpleNamespace(malloc_trim=trims.append)
    monkeypatch.setattr("posegate.backends.onnx.ctypes.CDLL", lambda _: system)
    backend = OnnxBackend(load_catalog(repository).models[POSE_NAME], workers=Workers(1))
    await backend.start()
    assert trims == [0]
    monkeypatch.setattr("posegate.backends.onnx.ctypes.CDLL", lambda _: SimpleNamespace())
    await backend.start()  # where the C library has no such function
    assert backend.ready() is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": {**INPUT, "name": "images"}}, "its card names 'images'"),
        ({"input": {**INPUT, "width": 96}}, "its card says float32"),
        ({"output": {"names": ["maps"]}}, "its card also names"),
        ({"codec": {**HEATMAP, "width": 24}}, "its card promises"),
        ({"keypoints": ["nose"]}, "its card promises"),
        (
            {"output": {"names": ["heatmaps", "maps"]}, "codec": {"kind": "simcc"}},
            "its card also names",
        ),
    ],
)
async def test_a_card_that_does_not_fit_its_network_is_refused_at_start(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    backend = backend_of(make_repository(tmp_path, pose_changes=changes), POSE_NAME)
    with pytest.raises(BadCard, match=words):
        await backend.start()


def with_batch_of_one(network: onnx.ModelProto, *, told: bool) -> onnx.ModelProto:
    """The network with its batch fixed at the input, as it tells, or in the midst of the graph."""
    if told:
        network.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        return network
    maps = gaussian_heatmaps(MADE_JOINTS_HEATMAP)
    shape = numpy_helper.from_array(np.array([1, *maps.shape], np.int64), "one")
    network.graph.initializer.append(shape)
    network.graph.node[-1].output[0] = "any"
    network.graph.node.append(helper.make_node("Reshape", ["any", "one"], ["heatmaps"]))
    return network


@pytest.mark.parametrize("told", [True, False])
async def test_a_batch_that_is_fixed_is_refused_with_what_to_do(tmp_path: Path, told: bool) -> None:
    model = load_catalog(make_repository(tmp_path)).models[POSE_NAME]
    network = with_batch_of_one(onnx.load(model.onnx_path), told=told)
    card = model.card.model_dump(mode="json", exclude_none=True)
    replace_network(model.folder, card, network.SerializeToString())
    with pytest.raises(BadCard, match=re.escape(OPEN_BATCH)):
        await backend_of(model.folder.parent, POSE_NAME).start()


async def test_a_detector_with_boxes_that_have_no_score_is_refused_at_start(tmp_path: Path) -> None:
    model = load_catalog(make_repository(tmp_path)).models[DETECTOR_NAME]
    outputs = {"boxes": np.ones((1, 3, 4), np.float32), "scores": np.ones((1, 2), np.float32)}
    network = constant_network(outputs, size_wh=model.card.input.size_wh)
    card = model.card.model_dump(mode="json", exclude_none=True)
    replace_network(model.folder, card, network.SerializeToString())
    with pytest.raises(BadCard, match="3 boxes and 2 scores"):
        await backend_of(model.folder.parent, DETECTOR_NAME).start()


async def test_a_file_that_is_no_network_is_refused_at_start(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    folder = repository / POSE_NAME
    (folder / "1" / "model.onnx").write_bytes(b"not a network")
    card = json.loads((folder / "posegate.json").read_text())
    card["sha256"] = hashlib.sha256(b"not a network").hexdigest()
    (folder / "posegate.json").write_text(json.dumps(card))
    with pytest.raises(BadCard, match="not a network ONNX Runtime can load"):
        await backend_of(repository, POSE_NAME).start()
