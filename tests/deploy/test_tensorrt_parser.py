"""TensorRT-RTX takes every ONNX file we export, with and without decoding in the graph.

Its parser and builder need no GPU. It is a sibling of TensorRT: an early check, not a proof.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from deploy.tiny_networks import DETECTOR, FAMILIES, JOINTS, SIZE, tiny_network
from deploy.tools import ROOT
from fakes import POSE_NAME, POSE_SIZE_WH, make_repository
from posegate.card import HeatmapSpec
from posegate.catalog import Model, load_card, sha256_of
from posenets.export.forms import write_form
from posenets.export.in_graph import append_decode
from posenets.export.onnx import export_onnx
from posenets.networks import NETWORKS
from posenets.networks.folding import fold_for_export

PYTHON = ROOT / ".venv-deploy" / "bin" / "python"
SHIPPED = sorted((ROOT / "model_repository").glob("*/1/model.onnx"))
CODEC = HeatmapSpec(kind="heatmap", width=SIZE // 4, height=SIZE // 4)
MISSING = "tensorrt-rtx-cu13 is not installed; make test-deploy does it"
PARSE = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
answers = []
for path in sys.argv[1:]:
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(path)
    errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
    outputs = [network.get_output(number).name for number in range(network.num_outputs)]
    answers.append({"parsed": parsed, "errors": errors, "outputs": outputs})
print(json.dumps(answers))
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


def ask(program: str, *arguments: object) -> Any:
    """The last line that a program prints where TensorRT-RTX is, read as JSON."""
    if parser_is_missing():
        pytest.skip(MISSING)
    command = [str(PYTHON), "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def parse(*paths: Path) -> list[dict]:
    """What the parser says of each file."""
    return ask(PARSE, *paths)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parents[1].name)
def test_shipped_files(path: Path):
    (answer,) = parse(path)
    assert answer["parsed"], answer["errors"]


def export(family: str, path: Path) -> None:
    network, names = tiny_network(family), ("boxes", "scores")
    if family != DETECTOR:
        network, names = fold_for_export(network), ("heatmaps",)
    export_onnx(network, path, size_wh=(SIZE, SIZE), output_names=names)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_and_without_decoding_in_the_graph(family: str, tmp_path: Path):
    if parser_is_missing():
        pytest.skip(MISSING)
    path, decoded_path = tmp_path / "model.onnx", tmp_path / "decoded.onnx"
    export(family, path)
    if family == DETECTOR:
        expected = {path: ["boxes", "scores"]}
    else:
        onnx.save(append_decode(onnx.load(path), CODEC, joints=JOINTS), decoded_path)
        expected = {path: ["heatmaps"], decoded_path: ["decoded"]}
    for answer, outputs in zip(parse(*expected), expected.values(), strict=True):
        assert answer["parsed"], answer["errors"]
        assert sorted(answer["outputs"]) == outputs


def kind_of(network: nn.Module) -> tuple[type, type]:
    return type(network), type(getattr(network, "backbone", None))


def test_every_network_of_the_table_belongs_to_a_family():
    with torch.device("meta"):
        tried = {kind_of(tiny_network(family)) for family in FAMILIES}
        assert {kind_of(network.build()) for network in NETWORKS.values()} <= tried


@pytest.fixture(scope="module")
def hrnet_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network in a repository, of which smaller forms can be written."""
    if parser_is_missing():
        pytest.skip(MISSING)
    folder = make_repository(tmp_path_factory.mktemp("forms"), detector=False) / POSE_NAME
    export("hrnet", folder / "1" / "model.onnx")
    card = json.loads((folder / "posegate.json").read_text())
    card["input"] |= {"width": SIZE, "height": SIZE}
    card["codec"] |= {"width": CODEC.width, "height": CODEC.height}
    card["sha256"] = sha256_of(folder / "1" / "model.onnx")
    (folder / "posegate.json").write_text(json.dumps(card))
    return Model(load_card(folder / "posegate.json"), folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["fp16", "fp16-storage", "half-outputs", "int8-trt"])
def test_smaller_forms(form: str, hrnet_model: Model):
    crops = np.random.default_rng(1).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
    (answer,) = parse(write_form(hrnet_model, form, crops))
    assert answer["parsed"], answer["errors"]
    assert answer["outputs"] == ["heatmaps"]


def test_an_operator_that_tensorrt_lacks_is_noticed(tmp_path: Path):
    value = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", 4]) for one in "ab"]
    nodes = [helper.make_node("Unheard", ["a"], ["b"], domain="made.up")]
    graph = helper.make_graph(nodes, "wrong", value[:1], value[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("made.up", 1)]
    path = tmp_path / "wrong.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    (answer,) = parse(path)
    assert not answer["parsed"]


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
