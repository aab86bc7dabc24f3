"""TensorRT-RTX takes every ONNX file we export, with and without decoding in the graph.

Its parser and builder need no GPU. It is a sibling of TensorRT: an early check, not a proof.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deploy.tools import ROOT
from fakes import POSE_NAME, POSE_SIZE_WH, make_repository
from posegate.card import HeatmapSpec
from posenets.export.in_graph import append_decode
from posenets.networks import build_network
from posenets.networks.folding import fold_for_export

PYTHON = ROOT / ".venv-deploy" / "bin" / "python"
SHIPPED = sorted((ROOT / "model_repository").glob("*/1/model.onnx"))
FAMILIES = ("posefpn-small", "litedeconv")
SIZE = 64
PARSE = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
network = trt.Builder(logger).create_network(0)
parser = trt.OnnxParser(network, logger)
parsed = parser.parse_from_file(sys.argv[1])
errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
outputs = [network.get_output(number).name for number in range(network.num_outputs)]
print(json.dumps({"parsed": parsed, "errors": errors, "outputs": outputs}))
"""
BUILD = """
import json, sys
from pathlib import Path
import tensorrt_rtx
sys.modules["tensorrt"] = tensorrt_rtx
from posegate.tensorrt_module import TensorRTModule
from posegate.tensorrt_tools import BuildJob, PlanFailed
onnx, plan, precision, shape = sys.argv[1:]
job = BuildJob(
    onnx=Path(onnx), input_name="input", shape=tuple(json.loads(shape)), precision=precision,
    profile=(1, 2, 4), workspace_mib=256, timeout_s=60,
)
try:
    TensorRTModule().build(job, Path(plan))
    print(json.dumps({"failed": None}))
except PlanFailed as error:
    print(json.dumps({"failed": str(error)}))
"""


@cache
def parser_is_missing() -> bool:
    command = [str(PYTHON), "-c", "import tensorrt_rtx"]
    return not PYTHON.exists() or subprocess.run(command, capture_output=True).returncode != 0


def ask(program: str, *arguments: object) -> dict:
    """The last line that a program prints where TensorRT-RTX is, read as JSON."""
    if parser_is_missing():
        pytest.skip("tensorrt-rtx-cu13 is not installed; make test-deploy does it")
    command = [str(PYTHON), "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def parse(path: Path) -> dict:
    return ask(PARSE, path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parents[1].name)
def test_shipped_files(path: Path):
    answer = parse(path)
    assert answer["parsed"], answer["errors"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", FAMILIES)
def test_every_network_that_can_be_exported(name: str, tmp_path: Path):
    path, decoded_path = tmp_path / "model.onnx", tmp_path / "decoded.onnx"
    torch.onnx.export(
        fold_for_export(build_network(name, 17, (SIZE, SIZE))),
        (torch.zeros(2, 3, SIZE, SIZE),),
        str(path),
        input_names=["input"],
        output_names=["heatmaps"],
        opset_version=17,
        dynamic_axes={"input": {0: "n"}, "heatmaps": {0: "n"}},
        dynamo=False,
    )
    codec = HeatmapSpec(kind="heatmap", width=SIZE // 4, height=SIZE // 4)
    onnx.save(append_decode(onnx.load(path), codec, joints=17), decoded_path)
    for file, output in ((path, "heatmaps"), (decoded_path, "decoded")):
        answer = parse(file)
        assert answer["parsed"], answer["errors"]
        assert answer["outputs"] == [output]


def test_an_operator_that_tensorrt_lacks_is_noticed(tmp_path: Path):
    value = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", 4]) for one in "ab"]
    nodes = [helper.make_node("Unheard", ["a"], ["b"], domain="made.up")]
    graph = helper.make_graph(nodes, "wrong", value[:1], value[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("made.up", 1)]
    path = tmp_path / "wrong.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    assert not parse(path)["parsed"]


def test_plans_are_built_by_the_module(tmp_path: Path):
    """`posegate.tensorrt_module` with TensorRT-RTX under TensorRT's name."""
    onnx_path = make_repository(tmp_path) / POSE_NAME / "1" / "model.onnx"
    plan, shape = tmp_path / "model.plan", json.dumps([3, *POSE_SIZE_WH[::-1]])
    assert ask(BUILD, onnx_path, plan, "fp32", shape) == {"failed": None}
    assert plan.stat().st_size > 0
    # TensorRT-RTX has no flag for half precision.
    assert "precision" in ask(BUILD, onnx_path, plan, "fp16", shape)["failed"]
    onnx_path.write_bytes(b"corrupt")
    assert ask(BUILD, onnx_path, plan, "fp32", shape)["failed"]
