"""Weights of an ONNX file stored as float16: half the room, arithmetic in float32 as before."""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from posenets.training.records import BadData

LARGEST = float(np.finfo(np.float16).max)


def stored_in_halves(network: onnx.ModelProto) -> onnx.ModelProto:
    """Every float32 matrix or kernel as a float16 one and a Cast, which the runtime folds.

    Raises BadData.
    """
    graph = network.graph
    check_fits(_matrices(graph))
    casts: list[onnx.NodeProto] = []
    for weight in _matrices(graph):
        name = weight.name
        halves = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(halves, f"{name}/half"))
        casts.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return network


def check_fits(weights: Iterable[TensorProto]) -> None:
    """Raise BadData where a weight holds what half precision cannot."""
    for weight in weights:
        if not (np.abs(numpy_helper.to_array(weight)) <= LARGEST).all():
            raise BadData(
                f"{weight.name} holds a number that half precision cannot (beyond {LARGEST:.0f}); "
                "leave out --halves and the forms fp16 and fp16-storage"
            )


def floats(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The float32 weights."""
    return (weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT)


def _matrices(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The float32 weights of two axes or more."""
    return (weight for weight in floats(graph) if len(weight.dims) > 1)
