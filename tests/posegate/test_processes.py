"""Workers' places and ports: posegate.processes and posegate.sockets."""

import asyncio
import os
import pickle
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from posegate.errors import BadOption
from posegate.processes import AWAY, COLD, WARM, Seat, when_ended
from posegate.settings import Settings
from posegate.sockets import address, bind, reserve


def seat(*states: int, number: int = 0) -> Seat:
    return Seat(number, Settings(), list(states), Path(), late=False)


def test_a_service_is_ready_when_every_worker_that_listens_is_warm() -> None:
    one = seat(COLD, COLD, WARM)
    assert one.others() == "2 of 3 workers are still starting"
    one.warm()
    assert one.others() == "1 of 3 workers are still starting"
    assert seat(WARM, AWAY).others() is None  # its successor listens once it is warm


async def test_the_end_of_a_process_is_told_once() -> None:
    sentinel, end = os.pipe()
    told = []
    when_ended(SimpleNamespace(sentinel=sentinel), lambda: told.append(sentinel))
    await asyncio.sleep(0.02)
    assert not told
    os.close(end)
    await asyncio.sleep(0.02)
    assert told == [sentinel]
    os.close(sentinel)


def test_settings_reach_a_worker_as_they_are() -> None:
    settings = Settings(api_key_sha256=("a" * 64,), threads=3)
    there = pickle.loads(pickle.dumps(settings))
    assert there == settings
    assert there.api_key_sha256[0].get_secret_value() == "a" * 64


def test_a_reserved_port_can_be_shared_and_takes_no_connection_itself() -> None:
    with reserve("127.0.0.1", 0) as kept:
        port = kept.getsockname()[1]
        with bind("127.0.0.1", port, shared=True) as listener:
            listener.listen()
            for _ in range(8):
                with socket.create_connection(("127.0.0.1", port), timeout=30):
                    listener.accept()[0].close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_somebody_listens_on_is_not_reserved(shared: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadOption, match=f"cannot listen on 127.0.0.1:{port}"):
            reserve("127.0.0.1", port)


def test_addresses_are_written_as_in_urls() -> None:
    assert address("127.0.0.1", 80) == "127.0.0.1:80"
    assert address("::1", 80) == "[::1]:80"
