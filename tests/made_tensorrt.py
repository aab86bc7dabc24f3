"""Stand-ins for TensorRT, whose plans hold the ONNX file and run on ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from posegate.plan_loading import Loader
from posegate.plans import TARGETS, Limits, PlanBuilder
from posegate.tensorrt_tools import PlanFailed

MADE_TRTEXEC = """#!{python}
# Builds "plans" that hold the ONNX file, and runs them on ONNX Runtime. Where GIVES is set, that is
# written in the place of every number: nan as C++ writes it.
import json, os, sys
import numpy, onnxruntime
words = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
with open(os.environ["CALLS"], "a") as calls:
    print(*sys.argv[1:], file=calls)
if "--help" in sys.argv:
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v101300]")
elif "onnx" in words:
    data = open(words["onnx"], "rb").read()
    try:
        onnxruntime.InferenceSession(data)
    except Exception:
        sys.exit("[E] ModelImporter: failed to parse")
    open(words["saveEngine"], "wb").write(data)
else:
    session = onnxruntime.InferenceSession(words["loadEngine"])
    name, shape = words["shapes"].split(":")
    crops = numpy.fromfile(words["loadInputs"].split(":")[1], numpy.float32)
    crops = crops.reshape([int(size) for size in shape.split("x")])
    rows = [
        {{"name": node.name, "dimensions": "x".join(map(str, array.shape)),
          "values": ["GIVES"] * array.size if "GIVES" in os.environ else array.ravel().tolist()}}
        for node, array in zip(session.get_outputs(), session.run(None, {{name: crops}}))
    ]
    text = json.dumps(rows).replace('"GIVES"', os.environ.get("GIVES", ""))
    open(words["exportOutput"], "w").write(text)
"""


class MadeTensorRT:
    """Plans are copies of the ONNX file; `noise` is what running one adds to its outputs.

    `failure` fails builds; plans in `unrunnable`, or all with `runs` False, fail when they run.
    """

    def __init__(self) -> None:
        self.version = "101300"
        self.noise = 0.0
        self.built: list[str] = []
        self.failure: str | None = None
        self.building: Callable[[], object] = lambda: None
        self.runs = True
        self.unrunnable: list[bytes] = []

    def _tail(self, precision: str) -> bytes:
        return f"{self.version}{precision}".encode()

    def build(self, job, plan: Path) -> None:
        if self.failure is not None:
            plan.write_bytes(b"half a pl")
            raise PlanFailed(self.failure)
        self.building()
        self.built.append(job.onnx.parents[1].name)
        plan.write_bytes(job.onnx.read_bytes() + self._tail(job.precision))

    def run(self, plan: Path, input_name: str, crops):
        data = plan.read_bytes()
        if not self.runs or data in self.unrunnable:
            raise PlanFailed("the plan needs another driver")
        for precision in ("fp32", "fp16"):
            data = data.removesuffix(self._tail(precision))
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_outputs()]
        outputs = session.run(names, {input_name: crops})
        random = np.random.default_rng(1)
        return {
            name: output + self.noise * random.standard_normal(output.shape).astype(np.float32)
            for name, output in zip(names, outputs, strict=True)
        }


def made_builder(tensorrt: MadeTensorRT, cache: Path, loader: Loader | None = None) -> PlanBuilder:
    """Builds fp32 plans for a desktop's GPU, with the stand-in."""
    return PlanBuilder(
        tensorrt=tensorrt,
        sm="8.9",
        target=TARGETS["desktop"],
        precision="fp32",
        cache=cache,
        limits=Limits(),
        loader=loader,
    )
