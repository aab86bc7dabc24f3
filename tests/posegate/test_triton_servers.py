"""The watch over the Triton servers."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tritonclient")

from tritonclient.utils import InferenceServerException

from fakes import until
from posegate import build
from posegate.backends import triton_servers
from posegate.backends.triton_addresses import look_up
from posegate.backends.triton_servers import TritonServers
from posegate.backends.triton_transfer import Messages, Tensors
from posegate.errors import BackendDown
from posegate.settings import Settings

SILENCE_S = 0.05
"""How long a silent server is waited for."""


class MadeClient:
    """A server that has every network, ready or not; when silent it lets who asks wait."""

    is_ready = True
    is_closed = False
    is_silent = False
    unanswered = 0

    async def is_model_ready(self, model: str, *, client_timeout: float) -> bool:
        if self.is_silent:
            self.unanswered += 1
            await asyncio.sleep(SILENCE_S)
            raise InferenceServerException("late", status="StatusCode.DEADLINE_EXCEEDED")
        return self.is_ready

    async def get_model_repository_index(self, *, client_timeout: float) -> SimpleNamespace:
        return SimpleNamespace(models=[])

    async def close(self) -> None:
        self.is_closed = True


class MadeNames:
    """Looks names up; what a name stands for can change."""

    def __init__(self, **found: list[str]) -> None:
        self.found = found

    async def __call__(self, url: str) -> list[str]:
        if url not in self.found:
            raise OSError("not known")
        return self.found[url]


async def test_a_command_does_not_wait_for_ever(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "START_TIMEOUT_S", 0.5)
    settings = Settings(model_repository=repository, backend="triton", triton_urls=("127.0.0.1:1",))
    with pytest.raises(BackendDown, match=r"not ready after 0 s: .*127\.0\.0\.1:1"):
        async with build.running_pipeline(settings):
            pass


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> MadeNames:
    names = MadeNames()
    monkeypatch.setattr(triton_servers, "look_up", names)
    monkeypatch.setattr(triton_servers, "POLL_S", 0.01)
    monkeypatch.setattr(triton_servers, "LOOK_UP_S", 0.01)
    return names


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict[str, MadeClient]:
    """Every client that is made, by its address."""
    made: dict[str, MadeClient] = {}

    def make(url: str, channel_args: object) -> MadeClient:
        return made.setdefault(url, MadeClient())

    monkeypatch.setattr(triton_servers.triton, "InferenceServerClient", make)
    return made


async def one_ready(names: MadeNames) -> TritonServers:
    """Servers of one name, behind which one address is ready: 10.0.0.1:1."""
    names.found = {"tritons:1": ["10.0.0.1:1"]}
    servers = TritonServers(["tritons:1"], models=["m"], call_limit_s=60.0)
    servers.start()
    await until(lambda: servers.ready("m") is None)
    return servers


async def test_the_watch_outlives_what_nobody_foresaw(
    names: MadeNames,
    clients: dict[str, MadeClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    tidied = 0

    async def tidy(messages: Messages, client: object) -> None:
        nonlocal tidied
        tidied += 1
        raise OSError("the memory is gone")

    monkeypatch.setattr(Messages, "tidy", tidy)
    names.found = {"made:1": ["10.0.0.1:1"]}
    servers = TritonServers(["made:1"], models=["m"], call_limit_s=1.0)
    servers.start()
    await until(lambda: tidied > 1)
    assert servers.ready("m") is None
    clients["10.0.0.1:1"].is_ready = False
    await until(lambda: servers.ready("m") is not None)
    assert "triton at 10.0.0.1:1 could not be watched" in caplog.text
    await servers.stop()


async def test_servers_behind_a_name_come_and_go(names: MadeNames, clients: dict[str, MadeClient]):
    servers = TritonServers(["tritons:1"], models=["m"], call_limit_s=1.0)
    assert servers.ready("m") == "tritons:1 was not looked up yet"
    servers.start()
    await until(lambda: "not known" in (servers.ready("m") or ""))
    names.found = {"tritons:1": ["10.0.0.1:1", "10.0.0.2:1"]}
    await until(lambda: servers.ready("m") is None)
    await until(lambda: len(clients) == 2)
    clients["10.0.0.1:1"].is_ready = False
    names.found = {"tritons:1": ["10.0.0.2:1", "10.0.0.3:1"]}
    await until(lambda: clients["10.0.0.1:1"].is_closed and len(clients) == 3)
    names.found = {}
    await asyncio.sleep(0.05)
    assert servers.ready("m") is None, "what was found serves on while the name is not known"
    assert [client.is_closed for client in clients.values()] == [True, False, False]
    await servers.stop()
    assert all(client.is_closed for client in clients.values())
    assert "10.0.0.2:1 is closed" in (servers.ready("m") or "")


async def test_a_server_that_is_named_no_more_finishes_its_calls(
    names: MadeNames, clients: dict[str, MadeClient], monkeypatch: pytest.MonkeyPatch
):
    answer = asyncio.Event()

    async def infer(messages: Messages, *_: object, deadline: float) -> tuple[np.ndarray, ...]:
        await answer.wait()
        return (np.ones(1, np.float32),)

    monkeypatch.setattr(Messages, "infer", infer)
    servers = await one_ready(names)
    tensors = Tensors("m", "input", ("output",))
    call = asyncio.create_task(servers.infer(tensors, np.zeros(1, np.float32), deadline=None))
    await asyncio.sleep(0)
    clients["10.0.0.1:1"].is_ready = False
    names.found = {"tritons:1": []}
    await asyncio.sleep(0.1)
    assert not clients["10.0.0.1:1"].is_closed
    answer.set()
    assert await call == (np.ones(1, np.float32),)
    await until(lambda: clients["10.0.0.1:1"].is_closed)
    await servers.stop()


async def test_a_server_that_only_its_probes_wait_for_is_busy(
    names: MadeNames, clients: dict[str, MadeClient], monkeypatch: pytest.MonkeyPatch
):
    async def infer(messages: Messages, *_: object, deadline: float) -> tuple[np.ndarray, ...]:
        return (np.ones(1, np.float32),)

    monkeypatch.setattr(Messages, "infer", infer)
    servers = await one_ready(names)
    client = clients["10.0.0.1:1"]
    client.is_silent = True
    for _ in range(8):
        await servers.infer(
            Tensors("m", "input", ("output",)), np.zeros(1, np.float32), deadline=None
        )
        await asyncio.sleep(SILENCE_S)
    assert client.unanswered > 2
    assert servers.ready("m") is None
    await until(lambda: servers.ready("m") == "10.0.0.1:1 does not answer")
    await servers.stop()


@pytest.mark.parametrize(
    ("url", "found", "addresses"),
    [
        ("tritons:8001", ["10.0.0.1", "10.0.0.2", "10.0.0.1"], ["10.0.0.1:8001", "10.0.0.2:8001"]),
        ("dns:///tritons:8001", ["10.0.0.1", "fd00::1"], ["10.0.0.1:8001"]),
        ("tritons:8001", ["fd00::1", "fd00::2"], ["[fd00::1]:8001", "[fd00::2]:8001"]),
    ],
)
async def test_a_name_stands_for_addresses_of_one_family(
    url: str, found: list[str], addresses: list[str], monkeypatch: pytest.MonkeyPatch
):
    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple]:
        assert (host, port) == ("tritons", 8001)
        families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in found]
        return [
            (family, socket.SOCK_STREAM, 6, "", (ip, port))
            for family, ip in zip(families, found, strict=True)
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await look_up(url) == addresses


async def test_addresses_stand_for_themselves():
    assert await look_up("127.0.0.1:8001") == ["127.0.0.1:8001"]
    assert await look_up("[::1]:8001") == ["[::1]:8001"]
