"""config.pbtxt says what the card says, in words that Triton's own parser takes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fakes import DETECTOR_NAME, POSE_NAME, make_repository
from made_networks import replace_network
from posegate.backends.triton_config import main, render_config, write_configs
from posegate.catalog import CONFIG_NAME, Model, load_card, load_catalog

SHIPPED = Path(__file__).parents[2] / "model_repository"


def parsed(text: str):
    text_format = pytest.importorskip("google.protobuf.text_format")
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(text, model_config.ModelConfig())


def test_pose_network(repository: Path):
    config = parsed(render_config(load_catalog(repository).models[POSE_NAME]))
    assert config.name == POSE_NAME
    assert [tuple(tensor.dims) for tensor in config.input] == [(3, 64, 48)]
    assert [tuple(tensor.dims) for tensor in config.output] == [(17, 16, 12)]
    assert max(config.dynamic_batching.preferred_batch_size) <= config.max_batch_size
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    assert [one.batch_size for one in config.model_warmup] == [1, 8]


def told_by_file(path: Path) -> dict[str, tuple[int, ...]]:
    """Sizes behind the batch axis as Triton's ONNX Runtime reads them, -1 where they are open."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {
        one.name: tuple(size if isinstance(size, int) else -1 for size in one.shape[1:])
        for one in session.get_outputs()
    }


def test_outputs_have_the_very_sizes_of_the_file(repository: Path):
    """Triton's ONNX Runtime refuses -1 for a size that the file tells."""
    model = load_catalog(repository).models[DETECTOR_NAME]
    config = parsed(render_config(model))
    told = {one.name: tuple(one.dims) for one in config.output}
    assert told == told_by_file(model.onnx_path) == {"boxes": (3, 4), "scores": (3,)}


def test_a_size_that_the_file_leaves_open_stays_open(tmp_path: Path):
    model = load_catalog(make_repository(tmp_path)).models[DETECTOR_NAME]
    network = onnx.load(model.onnx_path)
    for node in network.graph.node:
        node.output[:] = ["all_boxes" if name == "boxes" else name for name in node.output]
    for name, value in {"first": [0], "axis": [1], "whole": [1]}.items():
        network.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(value, np.int64), name)
        )
    network.graph.node.extend(
        [
            onnx.helper.make_node("ReduceSum", ["scores"], ["sum"], keepdims=0),
            onnx.helper.make_node("Cast", ["sum"], ["count"], to=onnx.TensorProto.INT64),
            onnx.helper.make_node("Reshape", ["count", "whole"], ["last"]),
            onnx.helper.make_node("Slice", ["all_boxes", "first", "last", "axis"], ["boxes"]),
        ]
    )
    network.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "found"
    onnx.save(network, model.onnx_path)
    card = model.card.model_copy(
        update={"sha256": hashlib.sha256(model.onnx_path.read_bytes()).hexdigest()}
    )
    config = parsed(render_config(Model(card, model.folder)))
    told = {one.name: tuple(one.dims) for one in config.output}
    assert told == told_by_file(model.onnx_path) == {"boxes": (-1, 4), "scores": (3,)}


def test_no_platform_is_named_so_that_the_file_decides(repository: Path):
    for model in load_catalog(repository).models.values():
        config = parsed(render_config(model))
        assert (config.platform, config.backend) == ("", "")


def test_every_card_gets_its_file(tmp_path: Path):
    repository = make_repository(tmp_path)
    written = write_configs(repository)
    assert written == [repository / name / CONFIG_NAME for name in (DETECTOR_NAME, POSE_NAME)]


def test_names_are_quoted_as_protobuf_reads_them(tmp_path: Path):
    repository = make_repository(tmp_path)
    folder = repository / POSE_NAME
    card = json.loads((folder / "posegate.json").read_text())
    network = onnx.load(folder / "1" / "model.onnx")
    name = 'Bild_ä"q\\'
    for node in network.graph.node:
        node.input[:] = [name if one == card["input"]["name"] else one for one in node.input]
    network.graph.input[0].name = name
    card["input"]["name"] = name
    replace_network(folder, card, network.SerializeToString())
    config = parsed(render_config(Model(load_card(folder / "posegate.json"), folder)))
    assert config.input[0].name == name
    assert set(config.model_warmup[0].inputs) == {name}


def test_the_command_answers_in_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    repository = make_repository(tmp_path)
    main([str(repository)])
    assert f"{POSE_NAME}/{CONFIG_NAME}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="usage: python -m"):
        main([])
    card = repository / POSE_NAME / "posegate.json"
    card.write_text("{}")
    with pytest.raises(SystemExit, match=r"error: card .*posegate\.json: "):
        main([str(repository)])


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no model repository beside the tests")
def test_shipped_files_are_those_of_their_cards():
    for model in load_catalog(SHIPPED).models.values():
        for form in filter(None, (model, model.decoded)):
            text = (form.folder / CONFIG_NAME).read_text(encoding="utf-8")
            assert text == render_config(form), "write it anew (triton_config)"
            outputs = {one.name: tuple(one.dims) for one in parsed(text).output}
            assert outputs == told_by_file(form.onnx_path)
