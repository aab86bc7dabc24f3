"""The id of a request, chosen by the caller or made, finds its line in the service's log."""

import re
from collections.abc import Callable

import grpc
import pytest

from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from wire.running import Service, wait_until
from wire.test_early import HEAD, called
from wire.test_faults_clients import HANDSHAKE
from wire.test_limits import half_sent

MADE = re.compile("[0-9a-f]{32}")
Ask = Callable[[Service, bytes, dict[str, str]], str]


def over_http(service: Service, image: bytes, headers: dict[str, str]) -> str:
    """Ask for the poses; the id that the answer names."""
    with service.client() as client:
        return client.post("/v1/poses", content=image, headers=headers).headers["x-request-id"]


def over_grpc(service: Service, image: bytes, headers: dict[str, str]) -> str:
    """The same over gRPC."""
    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = services.PoseServiceStub(channel)
        call = stub.Estimate.future(
            pb.EstimateRequest(image=image), metadata=tuple(headers.items())
        )
        call.exception(60)
        return dict(call.trailing_metadata())["x-request-id"]


def line_of(service: Service, request_id: str) -> str:
    """The one line of the log with that id; it is written after the answer is sent."""

    def lines() -> list[str]:
        sought = f" request_id={request_id} "
        return [line for line in service.log.read_text().splitlines() if sought in line]

    wait_until(lambda: bool(lines()))
    (line,) = lines()
    return line


@pytest.mark.parametrize(
    ("ask", "good", "bad"),
    [
        (over_http, "POST /v1/poses 200 ", "POST /v1/poses 415 "),
        (
            over_grpc,
            "GRPC /posegate.v1.PoseService/Estimate OK ",
            "GRPC /posegate.v1.PoseService/Estimate INVALID_ARGUMENT ",
        ),
    ],
)
def test_answers_and_problems_are_logged_with_their_id(
    service: Service, photo: bytes, ask: Ask, good: str, bad: str
):
    for image, text in ((photo, good), (b"no picture", bad)):
        chosen = f"{ask.__name__}:{len(image)}"
        assert ask(service, image, {"x-request-id": chosen}) == chosen
        made = ask(service, image, {})
        assert MADE.fullmatch(made)
        for request_id in (chosen, made):
            line = line_of(service, request_id)
            assert text in line
            assert (" problem=" in line) == (text == bad)


@pytest.mark.parametrize("ask", [over_http, over_grpc])
@pytest.mark.parametrize("asked", ["a" * 65, "two words", 'quote"'])
def test_an_id_that_could_do_harm_is_logged_on_no_face(service: Service, ask: Ask, asked: str):
    made = ask(service, b"no picture", {"x-request-id": asked})
    assert MADE.fullmatch(made)
    assert line_of(service, made)
    assert asked not in service.log.read_text()


def test_a_refusal_from_the_head_alone_is_logged_with_its_id(tight_service: Service, photo: bytes):
    with half_sent(tight_service, photo), called(tight_service) as (connection, caller):
        connection.sendall(HEAD + b"X-Request-Id: early-1\r\nContent-Length: 0\r\n\r\n")
        status, headers, _ = caller.answer()
    assert (status, headers["x-request-id"]) == (429, "early-1")
    line = line_of(tight_service, "early-1")
    assert "POST /v1/poses 429 " in line
    assert " problem=" in line


def test_a_stream_over_a_websocket_is_logged_with_its_id(service: Service):
    with service.connect() as connection:
        connection.sendall(HANDSHAKE.removesuffix(b"\r\n") + b"X-Request-Id: socket-1\r\n\r\n")
        assert b" 101 " in connection.recv(1024)
    assert "WEBSOCKET /v1/stream 101 " in line_of(service, "socket-1")
