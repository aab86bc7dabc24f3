"""The Python module `tensorrt`, for machines without `trtexec`.

Memory goes through the CUDA runtime's C functions, so that no other package is needed.
"""

import ctypes
import ctypes.util
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from posegate.tensorrt_tools import BuildJob, PlanFailed
from posegate.types import F32

TO_DEVICE, TO_HOST = 1, 2


class TensorRTModule:
    """Builds and runs plans inside this process."""

    def __init__(self) -> None:
        self.version: str = trt.__version__
        self._logger = trt.Logger(trt.Logger.WARNING)

    def build(self, job: BuildJob, plan: Path) -> None:
        builder = trt.Builder(self._logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(job.onnx)):
            said = [parser.get_error(number).desc() for number in range(parser.num_errors)]
            raise PlanFailed("; ".join(said))
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mib * 2**20)
        if job.precision == "fp16":
            if not hasattr(trt.BuilderFlag, "FP16"):
                raise PlanFailed(
                    f"TensorRT {self.version} takes the precision from the ONNX file alone; "
                    "build fp32 from a file that is fp16 itself"
                )
            config.set_flag(trt.BuilderFlag.FP16)
        if job.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        profile.set_shape(job.input_name, *((size, *job.shape) for size in job.profile))
        config.add_optimization_profile(profile)
        built = builder.build_serialized_network(network, config)
        if built is None:
            raise PlanFailed("TensorRT built no plan; its log above says why")
        plan.write_bytes(bytes(built))

    def run(self, plan: Path, input_name: str, crops: F32) -> dict[str, F32]:
        engine = trt.Runtime(self._logger).deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise PlanFailed(f"{plan} is not a plan for this GPU and this TensorRT")
        context = engine.create_execution_context()
        context.set_input_shape(input_name, crops.shape)
        cuda = _Cuda()
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        arrays: dict[str, Any] = {
            name: np.empty(
                context.get_tensor_shape(name), trt.nptype(engine.get_tensor_dtype(name))
            )
            for name in names
        }
        arrays[input_name] = np.ascontiguousarray(crops)
        places = {name: cuda.allocate(array.nbytes) for name, array in arrays.items()}
        try:
            for name, place in places.items():
                context.set_tensor_address(name, place.value)
            cuda.copy(places[input_name], arrays[input_name], TO_DEVICE)
            if not context.execute_async_v3(0):
                raise PlanFailed(f"{plan} could not be run")
            cuda.call("cudaDeviceSynchronize")
            outputs = [name for name in names if name != input_name]
            for name in outputs:
                cuda.copy(places[name], arrays[name], TO_HOST)
        finally:
            for place in places.values():
                cuda.call("cudaFree", place)
        return {name: arrays[name].astype(np.float32) for name in outputs}


class _Cuda:
    """The few functions of the CUDA runtime that are needed here."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("cudart")
        if name is None:
            raise PlanFailed("the CUDA runtime (libcudart) was not found")
        self._library = ctypes.CDLL(name)

    def call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise PlanFailed(f"{function} failed with status {status}")

    def allocate(self, size: int) -> ctypes.c_void_p:
        place = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(place), ctypes.c_size_t(size))
        return place

    def copy(self, place: ctypes.c_void_p, array: Any, direction: int) -> None:
        host = array.ctypes.data_as(ctypes.c_void_p)
        there = (place, host) if direction == TO_DEVICE else (host, place)
        self.call("cudaMemcpy", *there, ctypes.c_size_t(array.nbytes), direction)
