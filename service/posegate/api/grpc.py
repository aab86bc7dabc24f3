"""The gRPC face: parse, call, render."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from posegate.api.interceptor import Context, Interceptor
from posegate.api.keys import ApiKeys
from posegate.api.limits import MESSAGE_ROOM, Deadline, Slots
from posegate.api.messages import (
    event_message,
    model_message,
    poses_message,
    read_options,
    read_stream_request,
)
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.errors import BadOption, DeadlineExceeded, PosegateError
from posegate.events import Event
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.sockets import MOST_CONNECTIONS
from posegate.stages import StageClock
from posegate.streams import StreamOptions, Streams
from posegate.tracing import Tracing, Untraced, follow

POSE_SERVICE = "posegate.v1.PoseService"
GRPC_LOG = logging.getLogger("grpc._cython.cygrpc")
NOT_DELIVERED = 'Failed "execute_batch"'
HANG_UP_S = 0.1
"""How long a call that ended without a message waits before it is refused. A message over gRPC's
limit, or a client that goes away, ends the messages first and cancels the call just after."""
WATCH_S = 1.0
KEEPALIVE_MS = 20_000
WHOLE_PICTURE_BYTES = 2**20
"""A picture up to this size comes in one HTTP/2 frame and without waiting for the window to open;
with gRPC's own 16 and 64 kB a call of 160 kB costs 5 to 10 % more of both sides' processors."""


class PoseService(services.PoseServiceServicer):
    """The methods of posegate.v1.PoseService; errors are the interceptor's."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        *,
        slots: Slots,
        streams: Streams,
    ) -> None:
        self._pipeline = pipeline
        self._limit_s = settings.request_timeout_s
        self._metrics = metrics
        self._slots = slots
        self._streams = streams
        catalog = pipeline.catalog
        cards = [catalog.card_in_use(model) for model in catalog.models.values()]
        self._models = [model_message(card) for card in cards]

    async def Estimate(  # noqa: N802  the name is the contract's
        self, requests: AsyncIterator[pb.EstimateRequest], context: Context
    ) -> pb.EstimateResponse:
        """The one message is read with a slot taken, so that a refused call takes no memory."""
        deadline = Deadline.after(context.time_remaining(), limit_s=self._limit_s)
        with self._slots.taken():
            request = await self._received(requests, deadline)
            clock = follow(StageClock())
            options = read_options(request.options)
            self._pipeline.check(options)
            image = request.image
            del request  # a second copy of the picture
            estimate = await self._pipeline.estimate(
                image, options, deadline=deadline.at, clock=clock
            )
        poses = poses_message(estimate, min_keypoint_score=options.min_keypoint_score)
        self._metrics.observe_image(estimate.model, clock.stages_ms, len(estimate.poses))
        return pb.EstimateResponse(poses=poses)

    async def Stream(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamRequest], context: Context
    ) -> None:
        minimum = 0.0

        async def incoming() -> AsyncGenerator[StreamOptions | bytes | PosegateError]:
            nonlocal minimum
            begun = False
            try:
                async for request in requests:
                    item = read_stream_request(request)
                    del request  # a second copy of the frame
                    if isinstance(item, StreamOptions) and not begun:
                        minimum = item.estimate.min_keypoint_score
                    begun = True
                    yield item
            except DecodeError:  # after which gRPC reads no more
                yield BadOption("a message of the stream is not a StreamRequest")

        async def send(event: Event) -> None:
            await context.write(event_message(event, min_keypoint_score=minimum))

        with self._streams.slot():
            await context.send_initial_metadata(())
            async with aclosing(incoming()) as items:
                await self._streams.run(items, send)

    async def ListModels(  # noqa: N802
        self, request: bytes, context: Context
    ) -> pb.ListModelsResponse:
        try:
            pb.ListModelsRequest.FromString(request)
        except DecodeError as error:
            raise BadOption("the message is not a ListModelsRequest") from error
        return pb.ListModelsResponse(models=self._models)

    async def _received(
        self, requests: AsyncIterator[pb.EstimateRequest], deadline: Deadline
    ) -> pb.EstimateRequest:
        try:
            async with asyncio.timeout(deadline.at - time.monotonic()):
                return await anext(requests)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the picture did not arrive within {deadline.timeout_s:g} s; allow more time "
                "(the service's own limit is request_timeout_s) or send fewer bytes"
            ) from error
        except DecodeError as error:
            raise BadOption("the message is not an EstimateRequest") from error
        except StopAsyncIteration as error:
            await asyncio.sleep(HANG_UP_S)
            raise BadOption("the call ended without an EstimateRequest; send one") from error


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no stubs
    """grpc.health.v1; the pipeline is asked at every check, and every second for those who watch.

    gRPC's own servicer tells no watcher any more once one of several has left, and its watchers
    hold up the stop.
    """

    def __init__(
        self, pipeline: Pipeline, *, others: Callable[[], str | None] = lambda: None
    ) -> None:
        """`others` says why other processes of the service are not ready; None when they are."""
        self._pipeline = pipeline
        self._others = others
        self._stopping = False

    def stop(self) -> None:
        """Answer NOT_SERVING from now on; watchers are told, then their calls end."""
        self._stopping = True

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        answer = self._answer(request.service)
        if answer.status == answer.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the service here is {POSE_SERVICE}")
        return answer

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        told = None
        while True:
            is_last, answer = self._stopping, self._answer(request.service)
            if answer != told:
                await context.write(answer)
            if is_last:
                return
            told = answer
            await asyncio.sleep(WATCH_S)

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        answer = health_pb2.HealthCheckResponse
        if service not in ("", POSE_SERVICE):
            return answer(status=answer.SERVICE_UNKNOWN)
        waits = self._stopping or self._pipeline.ready() or self._others()
        return answer(status=answer.NOT_SERVING if waits else answer.SERVING)


