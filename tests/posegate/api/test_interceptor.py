"""What every gRPC call leaves behind: posegate.api.interceptor."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio

from fakes import until
from posegate.api.interceptor import Interceptor
from posegate.api.keys import ApiKeys
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.errors import DeadlineExceeded
from posegate.metrics import Metrics
from posegate.settings import Settings
from posegate.tracing import Untraced

SERVICE = pb.DESCRIPTOR.services_by_name["PoseService"]


class Picture:
    """What a frame of a call holds."""


class Busy(services.PoseServiceServicer):
    """Answers nobody, and refuses every picture."""

    def __init__(self) -> None:
        self.pictures: weakref.WeakSet[Picture] = weakref.WeakSet()

    async def Estimate(self, request: object, context: object) -> pb.EstimateResponse:  # noqa: N802
        try:
            self._look(Picture())
        except TimeoutError as error:
            raise DeadlineExceeded("too late") from error
        raise AssertionError

    def _look(self, picture: Picture) -> None:
        self.pictures.add(picture)
        raise TimeoutError

    async def ListModels(self, request: object, context: object) -> pb.ListModelsResponse:  # noqa: N802
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def busy() -> Busy:
    return Busy()


@pytest_asyncio.fixture
async def stub(metrics: Metrics, busy: Busy) -> AsyncIterator[services.PoseServiceStub]:
    interceptor = Interceptor(keys=ApiKeys(Settings()), metrics=metrics, tracing=Untraced())
    server = grpc.aio.server()
    services.add_PoseServiceServicer_to_server(interceptor.wrap(busy, SERVICE), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield services.PoseServiceStub(channel)
    await server.stop(0)


# The caller's deadline or None, whether the caller cancels, and what is counted. A deadline over a
# second is rounded up on the wire, so that the caller's passes before the service's.
@pytest.mark.parametrize(
    ("timeout_s", "cancels", "code", "refusals"),
    [
        (0.3, False, "DEADLINE_EXCEEDED", 1),
        (1.0015, False, "DEADLINE_EXCEEDED", 1),
        (60.0, True, "CANCELLED", 0),
        (None, True, "CANCELLED", 0),
    ],
)
async def test_a_deadline_is_told_from_a_call_given_up(
    stub: services.PoseServiceStub,
    metrics: Metrics,
    timeout_s: float | None,
    cancels: bool,
    code: str,
    refusals: int,
):
    def counted(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    call = stub.ListModels(pb.ListModelsRequest(), timeout=timeout_s)
    await until(lambda: counted("posegate_in_flight", face="grpc") == 1.0)
    if cancels:
        call.cancel()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call
    await until(lambda: counted("posegate_in_flight", face="grpc") == 0.0)
    route = f"/{SERVICE.full_name}/ListModels"
    exchange = {"face": "grpc", "route": route, "code": code}
    assert counted("posegate_request_seconds_count", **exchange) == 1.0
    assert counted("posegate_rejected_total", reason="deadline") == refusals


async def test_a_refused_call_leaves_no_picture_behind(stub: services.PoseServiceStub, busy: Busy):
    """Whatever gRPC makes garbage of waits for the collector, for thousands of calls."""
    gc.disable()
    try:
        with pytest.raises(grpc.aio.AioRpcError, match="too late"):
            await stub.Estimate(pb.EstimateRequest())
        await until(lambda: not busy.pictures)
    finally:
        gc.enable()
