"""Many callers who connect at the same moment: all are let in, and soon, however busy the service.

The service is paused while they connect, so that it finds them all at once.
"""

import resource
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from wire.running import Service

CROWD = 2000
NEWCOMERS = 240
KEPT = 8
REQUESTS = 300
ASK = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 "
ROOM = 500
"""File handles that the test's process needs besides."""


@pytest.fixture
def many_handles() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + ROOM:
        pytest.skip(f"a process may open {hard} files here, which is no crowd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CROWD + ROOM), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_callers_wait_to_be_let_in_and_nobody_is_turned_away(service: Service, many_handles: None):
    allowed = Path("/proc/sys/net/core/somaxconn")
    if not allowed.exists() or int(allowed.read_text()) < CROWD:
        pytest.skip("this system lets fewer callers wait for any service")
    with ExitStack() as stack:
        with service.paused():
            callers = [stack.enter_context(service.connect()) for _ in range(CROWD)]
            for caller in callers:
                caller.sendall(ASK)
        assert all(caller.recv(1024).startswith(ANSWER) for caller in callers)


def test_newcomers_need_not_wait_for_those_who_keep_the_service_busy(service: Service):
    """Of many requests sent ahead on kept connections one is answered per turn of the loop."""
    with ExitStack() as stack:
        kept = [stack.enter_context(service.connect()) for _ in range(KEPT)]
        for connection in kept:
            connection.sendall(ASK)
            assert connection.recv(1024).startswith(ANSWER)
        with service.paused():
            newcomers = [stack.enter_context(service.connect()) for _ in range(NEWCOMERS)]
            for connection in kept:
                connection.sendall(ASK * REQUESTS)
            for connection in newcomers:
                connection.sendall(ASK)
        served = answers_before_the_last_of(newcomers, kept)
    assert served < 0.25 * KEPT * REQUESTS, served


def answers_before_the_last_of(newcomers: list[socket.socket], kept: list[socket.socket]) -> int:
    """How many answers the kept connections got before each newcomer had one."""
    waiting, served = set(newcomers), 0
    with selectors.DefaultSelector() as selector:
        for connection in [*newcomers, *kept]:
            selector.register(connection, selectors.EVENT_READ)
        while waiting:
            for key, _ in selector.select():
                received = key.fileobj.recv(65536)
                assert received
                if key.fileobj not in waiting:
                    served += received.count(ANSWER)
                waiting.discard(key.fileobj)
    return served
