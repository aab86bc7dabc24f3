"""Requests refused from their heads alone, over real sockets: what stays whole around them."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wire.running import Service, running_service
from wire.test_limits import half_sent, read_all

HEAD = b"POST /v1/poses?max_people=3 HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


class Caller:
    """Keeps one connection and takes answers off it one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rb")

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, content."""
        status = int(self._stream.readline().split()[1])
        headers = {}
        while line := self._stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, self._stream.read(int(headers["content-length"]))


@pytest.fixture
def full_service(tight_service: Service, photo: bytes) -> Iterator[Service]:
    """A service whose only slot is held by a request half sent."""
    with half_sent(tight_service, photo):
        yield tight_service
    tight_service.wait_for_in_flight(0)


@contextmanager
def called(service: Service) -> Iterator[tuple[socket.socket, Caller]]:
    with service.connect() as connection:
        yield connection, Caller(connection)


def test_a_connection_outlives_its_refusals(tight_service: Service, photo: bytes):
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(photo) + photo
    with called(tight_service) as (connection, caller):
        with half_sent(tight_service, photo):
            for _ in range(3):
                connection.sendall(request)
                assert caller.answer()[0] == 429
        tight_service.wait_for_in_flight(0)
        connection.sendall(request)
        assert caller.answer()[0] == 200


def test_requests_sent_in_one_go_are_answered_in_turn(full_service: Service):
    request = HEAD + b"Content-Length: 5\r\n\r\nabcde"
    with called(full_service) as (connection, caller):
        connection.sendall(request * 3 + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [caller.answer()[0] for _ in range(4)] == [429, 429, 429, 200]


def test_a_body_in_pieces_is_thrown_away_to_its_last_byte(full_service: Service):
    with called(full_service) as (connection, caller):
        connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n")
        assert caller.answer()[0] == 429
        for _ in range(9):
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n".ljust(10_000))
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert caller.answer()[0] == 200


def test_a_head_in_pieces_is_refused_the_ordinary_way(full_service: Service, photo: bytes):
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(photo)
    with called(full_service) as (connection, caller):
        connection.sendall(head[:30])
        with called(full_service) as (other, second):
            other.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert second.answer()[0] == 200
        connection.sendall(head[30:] + photo)
        assert caller.answer()[0] == 429


def test_a_length_beyond_any_number_is_malformed(full_service: Service):
    with called(full_service) as (connection, caller):
        connection.sendall(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")
        status, _, content = caller.answer()
    assert status == 400
    assert "Content-Length" in json.loads(content)["detail"]


def test_the_answer_is_the_same_problem_with_id_and_time(full_service: Service):
    with called(full_service) as (connection, caller):
        connection.sendall(HEAD + b"X-Request-Id: mine-1\r\nContent-Length: 0\r\n\r\n")
        _, headers, content = caller.answer()
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        _, ordinary, expected = caller.answer()
    problem = json.loads(content)
    assert problem["request_id"] == headers["x-request-id"] == "mine-1"
    assert {**json.loads(expected), "request_id": "mine-1"} == problem
    assert headers["retry-after"] == ordinary["retry-after"]
    assert headers["content-type"] == ordinary["content-type"]


def test_a_connection_that_asked_to_close_is_closed(full_service: Service):
    with full_service.connect() as connection:
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc")
        assert read_all(connection).startswith(b"HTTP/1.1 429 ")


def test_refusals_are_counted(full_service: Service):
    series = 'posegate_rejected_total{reason="overloaded"} '

    def count() -> float:
        with full_service.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    before = count()
    with called(full_service) as (connection, caller):
        for _ in range(4):
            connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
            caller.answer()
    assert count() == before + 4


def test_a_missing_key_is_told_before_the_crowd(repository: Path, tmp_path: Path, photo: bytes):
    key = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"  # of "password"
    lines = HEAD + b"X-API-Key: password\r\nContent-Length: 9999\r\n\r\n"
    with (
        running_service(repository, tmp_path / "log", max_images=1, api_key_sha256=key) as service,
        service.connect() as holder,
        called(service) as (connection, caller),
    ):
        holder.sendall(lines)
        service.wait_for_in_flight(1)
        connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        assert caller.answer()[0] == 401
        connection.sendall(lines)
        assert caller.answer()[0] == 429
