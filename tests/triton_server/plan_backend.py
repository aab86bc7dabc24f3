"""In place of Triton's TensorRT and ONNX Runtime backends, neither of which is in the wheel.

A plan holds its ONNX file and the TensorRT version it is for, as those of tests/made_tensorrt.py.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

assert np.__version__.startswith("1."), "with numpy 2 every element becomes the first one"
FITTING = b"101300fp32"


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        is_plan = config["backend"] == "tensorrt"
        version = Path(args["model_repository"]) / args["model_version"]
        data = (version / ("model.plan" if is_plan else "model.onnx")).read_bytes()
        if is_plan and not data.endswith(FITTING):
            raise pb_utils.TritonModelException("the engine plan is of another TensorRT")
        self.input = config["input"][0]["name"]
        self.outputs = [output["name"] for output in config["output"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            data.removesuffix(FITTING) if is_plan else data, options
        )

    def execute(self, requests):
        return [pb_utils.InferenceResponse(self.run(request)) for request in requests]

    def run(self, request):
        crops = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
        arrays = self.session.run(self.outputs, {self.input: crops})
        return [
            pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)
        ]
