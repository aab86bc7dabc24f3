"""Drawn pictures that nobody reads: they hold their slot, and not for ever."""

import re
import socket
import time
from pathlib import Path

import cv2
import numpy as np

from fakes import encode
from wire.running import Service, running_service, wait_until

LIMIT_S = 2.0


def noise() -> bytes:
    """A picture whose PNG is larger than what a connection's buffers hold."""
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 20])
    assert done
    return bytes(data)


def ask(service: Service, body: bytes) -> socket.socket:
    """A connection on which the first bytes of a drawn picture have come."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.settimeout(60)
    connection.connect((service.host, service.port))
    head = b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    assert connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
    return connection


def test_an_unread_picture_holds_its_slot_until_it_is_given_up(
    repository: Path, tmp_path: Path, photo: bytes
):
    small, large = photo, noise()
    limits = {"max_images": 1, "request_timeout_s": LIMIT_S}
    with running_service(repository, tmp_path / "log", **limits) as service:
        with service.client() as client, ask(service, large) as connection:
            asked = time.monotonic()
            statuses = []

            def another() -> bool:
                statuses.append(client.post("/v1/poses", content=small).status_code)
                return statuses[-1] == 200

            wait_until(another)
            assert set(statuses[:-1]) == {429}
            assert LIMIT_S / 2 < time.monotonic() - asked < 10
            received = b""
            while data := connection.recv(2**16):
                received += data
        head, _, picture = received.partition(b"\r\n\r\n")
        assert len(picture) < int(re.search(rb"content-length: (\d+)", head)[1])
        log = service.log.read_text()
        assert f"was not read within {LIMIT_S:g} s" in log
        assert "Traceback" not in log


def test_a_picture_read_slowly_comes_whole_and_the_connection_goes_on(service: Service):
    photo = encode(np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8), ".jpg")
    with service.client() as client:
        for _ in range(2):
            with client.stream(
                "POST", "/v1/poses", content=photo, headers={"accept": "image/png"}
            ) as response:
                received = b""
                for part in response.iter_raw(2**16):
                    received += part
                    time.sleep(0.02)
            assert len(received) == int(response.headers["content-length"])
            assert cv2.imdecode(np.frombuffer(received, np.uint8), 1).shape == (400, 500, 3)
