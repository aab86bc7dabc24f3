"""A service on loopback and the plainest HTTP client there is, so that a benchmark measures the
service and not its client."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlencode, urlsplit

from posegate.client.transport import bearer
from posegate.errors import BackendDown, BadOption
from posegate.options import EstimateOptions
from posegate.settings import PREFIX, Settings

START_TIMEOUT_S = 60.0
OURS_ALONE = {
    "host": "127.0.0.1",
    "grpc_port": 0,
    "log_level": "warning",
    "api_key_sha256": (),
    "tls_certificate": None,
    "tls_key": None,
    "tls_client_ca": None,
}
"""Settings of a service that nobody else calls."""
NO_ANSWER = (OSError, EOFError, asyncio.LimitOverrunError, IndexError, ValueError)
"""What reading an answer raises where the connection breaks off or something else speaks."""


class Connection:
    """One keep-alive HTTP/1.1 connection; `open` must come first."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BadOption(
                f"url is {url!r}; it must look like http://127.0.0.1:8080, nothing else is measured"
            )
        key = bearer(api_key)
        self._key_line = f"Authorization: {key}\r\n" if key else ""
        self._host, self._port = parts.hostname, parts.port or 80

    async def open(self) -> None:
        """Connect; BackendDown where nothing listens."""
        try:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            raise BackendDown(
                f"http://{self._host}:{self._port} cannot be reached: {error.strerror or error}"
            ) from error

    async def request(
        self, method: str, path: str, body: bytes = b"", *, accept: str = "*/*"
    ) -> tuple[int, bytes]:
        """Status and body of the answer; BackendDown where it is not one of this service's."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Accept: {accept}\r\n{self._key_line}"
            f"Content-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            self._writer.write(head.encode() + body)
            await self._writer.drain()
            lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            lengths = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            return int(lines[0].split()[1]), await self._reader.readexactly(int(lengths[0]))
        except NO_ANSWER as error:
            raise BackendDown(
                f"http://{self._host}:{self._port} gave no whole HTTP answer: the service stopped, "
                "or this is not its HTTP port"
            ) from error

    async def estimate(self, path: str, picture: bytes) -> bytes:
        """The answer to a picture sent to a path of `poses_path`; BackendDown for any other."""
        status, body = await self.request("POST", path, picture)
        if status != 200:
            raise BackendDown(f"the service answered {status}: {body[:300].decode()}")
        return body

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):  # it may be broken already
            await self._writer.wait_closed()


def poses_path(options: EstimateOptions) -> str:
    """Path and query that ask `POST /v1/poses` for these options."""
    query = {"min_score": str(options.min_score)}
    if options.max_people is not None:
        query["max_people"] = str(options.max_people)
    if options.model is not None:
        query["model"] = options.model
    if options.detector is not None:
        query["detector"] = options.detector
    if options.boxes_xywh is not None:
        query["boxes"] = json.dumps(options.boxes_xywh.tolist(), separators=(",", ":"))
    return "/v1/poses?" + urlencode(query)


@asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[str]:
    """A service of our own in another process, warmed up; yields its URL.

    It has these settings, but asks for no API key and speaks plain HTTP on loopback.
    """
    port = _free_port()
    changes = {**OURS_ALONE, "http_port": port}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "posegate", "serve"),
        env=_environment(settings.model_copy(update=changes)),
    )
    url = f"http://{OURS_ALONE['host']}:{port}"
    try:
        await wait_ready(url, process)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def wait_ready(url: str, process: asyncio.subprocess.Process | None = None) -> None:
    """Wait until `/readyz` says 200; BackendDown says why it does not when that takes too long."""
    connection = Connection(url)
    reason = "it did not answer /readyz"
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while process is None or process.returncode is None:
                try:
                    await connection.open()
                except BackendDown as error:
                    reason = error.detail
                else:
                    try:
                        status, body = await connection.request("GET", "/readyz")
                    finally:
                        await connection.close()
                    if status == 200:
                        return
                    reason = f"/readyz answered {status}: {body[:300].decode(errors='replace')}"
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise BackendDown(f"the service at {url} does not become ready: {reason}")


def _environment(settings: Settings) -> dict[str, str]:
    """Our variables, with these settings alone in place of those that set something."""
    others = {n: value for n, value in os.environ.items() if not n.upper().startswith(PREFIX)}
    values = settings.model_dump(exclude_none=True).items()
    return others | {
        PREFIX + name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in values
        if value != ()
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
