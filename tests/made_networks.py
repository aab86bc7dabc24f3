"""Small ONNX files whose answers are known, for what trains and measures networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from posegate.catalog import CARD_NAME, ONNX_NAME, sha256_of

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


def constant_network(
    outputs: dict[str, np.ndarray], *, size_wh: tuple[int, int], input_name: str = INPUT
) -> onnx.ModelProto:
    """Answers `outputs` (1, ...) times 1 for every picture that is not black, else times 0."""
    nodes = [
        helper.make_node("ReduceMax", [input_name, "axes"], ["brightest"], keepdims=1),
        helper.make_node("Sign", ["brightest"], ["sign"]),
    ]
    values = {"axes": np.array([1, 2, 3], np.int64)}
    for name, value in outputs.items():
        values[f"shape_{name}"] = np.array([-1] + [1] * (value.ndim - 1), np.int64)
        values[f"made_{name}"] = value
        nodes += [
            helper.make_node("Reshape", ["sign", f"shape_{name}"], [f"lit_{name}"]),
            helper.make_node("Mul", [f"lit_{name}", f"made_{name}"], [name]),
        ]
    width, height = size_wh
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["n", 3, height, width])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *value.shape[1:]])
            for name, value in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def replace_network(folder: Path, card: dict[str, Any], network: bytes) -> None:
    """Put another network and its card into a folder of the repository."""
    path = folder / ONNX_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(network)
    full = {**card, "name": folder.name, "sha256": sha256_of(path)}
    (folder / CARD_NAME).write_text(json.dumps(full))
