"""config.pbtxt says what the card says, in words that Triton's own parser takes."""

from pathlib import Path

import pytest

from fakes import DETECTOR_NAME, POSE_NAME
from posegate.backends.triton_config import render_config, write_configs
from posegate.catalog import CONFIG_NAME, load_catalog

SHIPPED = Path(__file__).parents[2] / "model_repository"


def parsed(text: str):
    text_format = pytest.importorskip("google.protobuf.text_format")
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(text, model_config.ModelConfig())


def test_pose_network(repository: Path):
    config = parsed(render_config(load_catalog(repository).models[POSE_NAME].card))
    assert config.name == POSE_NAME
    assert [tuple(tensor.dims) for tensor in config.input] == [(3, 64, 48)]
    assert [tuple(tensor.dims) for tensor in config.output] == [(17, 16, 12)]
    assert max(config.dynamic_batching.preferred_batch_size) <= config.max_batch_size
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    assert [one.batch_size for one in config.model_warmup] == [1, 8]


def test_detector_outputs_vary_in_length(repository: Path):
    config = parsed(render_config(load_catalog(repository).models[DETECTOR_NAME].card))
    assert [(one.name, tuple(one.dims)) for one in config.output] == [
        ("boxes", (-1, 4)),
        ("scores", (-1,)),
    ]


def test_no_platform_is_named_so_that_the_file_decides(repository: Path):
    for model in load_catalog(repository).models.values():
        config = parsed(render_config(model.card))
        assert (config.platform, config.backend) == ("", "")


def test_every_card_gets_its_file(tmp_path: Path):
    from fakes import make_repository

    repository = make_repository(tmp_path)
    written = write_configs(repository)
    assert written == [repository / name / CONFIG_NAME for name in (DETECTOR_NAME, POSE_NAME)]


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no model repository beside the tests")
def test_shipped_files_are_those_of_their_cards():
    for model in load_catalog(SHIPPED).models.values():
        for form in filter(None, (model, model.decoded)):
            text = (form.folder / CONFIG_NAME).read_text(encoding="utf-8")
            assert text == render_config(form.card), "write it anew (triton_config)"
