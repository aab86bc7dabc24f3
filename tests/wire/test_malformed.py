"""Bytes that are no HTTP/1.1, or no handshake: a problem like any other, counted and logged."""

import json
import socket
import time
from contextlib import suppress

import pytest

from wire.running import PROBLEM_FIELDS, Service
from wire.test_limits import read_all
from wire.test_logged_ids import line_of

ENCODED = "percent-encoded"
CASES = {
    "no request line": (b"GARBAGE\r\n\r\n", ENCODED),
    "a space in the query": (
        b"POST /v1/poses?boxes=[[1, 2, 3, 4]] HTTP/1.1\r\nHost: x\r\n\r\n",
        ENCODED,
    ),
    "a letter beyond ASCII": ("GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(), ENCODED),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", "Host"),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "Host"),
    "a negative length": (
        b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\nabcd",
        "Content-Length",
    ),
    "two lengths": (
        b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "Content-Length",
    ),
    "an unknown coding": (
        b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        "chunked",
    ),
    "a header without colon": (b"GET /livez HTTP/1.1\r\nHost: x\r\nsecret word\r\n\r\n", "header"),
    "a header with a space": (
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-API-Key : secret\r\n\r\n",
        "header",
    ),
    "a long head": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 50_000, "too long"),
    "a broken chunk": (
        b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "hexadecimal",
    ),
}


def answer_to(service: Service, data: bytes) -> tuple[str, dict[str, str], dict[str, object]]:
    """Status line, headers in lower case, and the document, after which the service must close."""
    with service.connect() as connection:
        connection.sendall(data)
        head, _, content = read_all(connection).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert int(headers["content-length"]) == len(content)
    return status, headers, json.loads(content)


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_http_gets_a_problem_that_is_logged(service: Service, name: str):
    data, hint = CASES[name]
    status, headers, problem = answer_to(service, data)
    assert status == "HTTP/1.1 400 Bad Request"
    assert headers["content-type"] == "application/problem+json"
    assert set(problem) == PROBLEM_FIELDS
    assert (problem["type"], problem["status"]) == ("bad-request", 400)
    assert hint in str(problem["detail"])
    assert problem["request_id"] == headers["x-request-id"]
    line = line_of(service, headers["x-request-id"])
    assert "MALFORMED unmatched 400 " in line
    assert hint in line
    log = service.log.read_text()
    assert "secret" not in log
    assert "Traceback" not in log


def test_what_is_no_http_is_counted(service: Service):
    def counts() -> tuple[float, float]:
        lines = dict(line.rpartition(" ")[::2] for line in service.metrics().splitlines())
        asked = 'posegate_request_seconds_count{code="400",face="http",route="unmatched"}'
        refused = 'posegate_rejected_total{reason="bad-request"}'
        return float(lines.get(asked, 0)), float(lines[refused])

    asked, refused = counts()
    for _ in range(3):
        answer_to(service, b"GARBAGE\r\n\r\n")
    assert counts() == (asked + 3, refused + 3)


def test_a_caller_that_sends_a_photo_after_it_still_reads_the_problem(service: Service):
    head = (
        b"POST /v1/poses?boxes=[[1, 2, 3, 4]] HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
    )
    with service.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        connection.sendall(head)
        for _ in range(9):
            connection.sendall(bytes(100_000))
        assert ENCODED.encode() in read_all(connection)


def test_nobody_may_send_for_ever(tight_service: Service):
    with tight_service.connect() as connection, suppress(OSError):
        connection.sendall(b"GARBAGE\r\n\r\n")
        for _ in range(100):
            connection.sendall(bytes(100_000))
        raise AssertionError("10 MB were taken after a refusal")


def test_a_connection_may_break_after_good_requests(service: Service):
    with service.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n")
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 400 ") == 1


def test_a_head_has_to_come_to_its_end(impatient_service: Service):
    """Neither a part of it, nor silence, nor a drop now and then holds a connection for ever."""
    asked = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    reason = 'posegate_rejected_total{reason="request-timeout"} '
    before = float(impatient_service.metrics().split(reason)[1].split()[0])
    with impatient_service.connect() as connection:
        connection.sendall(asked + b"GET /li")
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    head, _, content = received.partition(b"HTTP/1.1 408 ")[2].partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(content)["type"] == "request-timeout"
    assert "keep_alive_s" in json.loads(content)["detail"]
    assert float(impatient_service.metrics().split(reason)[1].split()[0]) == before + 1
    with impatient_service.connect() as connection:
        assert read_all(connection) == b""
    with impatient_service.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() < began + 10:
                time.sleep(0.1)
                connection.sendall(b"X: y\r\n")
        assert time.monotonic() < began + 10
    with impatient_service.connect() as connection:
        for _ in range(4):
            connection.sendall(asked)
            time.sleep(0.7)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        time.sleep(1.5)
        connection.sendall(b"no image!")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 415 ")


UPGRADE = b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
STREAM = b" /v1/stream HTTP/1.1\r\n"
HANDSHAKES = {
    "no key": (b"GET" + STREAM + UPGRADE + VERSION, 400),
    "another version": (b"GET" + STREAM + UPGRADE + KEY + VERSION.replace(b"13", b"8"), 400),
    "posted": (b"POST" + STREAM + UPGRADE + KEY + VERSION, 405),
    "a long cookie": (
        b"GET" + STREAM + UPGRADE + KEY + VERSION + b"Cookie: secret" + b"a" * 9000 + b"\r\n",
        431,
    ),
    "many headers": (b"GET" + STREAM + UPGRADE + KEY + VERSION + b"X: secret\r\n" * 130, 431),
    "a long address": (
        b"GET /v1/stream?" + b"a" * 9000 + b" HTTP/1.1\r\n" + UPGRADE + KEY + VERSION,
        414,
    ),
    "a body to come": (
        b"GET" + STREAM + UPGRADE + KEY + VERSION + b"Transfer-Encoding: chunked\r\n",
        400,
    ),
    "a body": (b"POST" + STREAM + UPGRADE + KEY + VERSION + b"Content-Length: 2\r\n", 400),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_what_opens_no_websocket_gets_a_problem_that_is_logged_and_counted(
    service: Service, name: str
):
    def counted(status: int) -> float:
        lines = dict(line.rpartition(" ")[::2] for line in service.metrics().splitlines())
        labels = f'code="{status}",face="websocket",route="unmatched"'
        return float(lines.get(f"posegate_request_seconds_count{{{labels}}}", 0))

    head, status = HANDSHAKES[name]
    before = counted(status)
    told, headers, problem = answer_to(service, head + b"\r\n")
    assert told.startswith(f"HTTP/1.1 {status} ")
    assert headers["content-type"] == "application/problem+json"
    assert set(problem) == PROBLEM_FIELDS
    assert problem["status"] == status
    assert problem["request_id"] == headers["x-request-id"]
    assert f"MALFORMED unmatched {status} " in line_of(service, headers["x-request-id"])
    assert "secret" not in service.log.read_text()
    assert counted(status) == before + 1
