"""Small ONNX files whose answers are known, for what trains and measures networks."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT = "input"


def save_constant_teacher(
    path: Path, heatmaps: np.ndarray, *, size_wh: tuple[int, int] = (192, 256)
) -> None:
    """A network that answers `heatmaps` (1, J, h, w) float32 to every picture of `size_wh`."""
    nodes = [
        helper.make_node("ReduceMean", [INPUT, "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "template"], ["heatmaps"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "zero": np.zeros(1, np.float32),
        "template": heatmaps,
    }
    shapes = {INPUT: ["n", 3, size_wh[1], size_wh[0]], "heatmaps": ["n", *heatmaps.shape[1:]]}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])]
        for name in (INPUT, "heatmaps")
    )
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "teacher", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
