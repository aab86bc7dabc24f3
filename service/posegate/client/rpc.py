"""gRPC for pictures and streams; its messages become the documents of the HTTP API."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client.messages import (
    estimate_options,
    event_document,
    poses_document,
    stream_options,
)
from posegate.client.tls import Tls
from posegate.client.transport import RETRYABLE, Document, Outgoing, bearer, error_of, failure
from posegate.errors import BackendDown, BadOption, PosegateError

UNLIMITED = -1
"""The service judges how large a picture may be, not this client."""
SLUGS = {
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.CANCELLED: "unavailable",  # the service stopped before it took the call
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
}
"""What errors mean that gRPC itself raised, without the service's details."""
RETRY_AFTER_S = 0.2
OVERSIZE = re.compile(r"\bmessage\b.*\b(larger|exceeds|too (large|big|long))\b", re.IGNORECASE)
"""How gRPC's libraries and proxies word a message over their limit."""


class GrpcTransport:
    """Talks to a grpc:// or grpcs:// address."""

    def __init__(self, address: str, api_key: str | None, tls: Tls | None) -> None:
        key = bearer(api_key)
        if key is not None and not key.isascii():
            raise BadOption("gRPC takes API keys of ASCII only; call this service over HTTP")
        self._metadata = (("authorization", key),) if key else ()
        self._address = address
        self._credentials = None if tls is None else tls.credentials()
        self._channel: grpc.aio.Channel | None = None
        self._made: Any = None

    @property
    def _stub(self) -> Any:
        """Made by the first call, since a channel belongs to the loop that it was made in."""
        if self._made is None:
            options = (
                ("grpc.max_send_message_length", UNLIMITED),
                ("grpc.max_receive_message_length", UNLIMITED),
            )
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address, options=options)
            else:
                self._channel = grpc.aio.secure_channel(
                    self._address, self._credentials, options=options
                )
            self._made = services.PoseServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self._made

    async def estimate(self, image: bytes, options: Document, timeout_s: float) -> Document:
        request = pb.EstimateRequest(image=image, options=estimate_options(options))
        response = await self._call(self._stub.Estimate, request, timeout_s)
        return poses_document(response.poses)

    async def models(self, timeout_s: float) -> list[Document]:
        response = await self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return [json.loads(model.card_json) for model in response.models]

    async def stream(self, outgoing: Outgoing, options: Document) -> AsyncGenerator[Document]:
        first = pb.StreamRequest(options=stream_options(options)) if options else None
        call = self._stub.Stream(metadata=self._metadata)
        sending = asyncio.create_task(_send(call, outgoing, first))
        sending.add_done_callback(lambda task: call.cancel() if failure(task) else None)
        summary: Document | None = None
        try:
            async for response in call:
                event = event_document(response)
                if event["event"] == "summary":
                    summary = event
                yield event
            if summary is None:
                raise BackendDown("the stream was cut off before its summary", retry_after_s=1.0)
            outgoing.check(summary)
        except grpc.aio.AioRpcError as error:
            if summary is not None:  # a frame of ours met the end of the call
                outgoing.check(summary)
                return
            if error.code() is grpc.StatusCode.INTERNAL and first is not None:
                await self._ask_why(first)
            raise _refusal(error) from error
        except asyncio.CancelledError:
            if (reason := failure(sending)) is not None:
                raise reason from None
            raise
        finally:
            sending.cancel()
            try:
                await asyncio.gather(sending, return_exceptions=True)
            finally:  # also where this is cancelled once more
                call.cancel()

    async def _ask_why(self, first: pb.StreamRequest) -> None:
        """Raise what a stream of these options is refused with, if it is.

        A write that crosses the refusal hides its reason; a stream without frames tells it.
        """
        call = self._stub.Stream(metadata=self._metadata)
        try:
            await call.write(first)
            await call.done_writing()
            await call.read()
        except grpc.aio.AioRpcError as error:
            raise _refusal(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close(None)

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _refusal(error) from error


async def _send(call: Any, outgoing: Outgoing, first: pb.StreamRequest | None) -> None:
    """Send options and frames, but nothing to a service that has already refused the stream.

    The service answers with its metadata once it takes the stream. A write after its refusal
    would turn the refusal's status into an internal error.
    """
    try:
        await call.initial_metadata()
        outgoing.taken()
        if first is not None and not call.done():
            await call.write(first)
        async with aclosing(outgoing.each()) as read:
            async for frame in read:
                if call.done():
                    return
                await call.write(pb.StreamRequest(frame=frame))
        if not call.done():
            await call.done_writing()
    except grpc.aio.AioRpcError:
        return  # the reader of the events gets it as well


def _refusal(error: grpc.aio.AioRpcError) -> PosegateError:
    detail = error.details() or error.code().name
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    slug = SLUGS.get(error.code(), "")
    if slug == "overloaded" and OVERSIZE.search(detail):
        slug = "too-large"
    retry_after_s = RETRY_AFTER_S if slug in RETRYABLE else None
    info, retry = ErrorInfo(), RetryInfo()
    for item in Status.FromString(trailers.get("grpc-status-details-bin", b"")).details:
        if item.Unpack(info):
            slug, retry_after_s = info.reason, None
        elif item.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return error_of(slug, detail, retry_after_s)
