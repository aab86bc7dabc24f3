"""TensorRT-RTX's parser takes every ONNX file we export, with and without decoding in the graph.

The parser needs no GPU. It is a sibling of TensorRT's own: an early check, not a proof.
"""

import json
import subprocess
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deploy.tools import ROOT
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


@cache
def parser_is_missing() -> bool:
    command = [str(PYTHON), "-c", "import tensorrt_rtx"]
    return not PYTHON.exists() or subprocess.run(command, capture_output=True).returncode != 0


def parse(path: Path) -> dict:
    if parser_is_missing():
        pytest.skip("tensorrt-rtx-cu13 is not installed; make test-deploy does it")
    command = [str(PYTHON), "-c", PARSE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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
