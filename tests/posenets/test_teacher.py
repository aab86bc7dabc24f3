"""Any heatmap network -> the maps that are kept beside cached crops."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fakes import gaussian_heatmaps, pose_card
from made_networks import save_constant_teacher
from posenets.training.records import BadData
from posenets.training.teacher import HeatmapTeacher

MIDDLES = np.zeros((2, 256, 192, 3), np.uint8)
JOINTS = np.array([[10.0, 20.0], [30.0, 50.0]], np.float32)
"""Heatmap pixels of the kept maps, 48 x 64."""


def peaks(maps: np.ndarray) -> np.ndarray:
    flat = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    return np.stack([flat % maps.shape[3], flat // maps.shape[3]], -1)


@pytest.mark.parametrize(
    ("size_wh", "stride"),
    # the size that crops have, a half, a larger one, and another stride
    [((192, 256), 4), ((96, 128), 4), ((288, 384), 4), ((192, 256), 2)],
)
def test_maps_of_any_size_keep_their_joints(
    tmp_path: Path, size_wh: tuple[int, int], stride: int
) -> None:
    path = tmp_path / "teacher.onnx"
    own_wh = (size_wh[0] // stride, size_wh[1] // stride)
    scale = own_wh[0] / 48
    maps = gaussian_heatmaps(JOINTS * scale, size_wh=own_wh, sigma=2 * scale)
    save_constant_teacher(path, maps[None], size_wh=size_wh)
    teacher = HeatmapTeacher(path)
    kept = teacher.heatmaps(MIDDLES)
    assert teacher.joints == 2
    assert (kept.shape, kept.dtype) == ((2, 2, 64, 48), np.uint8)
    np.testing.assert_array_equal(peaks(kept), [JOINTS, JOINTS])
    assert kept.max() > 240


@pytest.mark.parametrize("size_wh", [(256, 256), (192, 384)])
def test_an_input_of_another_aspect_shows_people_as_they_are(
    tmp_path: Path, size_wh: tuple[int, int]
) -> None:
    """The network gives its picture as maps: they are those of the crop, not stretched."""
    path = tmp_path / "echo.onnx"
    given = helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, *size_wh[::-1]])
    made_hw = (size_wh[1] // 4, size_wh[0] // 4)
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, *made_hw])
    node = helper.make_node("AveragePool", ["in"], ["out"], kernel_shape=[4, 4], strides=[4, 4])
    graph = helper.make_graph([node], "echo", [given], [made])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    middle = np.full((1, 256, 192, 3), 124, np.uint8)
    middle[0, 80:160, 60:120] = 255
    (kept,) = HeatmapTeacher(path).heatmaps(middle)
    rows, columns = np.nonzero(kept[0] > 128)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (15, 29, 20, 39)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_network_of_a_fixed_batch_teaches_too(tmp_path: Path, batch: int) -> None:
    """It gives the mean of each picture as a map, so that pictures can be told apart."""
    path = tmp_path / "fixed.onnx"
    given = helper.make_tensor_value_info("in", TensorProto.FLOAT, [batch, 3, 256, 192])
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 3, 64, 48])
    node = helper.make_node("AveragePool", ["in"], ["out"], kernel_shape=[4, 4], strides=[4, 4])
    graph = helper.make_graph([node], "fixed", [given], [made])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    teacher = HeatmapTeacher(path)
    middles = np.stack([np.full((256, 192, 3), 130 + 15 * n, np.uint8) for n in range(5)])
    levels = teacher.heatmaps(middles)[:, 0, 32, 24].astype(int)
    assert len(levels) == 5
    assert (np.diff(levels) > 5).all()


def test_card_beside_the_file_says_where_its_maps_lie(tmp_path: Path) -> None:
    path = tmp_path / "1" / "model.onnx"
    maps = gaussian_heatmaps(JOINTS - 1, size_wh=(48, 64), sigma=2.0)
    save_constant_teacher(path, maps[None])
    codec = {"kind": "heatmap", "width": 48, "height": 64, "scale": [4, 4], "offset": [4, 4]}
    form = pose_card()["input"] | {"width": 192, "height": 256}
    card = pose_card() | {"codec": codec, "input": form, "sha256": "0" * 64}
    (tmp_path / "posegate.json").write_text(json.dumps(card))
    kept = HeatmapTeacher(path).heatmaps(MIDDLES)
    np.testing.assert_array_equal(peaks(kept), [JOINTS, JOINTS])


def test_what_is_no_heatmap_network_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(BadData, match=r"broken\.onnx: not a network"):
        HeatmapTeacher(broken)
    flat = tmp_path / "flat.onnx"
    save_constant_teacher(flat, np.zeros((1, 17, 5, 5), np.float32))
    network = onnx.load(flat)
    network.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(network, flat)
    with pytest.raises(
        BadData, match=r"flat\.onnx: input input is .* \(n, 3, height, width\), .* fixed"
    ):
        HeatmapTeacher(flat)
    save_constant_teacher(flat, np.zeros((1, 17, 64, 48), np.float32))
    (tmp_path / "posegate.json").write_text("{}")
    with pytest.raises(BadData, match=r"posegate\.json: name"):
        HeatmapTeacher(flat)
