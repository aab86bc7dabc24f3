"""grpc.health.v1 over a real socket: who checks and who watches hear how the service is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from posegate.api import grpc as face
from posegate.metrics import Metrics
from posegate.settings import Settings
from wire.running import running_service

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SOON_S = 10.0
EVERYTHING = health_pb2.HealthCheckRequest()


@dataclass
class Made:
    """A server whose own pipeline, and whose other processes, are ready as a test likes."""

    stub: health_pb2_grpc.HealthStub
    health: face.Health
    server: grpc.aio.Server
    own: str | None = None
    others: str | None = None

    async def check(self) -> int:
        return (await self.stub.Check(EVERYTHING)).status


@pytest_asyncio.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    monkeypatch.setattr(face, "WATCH_S", 0.02)
    health = face.Health(
        SimpleNamespace(ready=lambda: one.own),
        others=lambda: one.others,
    )
    methods = SimpleNamespace(Estimate=None, Stream=None, ListModels=None)
    server = face.create_grpc_server(methods, health, Settings(), Metrics())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        one = Made(health_pb2_grpc.HealthStub(channel), health, server)
        yield one
    await server.stop(0)


async def told(watch: grpc.aio.UnaryStreamCall) -> int:
    async with asyncio.timeout(SOON_S):
        return (await watch.read()).status


async def test_whoever_watches_hears_of_every_change(made: Made):
    made.own = "triton is gone"
    watch = made.stub.Watch(EVERYTHING)
    assert await told(watch) == NOT_SERVING
    made.own = None
    assert await told(watch) == SERVING
    made.own = "triton is gone"
    assert await told(watch) == NOT_SERVING


async def test_one_who_leaves_takes_nobody_along(made: Made):
    first, second = made.stub.Watch(EVERYTHING), made.stub.Watch(EVERYTHING)
    assert await told(first) == await told(second) == SERVING
    first.cancel()
    await asyncio.sleep(0.1)
    made.own = "triton is gone"
    assert await told(second) == NOT_SERVING


async def test_other_processes_count_as_for_readyz(made: Made):
    assert await made.check() == SERVING
    made.others = "1 of 2 workers are still starting"
    assert await made.check() == NOT_SERVING


async def test_a_service_that_is_not_here_is_told_apart(made: Made):
    request = health_pb2.HealthCheckRequest(service="posegate.v2.PoseService")
    assert await told(made.stub.Watch(request)) == SERVICE_UNKNOWN
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await made.stub.Check(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert face.POSE_SERVICE in caught.value.details()


async def test_a_stop_is_told_and_waits_for_nobody_who_watches(repository: Path, tmp_path: Path):
    with running_service(repository, tmp_path / "log") as service:
        async with grpc.aio.insecure_channel(service.grpc_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(EVERYTHING)
            assert await told(watch) == SERVING
            service.process.terminate()
            assert await told(watch) == NOT_SERVING
            assert await watch.code() is grpc.StatusCode.OK
        assert await asyncio.to_thread(service.process.wait, SOON_S) == 0  # not the limit's 30 s
