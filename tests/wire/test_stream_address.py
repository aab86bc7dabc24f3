"""What is told to those who open a stream in a wrong way, before and at its end."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wire.running import PROBLEM_FIELDS, Service, problem_of, running_service
from wire.test_faults_clients import HANDSHAKE
from wire.test_logged_ids import line_of

KEY_SHA256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"  # of "password"


async def refusal(
    service: Service, address: str, status: int, slug: str, **expected: str
) -> dict[str, object]:
    """The problem document that the handshake was answered with, and the headers expected."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"ws://{service.host}:{service.port}{address}", proxy=None):
            pass
    response = caught.value.response
    problem: dict[str, object] = json.loads(response.body)
    assert set(problem) == PROBLEM_FIELDS
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == problem["request_id"]
    assert expected.items() <= dict(response.headers).items()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, slug)
    line = await asyncio.to_thread(line_of, service, str(problem["request_id"]))
    assert f" {status} " in line
    return problem


@pytest.mark.parametrize("query", ["mode=every&min_score=7", "mode=live", "x"])
async def test_options_in_the_address_are_refused_and_their_place_is_told(
    service: Service, query: str
):
    problem = await refusal(service, f"/v1/stream?{query}", 422, "bad-option")
    assert "options go into the first text message" in str(problem["detail"])


async def test_an_open_stream_is_found_in_the_log(service: Service):
    address = f"ws://{service.host}:{service.port}/v1/stream"
    async with connect(address, proxy=None, additional_headers={"X-Request-Id": "mine"}) as socket:
        assert socket.response.headers["x-request-id"] == "mine"
    line = await asyncio.to_thread(line_of, service, "mine")
    assert "/v1/stream 101 " in line


async def test_a_message_too_large_to_be_read_is_counted_and_logged(tight_service: Service):
    def counted() -> float:
        lines = dict(line.rpartition(" ")[::2] for line in tight_service.metrics().splitlines())
        return float(lines['posegate_rejected_total{reason="too-large"}'])

    before = await asyncio.to_thread(counted)
    address = f"ws://{tight_service.host}:{tight_service.port}/v1/stream"
    async with connect(address, proxy=None, additional_headers={"X-Request-Id": "big"}) as socket:
        await socket.send(bytes(300_000))
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1009
    line = await asyncio.to_thread(line_of, tight_service, "big")
    assert "over twice max_body_bytes" in line
    assert await asyncio.to_thread(counted) == before + 1


async def test_a_stream_that_breaks_the_protocol_is_logged_as_refused(service: Service):
    address = f"ws://{service.host}:{service.port}/v1/stream"
    async with connect(address, proxy=None, additional_headers={"X-Request-Id": "broke"}) as socket:
        socket.transport.write(b"\x83\x80" + bytes(4))  # opcode 3 is reserved
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1002
    line = await asyncio.to_thread(line_of, service, "broke")
    assert "breaks its protocol (RFC 6455)" in line


@pytest.mark.parametrize(
    "parts", [b"\xff{}", [b'{"mode": "', b"\xff", b'"}']], ids=["whole", "parts"]
)
async def test_a_text_that_is_none_ends_the_stream_in_one_line_of_the_log(
    service: Service, parts: bytes | list[bytes]
):
    address = f"ws://{service.host}:{service.port}/v1/stream"
    name = f"no-text-{type(parts).__name__}"
    async with connect(address, proxy=None, additional_headers={"X-Request-Id": name}) as socket:
        await socket.send(parts, text=True)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (1007, "a text message has to be UTF-8")
    line = await asyncio.to_thread(line_of, service, name)
    assert "a text message has to be UTF-8" in line
    assert "Traceback" not in service.log.read_text()


async def test_a_websocket_elsewhere_is_told_that_there_is_none(service: Service):
    for address in ("/v1/nope", "/", "/v1/poses"):
        problem = await refusal(service, address, 404, "not-found")
        assert "/v1/stream" in str(problem["detail"])
    assert "error uvicorn" not in service.log.read_text()


async def test_a_key_in_the_address_opens_nothing_and_is_not_logged(
    repository: Path, tmp_path: Path
):
    with running_service(repository, tmp_path / "log", api_key_sha256=KEY_SHA256) as service:
        asked = {"www-authenticate": "Bearer"}
        await refusal(service, "/v1/stream?api_key=password", 401, "unauthenticated", **asked)
        assert "password" not in service.log.read_text()
        with service.client() as client:
            problem_of(client.get("/v1/stream"), 401, "unauthenticated")


def test_a_plain_get_is_asked_to_upgrade(client: httpx.Client):
    response = client.get("/v1/stream?mode=every")
    problem = problem_of(response, 426, "upgrade-required")
    assert response.headers["upgrade"] == "websocket"
    assert response.headers["connection"].lower() == "upgrade"
    assert "ws://" in str(problem["detail"])
    assert client.get("/livez").status_code == 200


def test_a_message_too_large_to_be_read_is_told_the_setting(tight_service: Service):
    length = (300_000).to_bytes(8, "big")
    with tight_service.connect() as connection:
        connection.sendall(HANDSHAKE)
        while not (head := connection.recv(65536)).endswith(b"\r\n\r\n"):
            assert head
        connection.sendall(b"\x82\xff" + length + bytes(4))
        frame = connection.recv(65536)
    assert frame[0] == 0x88  # a close
    assert int.from_bytes(frame[2:4], "big") == 1009
    reason = frame[4:].decode()
    assert "max_body_bytes" in reason
    assert "at most 100000 bytes" in reason
