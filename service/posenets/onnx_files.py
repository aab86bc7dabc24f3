"""An ONNX file -> its graph or a session; what cannot be read is refused in words."""

from pathlib import Path

import onnx
import onnxruntime as ort

from posenets.training.records import BadData


def load_graph(path: Path) -> onnx.ModelProto:
    """The network that the file holds; raises BadData."""
    try:
        network = onnx.load(path)
        onnx.checker.check_model(network)
    except Exception as error:  # the errors of onnx and of protobuf share no public base class
        raise _unreadable(path, error) from error
    return network


def open_session(path: Path, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """The file loaded to run on the CPU; raises BadData."""
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BadData:
    return BadData(f"{path}: not a network ONNX Runtime can load ({' '.join(str(error).split())})")
