"""HTTP for single pictures, WebSocket for streams."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
)
from websockets.frames import CloseCode

from posegate.client.tls import Tls
from posegate.client.transport import (
    RETRYABLE,
    Document,
    Outgoing,
    bearer,
    error_of,
    failure,
    unreachable,
)
from posegate.errors import BackendDown, BadOption, PosegateError, TooLarge

END = json.dumps({"end": True})
_CUT_OFF = (httpx.ReadError, httpx.RemoteProtocolError, ConnectionResetError, InvalidMessage)
_WITHOUT_CERTIFICATE = (
    "; a service that asks for client certificates cuts off who shows none that it knows"
)


class HttpTransport:
    """Talks to an http:// or https:// address."""

    def __init__(self, url: str, api_key: str | None, tls: Tls | None) -> None:
        self._url = url.rstrip("/")
        key = bearer(api_key)
        as_bytes = key and key.encode().decode("latin-1")  # one character for each byte of UTF-8
        self._headers = {"Authorization": as_bytes} if as_bytes else {}
        self._ssl = tls.context() if tls else None
        try:
            self._client = httpx.AsyncClient(
                base_url=self._url,
                headers=httpx.Headers(self._headers, encoding="latin-1"),
                verify=self._ssl or True,
                timeout=None,  # noqa: S113  httpx bounds each step, and the caller the whole
            )
        except (ImportError, ValueError) as error:  # a kind of proxy that needs more, or is none
            raise _bad_proxy(error) from error

    async def estimate(self, image: bytes, options: Document, timeout_s: float) -> Document:
        headers = {"X-Request-Timeout": f"{timeout_s:.3f}", "Accept": "application/json"}
        answer: Document = await self._ask(
            "POST", "/v1/poses", params=_query(options), content=image, headers=headers
        )
        return answer

    async def models(self, timeout_s: float) -> list[Document]:
        answer: list[Document] = (await self._ask("GET", "/v1/models"))["models"]
        return answer

    async def stream(self, outgoing: Outgoing, options: Document) -> AsyncGenerator[Document]:
        socket = await self._connect()
        outgoing.taken()
        sending = asyncio.create_task(_send(socket, outgoing, options))
        sending.add_done_callback(lambda task: socket.transport.abort() if failure(task) else None)
        complete = False
        try:
            while True:
                try:
                    event: Document = json.loads(await socket.recv())
                    if event["event"] == "error" and event["frame"] is None:
                        retry_after_s = 1.0 if event["type"] in RETRYABLE else None
                        raise error_of(event["type"], event["detail"], retry_after_s)
                    complete = event["event"] == "summary"
                except (ValueError, KeyError, TypeError) as error:
                    raise _no_posegate(self._url) from error
                yield event
                if complete:
                    outgoing.check(event)
                    return
        except ConnectionClosed as error:
            if (reason := failure(sending)) is not None:
                raise reason from None
            if error.rcvd is not None and error.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
                raise TooLarge(f"the service did not read a frame: {error.rcvd.reason}") from error
            raise unreachable(self._url, "the stream was cut off before its summary") from error
        finally:
            sending.cancel()
            if not complete:  # frames on their way would hold up the closing handshake
                socket.transport.abort()
            try:
                await asyncio.gather(sending, return_exceptions=True)
            finally:  # also where this is cancelled once more
                await socket.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = await self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise _no_answer(self._url, error) from error
        if response.is_success:
            try:
                return response.json()
            except ValueError as error:
                raise _no_posegate(self._url) from error
        raise _refusal(response.content, response.headers, response.status_code)

    async def _connect(self) -> ClientConnection:
        address = "ws" + self._url.removeprefix("http") + "/v1/stream"
        try:
            return await connect(
                address,
                additional_headers=self._headers,
                max_size=None,
                open_timeout=None,  # the caller bounds its wait for events, this one included
                ping_timeout=None,
                ssl=self._ssl,
            )
        except InvalidStatus as error:
            response = error.response
            raise _refusal(response.body, response.headers, response.status_code) from error
        except (ImportError, InvalidProxy) as error:
            raise _bad_proxy(error) from error
        except (OSError, InvalidHandshake) as error:
            raise _no_answer(self._url, error) from error


async def _send(socket: ClientConnection, outgoing: Outgoing, options: Document) -> None:
    try:
        if options:
            await socket.send(json.dumps(options, default=str))
        async with aclosing(outgoing.each()) as read:
            async for frame in read:
                await socket.send(frame)
        await socket.send(END)
    except ConnectionClosed:
        return  # the reader of the events learns it as well


def _no_answer(url: str, error: Exception) -> BackendDown:
    cut_off = url.startswith("https") and isinstance(error, _CUT_OFF)
    return unreachable(url, error, _WITHOUT_CERTIFICATE if cut_off else "")


def _no_posegate(url: str) -> PosegateError:
    return PosegateError(f"what answers at {url} is no posegate")


def _bad_proxy(error: Exception) -> BadOption:
    return BadOption(
        f"the proxy that the environment names cannot be used: {error}; unset it, or name the "
        "service's host in NO_PROXY"
    )


def _query(options: Document) -> dict[str, Any]:
    return {
        name: json.dumps(value, default=str) if isinstance(value, list | bool) else value
        for name, value in options.items()
    }


def _refusal(body: bytes | bytearray, headers: Mapping[str, str], status: int) -> PosegateError:
    """The error of a problem document, or of an answer that is none."""
    wait = headers.get("retry-after")
    retry_after_s = float(wait) if wait and wait.isdigit() else None
    try:
        problem = json.loads(body)
        return error_of(problem["type"], problem["detail"], retry_after_s)
    except (ValueError, KeyError, TypeError):
        return error_of("", f"the service answered with status {status}", retry_after_s)
