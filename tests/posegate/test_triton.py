"""crops -> heatmaps in Triton, seen from the gateway alone: servers that are made here."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient")

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from fakes import HEATMAP_SIZE_WH, POSE_NAME, POSE_SIZE_WH, until
from posegate.backends import triton
from posegate.backends.triton import TritonNetwork
from posegate.backends.triton_config import render_config
from posegate.catalog import load_catalog
from posegate.errors import BackendDown, DeadlineExceeded, Overloaded, PosegateError
from posegate.metrics import Metrics

MAX_BATCH = 2


class MadeServers:
    """Ready at once, runs what it is asked, but for the failures it is given; `told` can change.

    While `lone_crops_fail`, requests for a single crop fail, others run until they are cancelled
    and then take a moment to end.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.told = config
        self.failures: list[PosegateError] = []
        self.lone_crops_fail = False
        self.running = 0
        self.asked: list[int] = []

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def ready(self, model: str) -> None: ...

    async def until_ready(self, model: str) -> None: ...

    async def config(self, model: str) -> ModelConfig:
        return self.told

    async def infer(self, tensors, crops, *, deadline):
        self.running += 1
        self.asked.append(len(crops))
        try:
            await self._fail(len(crops))
        finally:
            self.running -= 1
        return (np.zeros((len(crops), 17, *HEATMAP_SIZE_WH[::-1]), np.float32),)

    async def _fail(self, crops: int) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if self.lone_crops_fail and crops == 1:
            raise BackendDown("a part failed")
        if self.lone_crops_fail:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)


@pytest.fixture
def servers(repository: Path) -> MadeServers:
    config = text_format.Parse(
        render_config(load_catalog(repository).models[POSE_NAME]), ModelConfig()
    )
    config.max_batch_size = MAX_BATCH
    return MadeServers(config)


@pytest.fixture
def network(repository: Path, servers: MadeServers) -> TritonNetwork:
    model = load_catalog(repository).models[POSE_NAME]
    return TritonNetwork(model, servers=servers, metrics=Metrics(), max_in_flight=4, max_queue=8)


def crops(count: int) -> np.ndarray:
    return np.zeros((count, 3, *POSE_SIZE_WH[::-1]), np.float32)


async def test_a_start_beside_a_busy_triton_waits(
    network: TritonNetwork, servers: MadeServers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(triton, "RETRY_S", 0.0)
    servers.failures += [Overloaded("full"), DeadlineExceeded("late"), BackendDown("gone")]
    await network.start()
    assert not servers.failures
    assert network.ready() is None


async def test_crops_count_until_every_part_of_their_request_has_ended(
    network: TritonNetwork, servers: MadeServers
):
    await network.start()
    servers.lone_crops_fail = True
    with pytest.raises(BackendDown, match="a part failed"):
        await network.infer(crops(3 * MAX_BATCH + 1))
    assert servers.running == 0
    servers.lone_crops_fail = False
    outputs = (await network.infer(crops(8))).outputs  # as many as may wait
    assert outputs[0].shape[0] == 8


async def test_what_triton_serves_under_the_name_now_is_told(
    repository: Path, servers: MadeServers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(triton, "READ_AGAIN_S", 0.01)
    model, metrics = load_catalog(repository).models[POSE_NAME], Metrics()
    network = TritonNetwork(model, servers=servers, metrics=metrics, max_in_flight=4, max_queue=8)

    def told(precision: str, provider: str) -> float | None:
        labels = {"model": POSE_NAME, "backend": "triton", "sha256": model.card.sha256}
        labels |= {"precision": precision, "provider": provider}
        return metrics.registry.get_sample_value("posegate_model_info", labels)

    servers.told.platform = "onnxruntime_onnx"
    await network.start()
    assert told("fp32", "onnxruntime_onnx") == 1
    plan = ModelConfig()
    plan.CopyFrom(servers.told)
    plan.platform, plan.backend, plan.max_batch_size = "tensorrt_plan", "tensorrt", 2 * MAX_BATCH
    servers.told = plan
    await until(lambda: told("unknown", "tensorrt_plan") == 1)  # no record lies beside the plan
    assert told("fp32", "onnxruntime_onnx") == 0
    assert network.info.provider == "tensorrt_plan"
    servers.asked.clear()
    await network.infer(crops(2 * MAX_BATCH))
    assert servers.asked == [2 * MAX_BATCH]
    await network.stop()


async def test_the_reading_goes_on_after_what_nobody_foresaw(
    network: TritonNetwork,
    servers: MadeServers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(triton, "READ_AGAIN_S", 0.01)
    await network.start()
    with monkeypatch.context() as broken:
        broken.setattr(triton, "_precision", lambda *_: {}["nobody foresaw this"])
        await until(lambda: "cannot be read again" in caplog.text)
    servers.told.platform = "tensorrt_plan"
    await until(lambda: network.info.provider == "tensorrt_plan")
    await network.stop()


async def test_a_network_that_no_longer_fits_its_card_is_told_once(
    network: TritonNetwork,
    servers: MadeServers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(triton, "READ_AGAIN_S", 0.01)
    await network.start()
    servers.told.output[0].name = "foreign"
    await until(lambda: "has outputs ['foreign']" in caplog.text)
    await asyncio.sleep(0.05)
    assert caplog.text.count("has outputs ['foreign']") == 1
    await network.stop()
