"""Runs a network's ONNX file inside Triton's Python backend; for tests only."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

assert np.__version__.startswith("1."), "with numpy 2 every element becomes the first one"


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"])
        refusal = folder / "refuse.txt"
        if refusal.exists():  # as TensorRT refuses a plan
            raise pb_utils.TritonModelException(refusal.read_text())
        self.input = config["input"][0]["name"]
        self.outputs = [output["name"] for output in config["output"]]
        self.types = [
            pb_utils.triton_string_to_numpy(output["data_type"]) for output in config["output"]
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(folder / "network.onnx", options)

    def execute(self, requests):
        return [pb_utils.InferenceResponse(self.run(request)) for request in requests]

    def run(self, request):
        crops = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
        arrays = self.session.run(self.outputs, {self.input: crops})
        return [
            pb_utils.Tensor(name, array.astype(kind))
            for name, array, kind in zip(self.outputs, arrays, self.types, strict=True)
        ]
