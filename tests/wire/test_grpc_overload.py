"""gRPC with every slot taken: each call is refused by the service itself, told when to come again,
and counted; health, reflection and the list of models still answer.

A slot is held by a call whose picture has not come yet.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fakes import POSE_NAME
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client import AsyncClient
from posegate.errors import Overloaded, PosegateError, TooLarge
from wire.running import Service, answering, running_service, wait_until

ESTIMATE = "/posegate.v1.PoseService/Estimate"
STREAM = "/posegate.v1.PoseService/Stream"
IMAGES, STREAMS, CALLERS = 2, 1, 30
LARGE_BYTES = 4 * 2**20
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def small(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two pictures and one stream at a time."""
    log = tmp_path_factory.mktemp("small") / "log"
    with running_service(repository, log, max_images=IMAGES, max_streams=STREAMS) as running:
        yield running


@asynccontextmanager
async def opened(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        yield channel


@asynccontextmanager
async def all_slots_taken(service: Service) -> AsyncIterator[None]:
    """Hold every slot for pictures and every stream, over a connection of its own."""
    idle = in_flight(service)
    async with opened(service) as channel:
        calls = [channel.stream_unary(ESTIMATE)() for _ in range(IMAGES)]
        calls += [channel.stream_stream(STREAM)() for _ in range(STREAMS)]
        await asyncio.to_thread(wait_until, lambda: in_flight(service) == idle + IMAGES + STREAMS)
        yield
        for call in calls:
            call.cancel()
    await asyncio.to_thread(wait_until, lambda: in_flight(service) == idle)


def sample(service: Service, name: str, **labels: str) -> float:
    """Value of the metric whose labels include these; 0 before its first time."""
    for line in service.metrics().splitlines():
        found = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if found and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found[1])).items():
            return float(found[2])
    return 0.0


def in_flight(service: Service) -> float:
    return sample(service, "posegate_in_flight", face="grpc")


def counted(service: Service, code: str, route: str = ESTIMATE) -> float:
    return sample(service, "posegate_request_seconds_count", code=code, route=route)


def rejected(service: Service) -> float:
    return sample(service, "posegate_rejected_total", reason="overloaded")


def peak_bytes(service: Service) -> int:
    """The most memory that the process ever had resident."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


async def asked(channel: grpc.aio.Channel, image: bytes) -> grpc.aio.AioRpcError | str:
    try:
        request = pb.EstimateRequest(image=image)
        return (await services.PoseServiceStub(channel).Estimate(request)).poses.model
    except grpc.aio.AioRpcError as error:
        return error


def assert_overloaded(error: grpc.aio.AioRpcError) -> None:
    """The contract's refusal: code, slug, a time to come again, what the limit is called."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(error.trailing_metadata())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert info.reason == "overloaded"
    assert retry.retry_delay.ToMilliseconds() > 0
    assert "max_" in error.details()
    assert trailers["x-request-id"]


async def test_every_call_over_the_limit_is_refused_by_the_service_and_counted(
    small: Service, photo: bytes
):
    before = counted(small, "RESOURCE_EXHAUSTED"), rejected(small)
    async with opened(small) as channel, all_slots_taken(small):
        refusals = await asyncio.gather(*(asked(channel, photo) for _ in range(CALLERS)))
    for refusal in refusals:
        assert_overloaded(refusal)
    after = counted(small, "RESOURCE_EXHAUSTED"), rejected(small)
    assert [now - then for now, then in zip(after, before, strict=True)] == [CALLERS, CALLERS]


async def test_a_burst_is_answered_or_refused_and_each_call_counted(small: Service, photo: bytes):
    codes = ("OK", "RESOURCE_EXHAUSTED")
    before = [counted(small, code) for code in codes]
    async with opened(small) as channel:
        outcomes = await asyncio.gather(*(asked(channel, photo) for _ in range(CALLERS)))
    refusals = [outcome for outcome in outcomes if outcome != POSE_NAME]
    for refusal in refusals:
        assert_overloaded(refusal)
    growth = [counted(small, code) - then for code, then in zip(codes, before, strict=True)]
    assert growth == [CALLERS - len(refusals), len(refusals)]
    assert growth[0] >= 1


async def test_the_client_says_overloaded_and_when_to_come_again(small: Service, photo: bytes):
    async with AsyncClient(small.urls["grpc"], retries=0, timeout_s=LIMIT_S) as client:
        async with all_slots_taken(small):
            outcomes = await asyncio.gather(
                *(client.estimate(photo) for _ in range(CALLERS)), return_exceptions=True
            )
            with pytest.raises(Overloaded, match="max_streams"):
                await anext(client.stream([photo]))
        assert {type(outcome) for outcome in outcomes} == {Overloaded}
        assert all(outcome.retry_after_s > 0 for outcome in outcomes)
        assert (await client.estimate(photo))["model"] == POSE_NAME


