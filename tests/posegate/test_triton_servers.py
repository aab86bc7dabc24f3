"""The watch over the Triton servers."""

from types import SimpleNamespace

import pytest

pytest.importorskip("tritonclient")

from fakes import until
from posegate.backends import triton_servers
from posegate.backends.triton_servers import TritonServers


class MadeClient:
    """A server that has every network, ready or not."""

    is_ready = True

    async def is_model_ready(self, model: str, *, client_timeout: float) -> bool:
        return self.is_ready

    async def get_model_repository_index(self, *, client_timeout: float) -> SimpleNamespace:
        return SimpleNamespace(models=[])

    async def close(self) -> None: ...


async def test_the_watch_outlives_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(triton_servers, "POLL_S", 0.01)
    monkeypatch.setattr(triton_servers._Server, "open", lambda server: None)
    servers = TritonServers(["made:1"], models=["m"], call_limit_s=1.0)
    (server,) = servers._servers
    tidied = 0

    async def tidy(client: object) -> None:
        nonlocal tidied
        tidied += 1
        raise OSError("the memory is gone")

    server.client = MadeClient()
    monkeypatch.setattr(server.transfer, "tidy", tidy)
    servers.start()
    await until(lambda: tidied > 1)
    assert servers.ready("m") is None
    server.client.is_ready = False
    await until(lambda: servers.ready("m") is not None)
    assert "triton at made:1 could not be watched" in caplog.text
    await servers.stop()
