"""Plans go to a real Triton that runs; it chooses its backend by the file that lies there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client

from fakes import DETECTOR_NAME, POSE_NAME
from made_tensorrt import MadeTensorRT, made_builder
from posegate.backends.triton_config import write_configs
from posegate.build import running_pipeline
from posegate.plan_loading import TritonLoader
from posegate.plans import PlanResult
from posegate.settings import Settings
from triton_server.asking import PHOTO, over, people
from triton_server.serving import TritonProcess, add_plan_backends, make_backends

EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")


@pytest.fixture
def networks(repository: Path, tmp_path: Path) -> Path:
    """A repository as it is deployed: Triton and the gateway read the same folder."""
    target = tmp_path / "networks"
    shutil.copytree(repository, target)
    write_configs(target)
    return target


@pytest.fixture
def version(networks: Path) -> Path:
    return networks / POSE_NAME / "1"


@pytest.fixture(scope="module")
def plan_backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_plan_backends(make_backends(tmp_path_factory.mktemp("backends")))


@pytest.fixture
def server(networks: Path, plan_backends: Path, tmp_path: Path) -> Iterator[TritonProcess]:
    with TritonProcess(networks, plan_backends, tmp_path / "log", *EXPLICIT) as server:
        yield server


def build(networks: Path, tensorrt: MadeTensorRT, server: TritonProcess) -> PlanResult:
    builder = made_builder(tensorrt, networks.parent / "cache", TritonLoader([server.url]))
    (result,) = builder.build_all(networks, (POSE_NAME,))
    return result


def backend_of(server: TritonProcess, name: str = POSE_NAME) -> str:
    with triton_client.InferenceServerClient(server.url) as client:
        assert client.is_model_ready(name)
        return client.get_model_config(name).config.backend


async def test_onnx_serves_while_a_plan_is_built_and_then_the_plan_does(networks, server):
    tensorrt, during = MadeTensorRT(), []
    tensorrt.building = lambda: during.append(backend_of(server))
    assert build(networks, tensorrt, server).state == "published"
    assert during == ["onnxruntime"]
    assert backend_of(server) == "tensorrt"
    embedded = Settings(model_repository=networks, threads=1)
    async with running_pipeline(embedded) as here, over(networks, server) as there:
        expected = await here.estimate(PHOTO, people(5))
        answer = await there.estimate(PHOTO, people(5))
        infos = {name: there.networks[name].info for name in (POSE_NAME, DETECTOR_NAME)}
    np.testing.assert_allclose(
        answer.poses.keypoints.xy, expected.poses.keypoints.xy, rtol=0, atol=0.01
    )
    assert (infos[POSE_NAME].provider, infos[POSE_NAME].precision) == ("tensorrt_plan", "fp32")
    assert infos[DETECTOR_NAME].provider == "onnxruntime_onnx"
    assert infos[DETECTOR_NAME].precision == "fp32"


def test_a_plan_that_triton_refuses_gives_way_to_what_served_before(networks, server, version):
    foreign = MadeTensorRT()
    foreign.version = "110000"
    result = build(networks, foreign, server)
    assert result.state == "refused"
    assert "the engine plan is of another TensorRT" in result.note
    assert result.note.endswith("; the ONNX file serves again")
    assert backend_of(server) == "onnxruntime"
    assert [path.name for path in version.iterdir()] == ["model.onnx"]

    assert build(networks, MadeTensorRT(), server).state == "published"
    served = (version / "model.plan").read_bytes()
    result = build(networks, foreign, server)
    assert result.note.endswith("; the former plan serves again")
    assert backend_of(server) == "tensorrt"
    assert (version / "model.plan").read_bytes() == served


def test_a_triton_that_takes_no_orders_is_named(networks, plan_backends, tmp_path, version):
    with TritonProcess(networks, plan_backends, tmp_path / "log") as server:
        result = build(networks, MadeTensorRT(), server)
        assert result.state == "unloaded"
        assert "--model-control-mode=explicit" in result.note
        assert backend_of(server) == "onnxruntime"
        server.kill()
        server.start()
        assert backend_of(server) == "tensorrt"


def test_model_plan_or_model_onnx_decides(networks, backends, version, tmp_path):
    """Here Triton has neither backend and says which one it wants for each network."""
    (version / "model.plan").write_bytes(b"a plan")
    with (
        TritonProcess(networks, backends, tmp_path / "log") as server,
        triton_client.InferenceServerClient(server.url) as client,
    ):
        index = client.get_model_repository_index().models
    reasons = {model.name: model.reason for model in index}
    assert "backend 'tensorrt'" in reasons[POSE_NAME]
    assert "backend 'onnxruntime'" in reasons[DETECTOR_NAME]