async def test_health_reflection_and_models_answer_while_every_slot_is_taken(small: Service):
    async with opened(small) as channel, all_slots_taken(small):
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service="posegate.v1.PoseService")
        answers = await asyncio.gather(
            *(health.Check(check, timeout=LIMIT_S) for _ in range(CALLERS))
        )
        assert {answer.status for answer in answers} == {health_pb2.HealthCheckResponse.SERVING}
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = [answer async for answer in reflection.ServerReflectionInfo(iter([request]))]
        assert listed[0].list_services_response.service
        stub = services.PoseServiceStub(channel)
        assert (await stub.ListModels(pb.ListModelsRequest(), timeout=LIMIT_S)).models


async def test_what_is_refused_is_not_read_into_memory(small: Service):
    async with opened(small) as channel, all_slots_taken(small):
        for _ in range(2):  # what gRPC sets up for so many at a time is no part of it
            await asyncio.gather(*(asked(channel, bytes(1000)) for _ in range(CALLERS)))
        assert_overloaded(await asked(channel, bytes(LARGE_BYTES)))
        before = peak_bytes(small)
        refusals = await asyncio.gather(
            *(asked(channel, bytes(LARGE_BYTES)) for _ in range(CALLERS))
        )
        for refusal in refusals:
            assert_overloaded(refusal)
        assert peak_bytes(small) - before < CALLERS * LARGE_BYTES / 3


async def test_a_picture_that_never_comes_gives_its_slot_back(tight_service: Service, photo: bytes):
    async with opened(tight_service) as channel:
        call = channel.stream_unary(ESTIMATE)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive within 4 s" in caught.value.details()
        assert await asked(channel, photo) == POSE_NAME


@pytest.mark.parametrize("payloads", [[b"\xff\xff\xff"], []], ids=["no message", "none at all"])
async def test_a_call_without_a_message_that_can_be_read_is_told_so(
    service: Service, payloads: list[bytes]
):
    async with opened(service) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_unary(ESTIMATE)(iter(payloads))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "EstimateRequest" in caught.value.details()


async def test_a_client_that_goes_away_while_sending_is_no_refusal(service: Service):
    codes = ("CANCELLED", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
    before = [counted(service, code) for code in codes]
    idle = in_flight(service)
    async with opened(service) as channel:
        calls = [channel.stream_unary(ESTIMATE)() for _ in range(CALLERS)]
        await asyncio.to_thread(wait_until, lambda: in_flight(service) == idle + CALLERS)
        for call in calls:
            call.cancel()
        await asyncio.to_thread(wait_until, lambda: in_flight(service) == idle)
    growth = [counted(service, code) - then for code, then in zip(codes, before, strict=True)]
    assert growth == [CALLERS, 0, 0]


class Bare(services.PoseServiceServicer):
    """Refuses as gRPC's own limits and proxies do, without details; the second call is answered."""

    def __init__(self, detail: str) -> None:
        self.calls = 0
        self._detail = detail

    def Estimate(  # noqa: N802
        self, request: pb.EstimateRequest, context: grpc.ServicerContext
    ) -> pb.EstimateResponse:
        self.calls += 1
        if self.calls == 1:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self._detail)
        return pb.EstimateResponse(poses=pb.Poses(model="second"))


@pytest.mark.parametrize(
    ("detail", "error"),
    [
        ("Concurrent RPC limit exceeded!", Overloaded),
        ("Too many pending requests for this server", Overloaded),
        ("", Overloaded),
        ("Received message larger than max (41943045 vs. 41943040)", TooLarge),
        ("grpc: received message larger than max (5 vs. 4)", TooLarge),
        ("gRPC message exceeds maximum size 4: 5", TooLarge),
    ],
)
async def test_a_refusal_without_details_is_overload_unless_it_speaks_of_size(
    detail: str, error: type[PosegateError]
):
    with answering(Bare(detail)) as url:
        async with AsyncClient(url, retries=0) as client:
            with pytest.raises(error) as caught:
                await client.estimate(b"picture")
    assert type(caught.value) is error
    assert (caught.value.retry_after_s is not None) == (error is Overloaded)


@pytest.mark.parametrize(
    ("detail", "calls"),
    [("Concurrent RPC limit exceeded!", 2), ("Received message larger than max (5 vs. 4)", 1)],
)
async def test_only_overload_is_tried_again(detail: str, calls: int):
    bare = Bare(detail)
    with answering(bare) as url:
        async with AsyncClient(url, retries=1, timeout_s=LIMIT_S) as client:
            if calls == 2:
                assert (await client.estimate(b"picture"))["model"] == "second"
            else:
                with pytest.raises(TooLarge):
                    await client.estimate(b"picture")
    assert bare.calls == calls
