"""What h11 refuses, and what a caller is told of it: posegate.api.malformed."""

import h11
import pytest

from posegate.api.malformed import ENCODE, REASONS, malformed

GET = b"GET / HTTP/1.1\r\n"
HOST = GET + b"Host: x\r\n"
CHUNKED = HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def refused(data: bytes) -> h11.RemoteProtocolError:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        while connection.next_event() is not h11.NEED_DATA:
            continue
    except h11.RemoteProtocolError as error:
        return error
    raise AssertionError("h11 takes it")


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (GET + b"\r\n", "missing mandatory host"),
        (HOST + b"Host: y\r\n\r\n", "found multiple host"),
        (HOST + b"Content-Length: +1\r\n\r\n", "bad content-length"),
        (HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "conflicting content-length"),
        (HOST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", "multiple transfer-encoding"),
        (HOST + b"Transfer-Encoding: br\r\n\r\n", "only transfer-encoding"),
        (HOST + b"no colon\r\n\r\n", "illegal header"),
        (HOST + b"X: " + b"a" * 99_999, "receive buffer too long"),
        (CHUNKED + b"-1\r\n", "illegal chunk"),
        (CHUNKED + b"1\r\nabc\r\n", "malformed chunk"),
    ],
)
def test_each_fault_has_its_own_words(data: bytes, start: str):
    problem = malformed(refused(data))
    assert problem.detail.endswith(REASONS[start])
    assert (problem.slug, problem.status) == ("bad-request", 400)


@pytest.mark.parametrize(
    "data", [b"GARBAGE\r\n\r\n", b"GET /a b HTTP/1.1\r\n\r\n", b"\x16\x03\x01"]
)
def test_a_bad_first_line_is_told_how_to_write_one(data: bytes):
    assert malformed(refused(data)).detail.endswith(ENCODE)
    assert malformed(None).detail.endswith(ENCODE)
