"""The routes for whoever runs the service: posegate.api.operations."""

import threading

import httpx
from fastapi import FastAPI

from posegate.api.operations import operations_router
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.streams import Streams


class WatchedMetrics(Metrics):
    """Remembers in which thread they were written out."""

    written_by: threading.Thread | None = None

    def exposition(self) -> bytes:
        self.written_by = threading.current_thread()
        return super().exposition()


async def test_metrics_are_written_out_beside_the_event_loop(
    pipeline: Pipeline, settings: Settings
) -> None:
    metrics = WatchedMetrics()
    app = FastAPI()
    streams = Streams(pipeline, settings, metrics)
    app.include_router(operations_router(pipeline, metrics, streams, lambda: None))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/metrics")
    assert "posegate_in_flight" in answer.text
    assert metrics.written_by not in (None, threading.current_thread())
