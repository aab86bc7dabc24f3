"""Starts both faces over one pipeline, says when it is ready, and stops gracefully."""

import asyncio
import logging
import math
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio
import uvicorn
from fastapi import FastAPI

from posegate.api.early import Door, behind
from posegate.api.grpc import Health, PoseService, create_grpc_server
from posegate.api.keys import ApiKeys
from posegate.api.limits import Slots
from posegate.api.rest import create_app
from posegate.api.websocket import taking
from posegate.build import build_pipeline, build_tracing
from posegate.errors import BadOption, PosegateError
from posegate.logs import configure_logs
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.processes import Seat, supervise, when_ended
from posegate.settings import Settings
from posegate.sockets import (
    MOST_CONNECTIONS,
    address,
    allow_many,
    bind,
    cut_off_unread,
    why_refused,
)
from posegate.streams import Streams
from posegate.tls import Tls, load_tls

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be taken: the most that Linux allows (net.core.somaxconn). A flood
of callers overran 1,024 thousands of times a second."""
ACCEPTS = 8
"""Connections taken per turn of the event loop, each through a handle of its own on the one socket:
libuv takes one per handle and turn, and in a busy service callers waited seconds to be let in."""
REFRESH_S = 1.0
CLOSING_S = 3.0
UNREAD_ROOM_S = 5.0
"""How much later than a stream the kernel gives up on a client that does not read."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the process's exit status.

    The HTTP port answers at once, `/readyz` says 503 until every network is warm. On a signal no
    new stream is taken and streams finish their frames and send their summary; then no new
    connection is taken, and requests in flight get `request_timeout_s` to finish.
    """
    allow_many(MOST_CONNECTIONS)
    try:
        if settings.workers > 1:
            return supervise(settings, _work)
        _run(settings, Metrics(), None)
    except PosegateError as error:
        log.error("cannot start: %s", error.detail)
        return 1
    except KeyboardInterrupt:  # before the loop had its handler
        log.info("stopping")
    return 0


def _work(seat: Seat) -> None:
    """The whole of a worker process."""
    configure_logs(seat.settings.log_level, worker=seat.number)
    try:
        _run(seat.settings, Metrics(shared=seat.metrics), seat)
    except PosegateError as error:
        log.error("cannot start: %s", error.detail)
        sys.exit(1)


def _run(settings: Settings, metrics: Metrics, seat: Seat | None) -> None:
    tls = load_tls(settings)
    with bind(settings.host, settings.http_port, shared=seat is not None) as listener:
        cut_off_unread(listener, settings.request_timeout_s + UNREAD_ROOM_S)
        pipeline = build_pipeline(settings, metrics)
        if missed := pipeline.catalog.without_detector():
            log.warning("%s", missed)
        service = _Service(pipeline, settings, metrics, listener, tls, seat)
        with asyncio.Runner(loop_factory=service.config.get_loop_factory()) as runner:
            runner.run(service.run())


class _Service:
    """Both faces and what they share."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        listener: socket.socket,
        tls: Tls | None,
        seat: Seat | None,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._metrics = metrics
        self._listener = listener
        self._tls = tls
        self._seat = seat
        self._slots = Slots(settings.max_images)
        self._tracing = build_tracing(settings)
        self._streams = Streams(pipeline, settings, metrics, self._tracing)
        others = seat.others if seat else lambda: None
        app = create_app(
            pipeline,
            settings,
            metrics,
            slots=self._slots,
            streams=self._streams,
            tracing=self._tracing,
            others=others,
        )
        door = Door(self._slots, ApiKeys(settings), metrics, settings.max_body_bytes)
        self.config = _http_config(app, settings, tls, door)
        self._http = _Server(self.config)
        self._serving: asyncio.Task[None] | None = None
        self._health = Health(pipeline, others=others)

    async def run(self) -> None:
        """From the first connection to the last; raises what kept it from starting."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if (parent := multiprocessing.parent_process()) is not None:
            when_ended(parent, stop.set)
        rpc = self._create_rpc()
        starting = asyncio.create_task(self._start(rpc))
        starting.add_done_callback(lambda task: stop.set() if _failed(task) else None)
        refreshing = asyncio.create_task(self._refresh())
        try:
            await stop.wait()
        finally:
            log.info("stopping")
            refreshing.cancel()
            starting.cancel()
            (outcome, _) = await asyncio.gather(starting, refreshing, return_exceptions=True)
            await self._stop_faces(rpc)
            await self._pipeline.stop()
            await asyncio.to_thread(self._tracing.close)
        if isinstance(outcome, Exception):
            raise outcome

    def _create_rpc(self) -> grpc.aio.Server:
        service = PoseService(
            self._pipeline,
            self._settings,
            self._metrics,
            slots=self._slots,
            streams=self._streams,
        )
        return create_grpc_server(
            service, self._health, self._settings, self._metrics, self._tracing
        )

    async def _start(self, rpc: grpc.aio.Server) -> None:
        late = self._seat is not None and self._seat.late
        if late:
            await self._pipeline.networks.start_required()
        addresses = await self._open(rpc)
        if not late:
            await self._pipeline.networks.start_required()
        if self._seat is not None:
            self._seat.warm()
        log.info("ready", extra=addresses)
        await self._pipeline.networks.start_others()

    async def _open(self, rpc: grpc.aio.Server) -> dict[str, str]:
        """Listen on both ports; returns their addresses."""
        handles = [self._listener, *(self._listener.dup() for _ in range(ACCEPTS - 1))]
        self._serving = asyncio.create_task(self._http.serve(sockets=handles))
        host, port = self._settings.host, self._settings.grpc_port
        try:
            if self._tls is None:
                port = rpc.add_insecure_port(address(host, port))
            else:
                port = rpc.add_secure_port(address(host, port), self._tls.grpc_credentials())
        except RuntimeError as error:
            reason = why_refused(host, port, shared=self._seat is not None)
            raise BadOption(f"{reason}; see grpc_port") from error
        await rpc.start()
        scheme = "http" if self._tls is None else "https"
        addresses = {
            "url": f"{scheme}://{address(*self._listener.getsockname()[:2])}",
            "grpc": address(host, port),
        }
        log.info("listening", extra=addresses)
        return addresses

    async def _refresh(self) -> None:
        """Keep what other processes read of this one's metrics fresh, from when it listens."""
        while self._seat is not None:
            if self._serving is not None:
                self._metrics.refresh()
            await asyncio.sleep(REFRESH_S)

    async def _stop_faces(self, rpc: grpc.aio.Server) -> None:
        """Streams and requests that have begun get `request_timeout_s` together to finish."""
        limit_s = self._settings.request_timeout_s
        ends = time.monotonic() + limit_s
        self._health.stop()
        try:
            async with asyncio.timeout(limit_s):
                await self._streams.finish()
        except TimeoutError:
            log.warning("streams did not finish in time", extra={"limit_s": limit_s})
        await self._see_sockets_close()
        left_s = max(1, math.ceil(ends - time.monotonic()))
        self.config.timeout_graceful_shutdown = left_s + 1
        self._http.should_exit = True
        await asyncio.gather(*([self._serving] if self._serving else []), rpc.stop(left_s))

    async def _see_sockets_close(self) -> None:
        """Give clients a moment to answer the close of their WebSocket.

        Closing the connection of one that still sends frames would reset it, and the summary on
        its way to the client would be lost.
        """
        if self._serving is None or (kind := self.config.ws_protocol_class) is None:
            return
        ends = time.monotonic() + CLOSING_S
        while any(isinstance(open_, kind) for open_ in self._http.server_state.connections):
            if time.monotonic() > ends:
                return
            await asyncio.sleep(CLOSING_S / 100)


def _http_config(app: FastAPI, settings: Settings, tls: Tls | None, door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        **(tls.http_options() if tls else {}),
        lifespan="off",
        http=behind(door),  # h11 bounds a head; httptools took 26 MB of headers into 440 MB
        ws=taking(settings.max_body_bytes, door.metrics),
        ws_ping_timeout=None,  # a sender held up by back-pressure has its pong behind its frames
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=round(settings.request_timeout_s) + 1,
    )


def _failed(task: "asyncio.Task[None]") -> bool:
    return not task.cancelled() and task.exception() is not None


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers, which would end the process with the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
