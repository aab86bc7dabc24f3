"""A heatmap network's ONNX file -> the same network with its decoding in the graph.

Per joint one row leaves the graph instead of a whole map: 138 floats where a 64 x 48 map has 3072.
`posegate.codecs.peaks` reads the rows and gives the keypoints that whole maps would give.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from posegate.backends.triton_config import write_config
from posegate.card import PEAK_ROW, HeatmapSpec, ModelCard
from posegate.catalog import CARD_NAME, ONNX_NAME, Model, check_file, load_card, sha256_of
from posegate.codecs.dark import REACH, blur_matrix, blur_radius
from posegate.codecs.peaks import PATCH, PATCH_REACH
from posenets.export.in_place import proving, save_card
from posenets.onnx_files import load_graph
from posenets.training.records import BadData

OPSET = 17
PREFIX = "decode/"
OUTPUT = "decoded"
_IR_VERSION = 4
"""The first of ONNX whose constants need not be inputs of the graph too."""


def export_decoded(repository: Path) -> list[Path]:
    """Write `<name>-decoded` beside every heatmap network of the repository; the files written.

    Raises BadData where there is none.
    """
    cards = sorted(repository.glob(f"*/{CARD_NAME}"))
    models = [Model(load_card(path), path.parent) for path in cards]
    drawing = [
        model
        for model in models
        if isinstance(model.card.codec, HeatmapSpec) and model.card.codec.form == "maps"
    ]
    if not drawing:
        raise BadData(f"{repository}: has no network of heatmaps with a {CARD_NAME}")
    return [write_decoded(model) for model in drawing]


def write_decoded(model: Model) -> Path:
    """Write one network's `<name>-decoded/` and name it on the network's card.

    Raises BadCard where the network's file is not the one of its card, BadData where it holds no
    network.
    """
    assert isinstance(model.card.codec, HeatmapSpec)
    check_file(model)
    (heatmaps,) = model.card.output.names
    network = load_graph(model.onnx_path)
    decoded = append_decode(
        network, model.card.codec, joints=len(model.card.keypoints), heatmaps=heatmaps
    )
    path = model.folder.with_name(f"{model.name}-decoded") / ONNX_NAME
    card_path = model.folder / CARD_NAME
    document = json.loads(card_path.read_text(encoding="utf-8"))
    with proving(path) as part:
        onnx.save(decoded, part)
        made = {"sha256": sha256_of(part)}
        if document.get("decoded", made) != made:  # see `in_place`
            save_card(card_path, {key: document[key] for key in document if key != "decoded"})
        document["decoded"] = made
        part.replace(path)
    card = ModelCard.model_validate(document).with_decoding_in_the_graph()
    assert card is not None
    write_config(Model(card, path.parents[1]))
    save_card(card_path, document)
    return path


def append_decode(
    network: onnx.ModelProto,
    codec: HeatmapSpec,
    *,
    joints: int,
    heatmaps: str = "heatmaps",
) -> onnx.ModelProto:
    """The network with one output (n, J, 138) float32 in the place of its heatmaps (n, J, h, w).

    Only operators that TensorRT has: TopK, GatherElements, MatMul, Pad, arithmetic on int64.
    """
    opsets = {opset.domain: opset.version for opset in network.opset_import}
    if opsets.get("", 0) < OPSET:
        network = onnx.version_converter.convert_version(network, OPSET)
        opsets = {opset.domain: opset.version for opset in network.opset_import}
    merged = onnx.ModelProto()
    merged.CopyFrom(network)
    merged.ir_version = max(merged.ir_version, _IR_VERSION)
    graph = merged.graph
    graph.node.extend(_nodes(heatmaps))
    graph.initializer.extend(
        numpy_helper.from_array(value, PREFIX + name)
        for name, value in _constants(codec, joints).items()
    )
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", joints, PEAK_ROW])
    )
    onnx.checker.check_model(merged, full_check=True)
    return merged


def _reach(codec: HeatmapSpec) -> int:
    """How far from the peak values are read: by DARK's blur or for the patch."""
    return max(blur_radius(codec.sigma) + REACH, PATCH_REACH)


