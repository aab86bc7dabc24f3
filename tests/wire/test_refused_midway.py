"""A stream is refused while the client still writes frames: it learns the reason all the same.

A write that crosses the refusal makes INTERNAL of its status, in grpc.aio itself and about once in
thirty streams (grpc/grpc issue 36066). The server here says INTERNAL each time that frames come.
"""

from collections.abc import Iterator
from itertools import repeat

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client import AsyncClient
from posegate.errors import BadOption, Overloaded, PosegateError, status_of
from wire.running import answering


class Refusing(services.PoseServiceServicer):
    """Refuses every stream, and hides the reason where a frame came before it."""

    def __init__(self, code: grpc.StatusCode, slug: str, detail: str) -> None:
        self.asked: list[pb.StreamRequest] = []
        self._code, self._detail = code, detail
        status = Status(code=code.value[0], message=detail)
        status.details.add().Pack(ErrorInfo(reason=slug, domain="posegate"))
        self._trailers = (("grpc-status-details-bin", status.SerializeToString()),)

    def Stream(  # noqa: N802
        self, requests: Iterator[pb.StreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamResponse]:
        context.send_initial_metadata(())
        self.asked.append(next(requests))
        if next(requests, None) is not None:
            context.abort(grpc.StatusCode.INTERNAL, "Internal error from Core")
        context.set_trailing_metadata(self._trailers)
        context.abort(self._code, self._detail)
        yield pb.StreamResponse()


@pytest.mark.parametrize(
    ("code", "slug", "error"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded", Overloaded),
        (grpc.StatusCode.INVALID_ARGUMENT, "bad-option", BadOption),
    ],
)
async def test_a_frame_that_crosses_the_refusal_does_not_hide_its_reason(
    code: grpc.StatusCode, slug: str, error: type[PosegateError]
):
    refusing = Refusing(code, slug, "the reason in words")
    with answering(refusing) as url:
        async with AsyncClient(url) as client:
            with pytest.raises(PosegateError) as caught:
                await anext(client.stream(repeat(b"a frame"), max_people=3))
    assert type(caught.value) is error
    assert status_of(caught.value).grpc == code.name
    assert caught.value.detail == "the reason in words"
    first, again = refusing.asked
    assert first == again
    assert again.options.estimate.max_people == 3
