"""HEAD says of every GET address what GET says, without the body."""

import httpx
import pytest

from fakes import POSE_NAME
from wire.running import Service
from wire.test_logged_ids import line_of

HANDSHAKE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
VARYING = {"date", "x-request-id"}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/web/page.js", "/openapi.json", "/livez", "/readyz", "/v1/models",
        f"/v1/models/{POSE_NAME}", "/v1/models/nope", "/v1/stream", "/nope",
    ],
)  # fmt: skip
def test_head_has_the_headers_of_get_and_no_body(client: httpx.Client, path: str):
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.headers.keys() == get.headers.keys()
    for name in get.headers.keys() - VARYING - {"content-length"}:
        assert head.headers[name] == get.headers[name], name
    assert int(head.headers["content-length"]) == len(get.content)
    assert head.content == b""


def test_a_connection_serves_on_after_a_head(service: Service):
    with service.connect() as connection:
        connection.sendall(
            b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        received = b""
        while data := connection.recv(65536):
            received += data
    first, second, content = received.split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 200 ")
    assert content == b'{"status":"alive"}'


def test_head_is_logged_as_such_and_refused_where_get_is(service: Service, client: httpx.Client):
    response = client.head("/livez")
    assert "HEAD /livez 200 " in line_of(service, response.headers["x-request-id"])
    refused = client.head("/v1/poses")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert client.post("/livez").headers["allow"] == "GET, HEAD"


def test_the_absolute_form_of_a_target_names_its_path(service: Service):
    """RFC 9112, 3.2.2."""
    with service.connect() as connection:
        connection.sendall(
            b"GET http://posegate.test/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b'"alive"' in received


@pytest.mark.parametrize(
    ("target", "extra"),
    [(b"http://[::1/livez", b""), (b"//[://x", HANDSHAKE)],
    ids=["request", "handshake"],
)
def test_a_target_that_is_no_url_is_not_found(service: Service, target: bytes, extra: bytes):
    with service.connect() as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\n")
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in received