def _nodes(heatmaps: str) -> Iterator[onnx.NodeProto]:
    def node(kind: str, inputs: str, made: str, **attributes: Any) -> onnx.NodeProto:
        """`inputs` and `made` are names of this part of the graph, separated by spaces."""
        return helper.make_node(
            kind,
            [PREFIX + name for name in inputs.split()],
            [PREFIX + name for name in made.split()],
            name=PREFIX + made.split()[-1],
            **attributes,
        )

    # FP16 maps would lose places above 2048 and sums above 65504.
    yield helper.make_node("Cast", [heatmaps], [PREFIX + "maps"], to=TensorProto.FLOAT)
    yield node("Reshape", "maps flat_shape", "flat")  # (n, J, h * w)
    yield node("TopK", "flat one", "highest place", axis=2)  # (n, J, 1)
    yield node("Div", "place width", "y")
    yield node("Mul", "y width", "row_start")
    yield node("Sub", "place row_start", "x")
    # Values beyond the border read as 0, as in `codecs/dark.py`.
    yield node("Pad", "maps border", "padded")
    yield node("Reshape", "padded padded_shape", "padded_flat")
    yield node("Mul", "y padded_width", "padded_row_start")
    yield node("Add", "padded_row_start x", "corner")
    yield node("Add", "corner steps", "index")  # (n, J, window ** 2)
    yield node("GatherElements", "padded_flat index", "window", axis=2)
    yield node("MatMul", "window blur", "blurred")  # (n, J, 13)
    yield node("Gather", "window patch_places", "patch", axis=2)  # (n, J, 121)
    yield node("TopK", "flat one", "lowest lowest_place", axis=2, largest=0)
    yield node("ReduceSum", "flat last_axis", "sum", keepdims=1)
    yield node("Cast", "x", "x_float", to=TensorProto.FLOAT)
    yield node("Cast", "y", "y_float", to=TensorProto.FLOAT)
    row = node("Concat", "x_float y_float lowest sum blurred patch", "row", axis=2)
    row.output[0] = OUTPUT
    yield row


def _constants(codec: HeatmapSpec, joints: int) -> dict[str, np.ndarray]:
    reach, width, height = _reach(codec), codec.width, codec.height
    padded_width, padded_height = width + 2 * reach, height + 2 * reach
    steps = np.arange(2 * reach + 1)
    window = steps[:, None] * padded_width + steps
    blur_reach = blur_radius(codec.sigma) + REACH
    return {
        "flat_shape": np.array([0, joints, width * height]),
        "padded_shape": np.array([0, joints, padded_width * padded_height]),
        "border": np.array([0, 0, reach, reach, 0, 0, reach, reach]),
        "one": np.array([1]),
        "last_axis": np.array([2]),
        "width": np.array(width),
        "padded_width": np.array(padded_width),
        "steps": window.reshape(1, 1, -1),
        "blur": _widened(blur_matrix(codec.sigma), reach - blur_reach),
        "patch_places": _middle(2 * reach + 1, PATCH).ravel(),
    }


def _middle(size: int, inner: int) -> np.ndarray:
    """(inner, inner) places of the middle of a size x size window, counted row by row."""
    inside = slice((size - inner) // 2, (size + inner) // 2)
    return np.arange(size * size).reshape(size, size)[inside, inside]


def _widened(blur: np.ndarray, margin: int) -> np.ndarray:
    """The blur of a window wider by `margin` on every side, whose outer values count nothing."""
    size = round(len(blur) ** 0.5)
    outer = size + 2 * margin
    wide = np.zeros((outer * outer, blur.shape[1]), np.float32)
    wide[_middle(outer, size).ravel()] = blur
    return wide
