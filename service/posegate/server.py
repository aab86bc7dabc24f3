"""Starts the faces over one pipeline, says when it is ready, and stops gracefully."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from posegate.api.rest import create_app
from posegate.build import build_pipeline
from posegate.errors import PosegateError
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 1024
KEEP_ALIVE_S = 30


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the process's exit status.

    The port answers at once, `/readyz` says 503 until every network is warm. On a signal no new
    connection is taken, and requests in flight get `request_timeout_s` to finish.
    """
    metrics = Metrics()
    try:
        listener = _listen(settings.host, settings.http_port)
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", settings.host, settings.http_port, error.strerror)
        return 1
    with listener:
        try:
            pipeline = build_pipeline(settings, metrics)
            config = _http_config(create_app(pipeline, settings, metrics), settings)
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(_run(_Server(config), pipeline, listener))
        except PosegateError as error:
            log.error("cannot start: %s", error.detail)
            return 1
    return 0


def _http_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        http="h11",  # bounds the head of a request; httptools took 26 MB of headers into 440 MB
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.request_timeout_s) + 1,
    )


async def _run(server: "_Server", pipeline: Pipeline, listener: socket.socket) -> None:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    starting = asyncio.create_task(_start(pipeline, listener))
    starting.add_done_callback(lambda task: stop() if _failed(task) else None)
    try:
        await server.serve(sockets=[listener])
    finally:
        log.info("stopping")
        starting.cancel()
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        await pipeline.stop()
    if isinstance(outcome, Exception):
        raise outcome


async def _start(pipeline: Pipeline, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("listening", extra={"url": url})
    await pipeline.start()
    log.info("ready", extra={"url": url})


def _failed(task: "asyncio.Task[None]") -> bool:
    return not task.cancelled() and task.exception() is not None


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. It names its protocol, without which asyncio would not set TCP_NODELAY."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers, which would end the process with the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
