"""Weights of an ONNX file stored as float16: half the room, arithmetic in float32 as before."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def stored_in_halves(network: onnx.ModelProto) -> onnx.ModelProto:
    """Every float32 matrix or kernel as a float16 one and a Cast, which the runtime folds."""
    graph = network.graph
    casts: list[onnx.NodeProto] = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        name = weight.name
        halves = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(halves, f"{name}/half"))
        casts.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return network
