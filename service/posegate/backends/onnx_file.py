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
_FLOAT16 = b"\n"
"""TensorProto.FLOAT16, 10, as protobuf writes it."""


def file_precision(path: Path) -> str:
    """What the network's file computes in: int8, fp16 or fp32; unknown where it is no network.

    That is int8 where something is quantised, fp16 where a convolution or a product takes a tensor
    of halves as it is. Kernels that are only kept as halves go through a Cast first.
    """
    operators: set[bytes] = set()
    factors: set[bytes] = set()
    halves: set[bytes] = set()
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            for field, content in _graph_fields(data):
                if field == _NODE:
                    parts = list(_fields(data, content))
                    operator = next(data[part] for kind, part in parts if kind == _NODE_OPERATOR)
                    operators.add(operator)
                    if operator in _PRODUCTS:
                        factors.update(data[part] for kind, part in parts if kind == _NODE_INPUT)
                elif field == _TENSOR:
                    places = dict(_fields(data, content))
                    if data[places[_TENSOR_TYPE]] == _FLOAT16:
                        halves.add(data[places[_TENSOR_NAME]])
    except (IndexError, KeyError, StopIteration, ValueError):
        return "unknown"
    if operators & _IN_8_BITS:
        return "int8"
    return "fp16" if factors & halves else "fp32"


def _graph_fields(data: mmap) -> Iterator[tuple[int, slice]]:
    for field, content in _fields(data, slice(0, len(data))):
        if field == _GRAPH:
            yield from _fields(data, content)


def _fields(data: mmap, message: slice) -> Iterator[tuple[int, slice]]:
    """Number and place of each field's value in a protobuf message; ValueError where it is none."""
    position = message.start
    while position < message.stop:
        key, position = _varint(data, position)
        field, kind = divmod(key, 8)
        match kind if field else None:
            case 0:
                length = _varint(data, position)[1] - position
            case 1:
                length = 8
            case 2:
                length, position = _varint(data, position)
            case 5:
                length = 4
            case _:
                raise ValueError("no field begins here")
        yield field, slice(position, position + length)
        position += length


def _varint(data: mmap, position: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    value = 0
    for place, shift in enumerate(range(0, 64, 7), position):
        value |= (data[place] & 127) << shift
        if data[place] < 128:
            return value, place + 1
    raise ValueError("no number ends here")
