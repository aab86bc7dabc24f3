"""What gRPC itself logs: an answer that met nobody is no error, a mistake of ours is one."""

import logging
from pathlib import Path

import grpc.aio
import pytest

from posegate.api.grpc import GRPC_LOG, Health, PoseService, create_grpc_server
from posegate.api.limits import Slots
from posegate.build import build_pipeline
from posegate.metrics import Metrics
from posegate.settings import Settings
from posegate.streams import Streams

LATE = 'Failed "execute_batch": (<SendStatusFromServerOperation object>,)'
MISUSE = "Failed grpc_call_start_batch: 10 with grpc_call_error value"


@pytest.fixture
async def _server(repository: Path) -> None:
    settings, metrics = Settings(model_repository=repository), Metrics()
    pipeline = build_pipeline(settings, metrics)
    streams = Streams(pipeline, settings, metrics)
    service = PoseService(
        pipeline, settings, metrics, slots=Slots(settings.max_images), streams=streams
    )
    create_grpc_server(service, Health(pipeline), settings, metrics)


def log_failure(error: Exception) -> None:
    """As gRPC does."""
    try:
        raise error
    except type(error):
        GRPC_LOG.exception("raised in core")


@pytest.mark.usefixtures("_server")
async def test_an_answer_that_met_nobody_leaves_no_trace(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        log_failure(grpc.aio.InternalError(LATE))
        assert not caplog.records
        log_failure(grpc.aio.InternalError(MISUSE))
        log_failure(RuntimeError("a bug"))
        GRPC_LOG.warning("no trace at all")
    assert len(caplog.records) == 3
