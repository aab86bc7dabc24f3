"""Bodies too large, clients too slow or gone, too many at once, too little time."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from fakes import encode, make_photo
from wire.running import Service, problem_of

HEAD = b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


def read_all(connection: socket.socket) -> bytes:
    """Everything until the service closes the connection."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


@contextmanager
def half_sent(service: Service, photo: bytes) -> Iterator[socket.socket]:
    """A request in flight: its head and half of its body have arrived."""
    with service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(photo))
        connection.sendall(photo[: len(photo) // 2])
        service.wait_for_in_flight(1)
        yield connection


@pytest.fixture(autouse=True)
def _still_serving(tight_service: Service, photo: bytes) -> Iterator[None]:
    """After each test the service is idle again and the next good request works."""
    yield
    tight_service.wait_for_in_flight(0)
    with tight_service.client() as client:
        assert client.post("/v1/poses", content=photo).status_code == 200


def test_a_batch_takes_a_slot_as_a_request_does(tight_service: Service, photo: bytes):
    with half_sent(tight_service, photo), tight_service.client() as client:
        refused = client.post("/v1/poses:batch", files=[("image", ("a.png", photo))])
        problem_of(refused, 429, "overloaded")


def test_declared_body_over_the_limit_is_refused_unread(tight_service: Service):
    with tight_service.connect() as connection:
        started = time.monotonic()
        connection.sendall(HEAD + b"Content-Length: 50000000\r\n\r\n")
        answer = connection.recv(65536)
        assert time.monotonic() - started < 1.5
    assert b" 413 " in answer
    assert b"connection: close" in answer.lower()


def test_client_that_sends_all_of_a_large_body_first_still_sees_the_refusal(
    tight_service: Service,
):
    with tight_service.client() as client:
        response = client.post("/v1/poses", content=bytes(5_000_000))
        assert "100000" in str(problem_of(response, 413, "too-large")["detail"])


def test_endless_chunked_body_is_cut_off(tight_service: Service):
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    started = time.monotonic()
    with tight_service.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            while time.monotonic() - started < 20:
                connection.sendall(chunk)
                time.sleep(0.001)
        except OSError:
            pass
    assert time.monotonic() - started < 10


def test_chunked_body_over_the_limit_is_refused(tight_service: Service):
    with tight_service.client() as client:
        response = client.post("/v1/poses", content=iter([bytes(60_000)] * 3))
        problem_of(response, 413, "too-large")


def test_multipart_body_over_the_limit_is_refused(tight_service: Service):
    with tight_service.client() as client:
        for route in ("/v1/poses", "/v1/poses:batch"):
            response = client.post(route, files={"image": bytes(200_000)})
            problem_of(response, 413, "too-large")


def test_client_waiting_for_100_continue_is_told_no_before_it_sends(tight_service: Service):
    with tight_service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 900000\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_client_gone_halfway_leaves_nothing_behind(tight_service: Service, photo: bytes):
    for _ in range(3):
        with half_sent(tight_service, photo):
            pass
        tight_service.wait_for_in_flight(0)


def test_client_gone_before_the_answer_leaves_nothing_behind(tight_service: Service):
    large = encode(make_photo(width=4000, height=3000), ".jpg")[:99_000]
    for data in (encode(make_photo(width=400, height=300), ".jpg"), large):
        with tight_service.connect() as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        tight_service.wait_for_in_flight(0)
    assert "request failed" not in tight_service.log.read_text()


def test_body_that_never_comes_meets_the_deadline(tight_service: Service, photo: bytes):
    started = time.monotonic()
    with half_sent(tight_service, photo) as connection:
        answer = read_all(connection)
    assert b" 504 " in answer
    assert b'"deadline"' in answer
    assert 3.5 < time.monotonic() - started < 12


def test_client_s_own_deadline_is_heeded(tight_service: Service, photo: bytes):
    with tight_service.client() as client:
        headers = {"x-request-timeout": "0.00001"}
        for route in ("/v1/poses", "/v1/poses:batch"):
            response = client.post(route, files={"image": photo}, headers=headers)
            problem_of(response, 504, "deadline")


def test_request_over_the_bound_is_refused_at_once(tight_service: Service, photo: bytes):
    with half_sent(tight_service, photo), tight_service.client() as client:
        responses = [client.post("/v1/poses", content=photo) for _ in range(5)]
        assert client.get("/livez").status_code == 200
    for response in responses:
        problem_of(response, 429, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
    assert min(response.elapsed.total_seconds() for response in responses) < 0.05


def test_a_body_too_large_is_not_asked_to_try_again_while_others_are_served(
    tight_service: Service, photo: bytes
):
    with half_sent(tight_service, photo), tight_service.client() as client:
        for route in ("/v1/poses", "/v1/poses:batch"):
            refused = client.post(route, content=bytes(200_000), headers={"x": "a" * 9000})
            problem_of(refused, 413, "too-large")


def test_request_finished_after_a_refusal_of_another_is_answered(
    tight_service: Service, photo: bytes
):
    with half_sent(tight_service, photo) as connection:
        with tight_service.client() as client:
            problem_of(client.post("/v1/poses", content=photo), 429, "overloaded")
        connection.sendall(photo[len(photo) // 2 :])
        assert b"HTTP/1.1 200 " in connection.recv(65536)


@pytest.mark.parametrize("line", [b"X: y\r\n", b"a"], ids=["many headers", "one header"])
def test_endless_headers_are_cut_off(tight_service: Service, line: bytes):
    before = tight_service.rss_bytes()
    block = line * (65536 // len(line))
    with tight_service.connect() as connection, suppress(OSError):
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        for _ in range(200):
            connection.sendall(block)
            time.sleep(0.001)
        raise AssertionError("12 MB of headers were taken")
    assert tight_service.rss_bytes() - before < 5 * 2**20


def test_garbage_instead_of_http_is_survived(tight_service: Service):
    for garbage in (b"\x16\x03\x01\x02\x00" + bytes(100), b"GET\r\n\r\n", b"\r\n" * 50):
        with tight_service.connect() as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