def create_grpc_server(
    service: PoseService,
    check: Health,
    settings: Settings,
    metrics: Metrics,
    tracing: Tracing | None = None,
) -> grpc.aio.Server:
    """A server with our service, health and reflection; not bound to a port yet."""
    GRPC_LOG.addFilter(_is_worth_a_trace)
    max_bytes = MESSAGE_ROOM * settings.max_body_bytes
    interceptor = Interceptor(
        keys=ApiKeys(settings), metrics=metrics, tracing=tracing or Untraced()
    )
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),  # answers are ours, however many people
            ("grpc.http2.lookahead_bytes", WHOLE_PICTURE_BYTES),
            ("grpc.http2.max_frame_size", WHOLE_PICTURE_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", int(settings.workers > 1)),
            ("grpc.server.max_pending_requests", MOST_CONNECTIONS),
            ("grpc.server.max_pending_requests_hard_limit", MOST_CONNECTIONS),
        ),
        # What comes on top gRPC itself refuses, health checks too and without a word of ours, so
        # only a flood of calls held open may meet it; pictures and streams have far smaller limits.
        maximum_concurrent_rpcs=MOST_CONNECTIONS,
    )
    methods = interceptor.wrap(service, pb.DESCRIPTOR.services_by_name["PoseService"])
    server.add_generic_rpc_handlers((_handlers(methods),))
    health_pb2_grpc.add_HealthServicer_to_server(check, server)
    enable_server_reflection((POSE_SERVICE, HEALTH, REFLECTION), server)
    return server


def _is_worth_a_trace(record: logging.LogRecord) -> bool:
    """False for the error with a trace that gRPC logs where a client leaves while its answer is
    being sent: the interceptor has logged that call.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, grpc.aio.InternalError) and str(error).startswith(NOT_DELIVERED))


def _handlers(methods: SimpleNamespace) -> "grpc.GenericRpcHandler[Any, Any]":
    """As the generated ones, but `Estimate` and `ListModels` read their message themselves.

    `Estimate` takes a slot first; of a broken `ListModelsRequest` gRPC would answer in our place.
    """
    return grpc.method_handlers_generic_handler(
        POSE_SERVICE,
        {
            "Estimate": grpc.stream_unary_rpc_method_handler(
                methods.Estimate,
                request_deserializer=pb.EstimateRequest.FromString,
                response_serializer=pb.EstimateResponse.SerializeToString,
            ),
            "Stream": grpc.stream_stream_rpc_method_handler(
                methods.Stream,
                request_deserializer=pb.StreamRequest.FromString,
                response_serializer=pb.StreamResponse.SerializeToString,
            ),
            "ListModels": grpc.unary_unary_rpc_method_handler(
                methods.ListModels,
                request_deserializer=None,
                response_serializer=pb.ListModelsResponse.SerializeToString,
            ),
        },
    )
