"""An fp32 ONNX network of the repository -> its smaller forms, each a network of its own beside it.

`<name>-fp16`          weights and arithmetic in half precision; input and outputs stay float32
`<name>-fp16-storage`  weights stored as halves, arithmetic in float32 as before
`<name>-half-outputs`  arithmetic in float32, heatmaps leave as halves: half the bytes from Triton
`<name>-int8`          U8S8, per-channel weights: what CPUs run fast
`<name>-int8-trt`      symmetric S8S8 without quantised biases: what TensorRT takes; slow on CPUs

The 8-bit forms are QDQ graphs, calibrated on real crops. Two layers stay in float: the one that
draws the heatmaps, since 256 steps are too few for a position between pixels, and the first
convolution, which is slower and less accurate in 8 bits. Parts that 8 bits harm can stay too.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from posegate.catalog import CARD_NAME, ONNX_NAME, Model, sha256_of
from posegate.types import F32
from posenets.export.halves import check_fits, floats, stored_in_halves
from posenets.export.in_place import proving, put_in_place
from posenets.training.records import BadData

BASE = "fp32"
INT8_FORMS = ("int8", "int8-trt")
FORMS = (BASE, "fp16", "fp16-storage", "half-outputs", *INT8_FORMS)
_SAID = {
    "fp16": "half precision",
    "fp16-storage": "weights stored in half precision",
    "half-outputs": "single precision with heatmaps in half precision",
    "int8": "8 bits (U8S8), for CPUs",
    "int8-trt": "8 bits (symmetric S8S8), for TensorRT",
}
_TRT = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
_QUANTISED = ("Conv", "ConvTranspose", "Add", "Concat", "MaxPool", "Relu", "Resize")
"""Attention's convolutions are among them; its sigmoids and products stay in float."""
_BATCH = 8


def write_form(
    model: Model, form: str, crops: F32 | None = None, *, in_float: Sequence[str] = ()
) -> Path:
    """Write `<name>-<form>` beside `model`, card and all; the 8-bit forms need `crops`.

    `in_float` names submodules, such as `backbone` or `backbone/backbone.1`, that 8-bit forms leave
    in single precision. Raises BadData for one that the network has not, or for weights too large
    for halves.
    """
    assert form in _SAID, form
    if form in INT8_FORMS:
        assert crops is not None, "8-bit forms are calibrated on crops"
        network = _quantised(model, crops, in_float, for_tensorrt=form == "int8-trt")
    else:
        network = _CONVERTERS[form](onnx.load(model.onnx_path))
    folder = model.folder.with_name(f"{model.name}-{form}")
    path = folder / ONNX_NAME
    card = json.loads((model.folder / CARD_NAME).read_text())
    kept = f"; {', '.join(in_float)} in single precision" if in_float else ""
    card |= {"name": folder.name, "description": f"{model.name} in {_SAID[form]}{kept}."}
    for measured in ("accuracy", "verification", "default", "decoded"):
        card.pop(measured, None)
    with proving(path) as part:
        onnx.save(network, part)
        put_in_place(part, folder, card | {"sha256": sha256_of(part)})
    return path


class _Crops(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibrator a few crops at a time."""

    def __init__(self, name: str, crops: F32) -> None:
        starts = range(0, len(crops), _BATCH)
        self._batches: Iterator[dict[str, F32]] = iter(
            [{name: crops[start : start + _BATCH]} for start in starts]
        )

    def get_next(self) -> dict[str, F32] | None:
        return next(self._batches, None)


def _quantised(
    model: Model, crops: F32, in_float: Sequence[str], *, for_tensorrt: bool
) -> onnx.ModelProto:
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # the quantiser warns of every tensor it leaves alone
    try:
        with TemporaryDirectory() as folder:
            plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "quantised.onnx"
            quant_pre_process(str(model.onnx_path), str(plain), skip_symbolic_shape=True)
            graph = onnx.load(plain).graph
            kept = [
                *_drawing(graph, model.card.output.names),
                *_first_convolution(graph),
                *_of_submodules(graph, in_float),
            ]
            quantize_static(
                str(plain),
                str(quantised),
                _Crops(model.card.input.name, crops),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_QUANTISED),
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=kept,
                extra_options=_TRT if for_tensorrt else {},
            )
            return onnx.load(quantised)
    finally:
        log.setLevel(level)


def _drawing(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[str]:
    """Nodes that make the outputs: the last one, and all of a submodule named `draw`."""
    return [
        node.name
        for node in graph.node
        if set(node.output) & set(outputs) or node.name.startswith("/draw/")
    ]


def _first_convolution(graph: onnx.GraphProto) -> list[str]:
    return [node.name for node in graph.node if node.op_type == "Conv"][:1]


def _of_submodules(graph: onnx.GraphProto, names: Sequence[str]) -> list[str]:
    inside: list[str] = []
    for name in names:
        path = f"/{name.strip('/')}"  # the parts of a list are named `backbone.0`
        nodes = [node.name for node in graph.node if node.name.startswith((f"{path}/", f"{path}."))]
        if not nodes:
            known = sorted({node.name.split("/")[1] for node in graph.node if "/" in node.name[1:]})
            raise BadData(f"the network has no submodule {name!r}; it has {', '.join(known)}")
        inside += nodes
    return inside


def _halved(network: onnx.ModelProto) -> onnx.ModelProto:
    check_fits(floats(network.graph))
    halved = OnnxModel(convert_float_to_float16(network, keep_io_types=True))
    halved.topological_sort()  # the casts of inputs come last
    onnx.checker.check_model(halved.model, full_check=True)
    model: onnx.ModelProto = halved.model
    return model


def _with_half_outputs(network: onnx.ModelProto) -> onnx.ModelProto:
    """Every output goes through a Cast to float16, under the name that it had."""
    graph = network.graph
    for output in graph.output:
        name = output.name
        inner = f"{name}/float"
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if one == name else one for one in names]
        cast = helper.make_node(
            "Cast", [inner], [name], name=f"{name}/half", to=TensorProto.FLOAT16
        )
        graph.node.append(cast)
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.checker.check_model(network, full_check=True)
    return network


_CONVERTERS = {
    "fp16": _halved,
    "fp16-storage": stored_in_halves,
    "half-outputs": _with_half_outputs,
}
