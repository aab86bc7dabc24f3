"""What an ONNX file tells of itself without the package `onnx`, which serving does not need."""

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

_IN_8_BITS = {b"QuantizeLinear", b"QLinearConv", b"MatMulInteger", b"ConvInteger"}
_PRODUCTS = {b"Conv", b"ConvTranspose", b"Gemm", b"MatMul"}
_GRAPH = 7
_NODE, _NODE_INPUT, _NODE_OPERATOR = 1, 1, 4
_TENSOR, _TENSOR_TYPE, _TENSOR_NAME = 5, 2, 8
"""Numbers of the fields of ModelProto, GraphProto, NodeProto and TensorProto in `onnx.proto`."""
_FIXED = {1: 8, 5: 4}
"""Bytes of the wire types of a fixed length."""
_FLOAT16 = b"\n"
"""TensorProto.FLOAT16, 10, as protobuf writes it."""


def file_precision(path: Path) -> str:
    """What the network's file computes in: int8, fp16 or fp32; unknown where it is no network.

    That is int8 where something is quantised, and fp16 where a convolution or a product takes a
    float16 tensor as it is. Weights that are only stored as float16 go through a Cast first.
    """
    operators: set[bytes] = set()
    factors: set[bytes] = set()
    halves: set[bytes] = set()
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            for field, start, end in _graph_fields(data):
                if field == _NODE:
                    operator, inputs = _node(data, start, end)
                    operators.add(operator)
                    if operator in _PRODUCTS:
                        factors.update(inputs)
                elif field == _TENSOR:
                    places = {kind: slice(*place) for kind, *place in _fields(data, start, end)}
                    if data[places[_TENSOR_TYPE]] == _FLOAT16:
                        halves.add(data[places[_TENSOR_NAME]])
    except (IndexError, KeyError, ValueError):
        return "unknown"
    if operators & _IN_8_BITS:
        return "int8"
    return "fp16" if factors & halves else "fp32"


def _node(data: mmap, start: int, end: int) -> tuple[bytes, list[bytes]]:
    """The operator of a node and the names of its inputs, which come before it."""
    inputs = []
    for field, first, last in _fields(data, start, end):
        if field == _NODE_INPUT:
            inputs.append(data[first:last])
        elif field == _NODE_OPERATOR:
            return data[first:last], inputs
    raise ValueError("a node without an operator")


def _graph_fields(data: mmap) -> Iterator[tuple[int, int, int]]:
    for field, start, end in _fields(data, 0, len(data)):
        if field == _GRAPH:
            yield from _fields(data, start, end)


def _fields(data: mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field of a protobuf message; ValueError if it is none."""
    while position < end:
        key, position = _varint(data, position)
        field, kind = key >> 3, key & 7
        if not field:
            raise ValueError("no field begins here")
        if kind == 2:
            length, position = _varint(data, position)
        elif kind == 0:
            length = _varint(data, position)[1] - position
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError("a field of no known type")
        yield field, position, position + length
        position += length


def _varint(data: mmap, position: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    value = data[position]
    if value < 128:
        return value, position + 1
    value &= 127
    for shift in range(7, 64, 7):
        position += 1
        value |= (data[position] & 127) << shift
        if data[position] < 128:
            return value, position + 1
    raise ValueError("no number ends here")
