"""Requests -> spans: posegate.tracing and posegate.tracing_otel, over both faces."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import grpc.aio
import httpx
import pytest
import pytest_asyncio

from fakes import encode, make_photo
from posegate.api.grpc import Health, PoseService, create_grpc_server
from posegate.api.limits import Slots
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.api.rest import create_app
from posegate.build import build_tracing
from posegate.errors import BadOption
from posegate.metrics import Metrics
from posegate.pipeline import Pipeline
from posegate.settings import Settings, load_settings
from posegate.stages import StageClock
from posegate.streams import Streams

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from posegate import tracing_otel
from posegate.tracing_otel import OtelTracing, otlp_processor

PHOTO = encode(make_photo(), ".jpg")
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"


class Traced:
    """Both faces in this process, and the spans that came of what they were asked."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        stub: services.PoseServiceStub,
        exporter: InMemorySpanExporter,
    ) -> None:
        self.http, self.stub, self.exporter = http, stub, exporter

    def spans(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The request's span and those below it, each checked to lie within its parent."""
        spans = {span.context.span_id: span for span in self.exporter.get_finished_spans()}
        (root,) = [s for s in spans.values() if s.parent is None or s.parent.span_id not in spans]
        below = [span for span in spans.values() if span is not root]
        for span in below:
            parent = spans[span.parent.span_id]
            slack_ns = 2_000_000  # wall clock and performance counter are read one after the other
            assert parent.start_time - slack_ns <= span.start_time <= span.end_time
            assert span.end_time <= parent.end_time + slack_ns
        return root, below


@pytest_asyncio.fixture
async def traced(pipeline: Pipeline, settings: Settings) -> AsyncIterator[Traced]:
    metrics, slots = Metrics(), Slots(settings.max_images)
    exporter = InMemorySpanExporter()
    tracing = OtelTracing(SimpleSpanProcessor(exporter))
    streams = Streams(pipeline, settings, metrics, tracing)
    app = create_app(pipeline, settings, metrics, slots=slots, streams=streams, tracing=tracing)
    service = PoseService(pipeline, settings, metrics, slots=slots, streams=streams)
    server = create_grpc_server(service, Health(pipeline), settings, metrics, tracing)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Traced(http, services.PoseServiceStub(channel), exporter)
    await server.stop(0)
    tracing.close()


def milliseconds(spans: list[ReadableSpan]) -> dict[str, float]:
    """Time of the spans by name, summed."""
    sums: Counter[str] = Counter()
    for span in spans:
        sums[span.name] += (span.end_time - span.start_time) / 1e6
    return dict(sums)


async def settled(traced: Traced, count: int) -> None:
    """Until so many spans are done; a gRPC answer is on its way before its span has ended."""
    async with asyncio.timeout(30):
        while len(traced.exporter.get_finished_spans()) < count:
            await asyncio.sleep(0.01)


async def test_an_http_request_has_a_span_with_one_for_each_stage(traced: Traced) -> None:
    headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
    answer = (await traced.http.post("/v1/poses", content=PHOTO, headers=headers)).json()
    request, stages = traced.spans()
    assert (request.name, request.kind.name) == ("POST /v1/poses", "SERVER")
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["posegate.request_id"] == "mine"
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == CALLER
    assert milliseconds(stages) == pytest.approx(answer["stages_ms"], abs=0.002)
    assert all(span.parent.span_id == request.context.span_id for span in stages)
    assert request.resource.attributes["service.name"] == "posegate"


async def test_a_grpc_call_has_a_span_with_one_for_each_stage(traced: Traced) -> None:
    metadata = (("traceparent", TRACEPARENT),)
    response = await traced.stub.Estimate(pb.EstimateRequest(image=PHOTO), metadata=metadata)
    expected = dict(response.poses.stages_ms)
    await settled(traced, len(expected) + 1)
    request, stages = traced.spans()
    assert request.name == "posegate.v1.PoseService/Estimate"
    assert request.attributes["rpc.grpc.status_code"] == 0
    assert f"{request.context.trace_id:032x}" == TRACE
    assert milliseconds(stages) == pytest.approx(expected, abs=0.002)


async def test_a_stream_has_a_span_for_each_frame_and_its_stages(traced: Traced) -> None:
    every = pb.StreamRequest(options=pb.StreamOptions(mode=pb.STREAM_MODE_EVERY))
    frames = [pb.StreamRequest(frame=data) for data in (PHOTO, b"words", PHOTO)]
    *events, _ = [event async for event in traced.stub.Stream(iter([every, *frames]))]
    async with asyncio.timeout(30):
        while not any("Stream" in span.name for span in traced.exporter.get_finished_spans()):
            await asyncio.sleep(0.01)
    request, below = traced.spans()
    told = sorted(
        (span for span in below if span.name == "frame"),
        key=lambda span: span.attributes["posegate.frame"],
    )
    assert [span.attributes["posegate.event"] for span in told] == ["result", "error", "result"]
    for span, event in zip(told, events, strict=True):
        assert span.parent.span_id == request.context.span_id
        stages = [child for child in below if child.parent.span_id == span.context.span_id]
        shown = event.result.poses if event.HasField("result") else event.error
        assert milliseconds(stages) == pytest.approx(dict(shown.stages_ms), abs=0.002)


async def test_each_picture_of_a_batch_gives_its_stages(traced: Traced) -> None:
    files = [("image", PHOTO), ("image", PHOTO)]
    await traced.http.post("/v1/poses:batch", files=files)
    _, stages = traced.spans()
    assert Counter(span.name for span in stages)["decode"] == 2


async def test_a_failed_request_says_so_and_shows_how_far_it_came(traced: Traced) -> None:
    headers = {"x-request-timeout": "0.0000001"}
    answer = await traced.http.post("/v1/poses", content=PHOTO, headers=headers)
    assert answer.status_code == 504
    request, _ = traced.spans()
    assert request.status.status_code.name == "ERROR"
    traced.exporter.clear()
    assert (await traced.http.post("/v1/poses", content=b"words")).status_code == 415
    request, stages = traced.spans()
    assert request.status.status_code.name == "UNSET"  # the caller's fault
    assert [span.name for span in stages] == ["read"]


async def test_what_the_caller_does_not_sample_is_not_traced(traced: Traced) -> None:
    headers = {"traceparent": UNSAMPLED}
    await traced.http.post("/v1/poses", content=PHOTO, headers=headers)
    for path in ("/livez", "/readyz", "/metrics", "/"):
        assert (await traced.http.get(path)).status_code == 200
    assert traced.exporter.get_finished_spans() == ()


@pytest.mark.parametrize("header", ["", "00-zz-zz-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_broken_traceparent_begins_a_trace_of_its_own(traced: Traced, header: str) -> None:
    await traced.http.get("/v1/models", headers={"traceparent": header})
    request, _ = traced.spans()
    assert request.parent is None
    assert f"{request.context.trace_id:032x}" != TRACE


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 20, 80), (1.0, 200, 200)])
def test_a_share_of_the_requests_without_a_trace_of_their_own_is_traced(
    monkeypatch: pytest.MonkeyPatch, share: float, least: int, most: int
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing_otel, "otlp_processor", lambda _: SimpleSpanProcessor(exporter))
    tracing = build_tracing(Settings(otlp_endpoint="http://127.0.0.1:9", trace_share=share))
    for _ in range(200):
        with tracing.request({}):
            pass
    assert least <= len(exporter.get_finished_spans()) <= most
    exporter.clear()
    for header in (TRACEPARENT, UNSAMPLED):
        with tracing.request({"traceparent": header}):
            pass
    assert len(exporter.get_finished_spans()) == 1  # as its caller says


def test_without_an_address_the_extra_is_not_loaded() -> None:
    """The web framework may itself load OpenTelemetry's interfaces, which do nothing."""
    program = (
        "import sys, posegate.server, posegate.build, posegate.settings as s;"
        "posegate.build.build_tracing(s.Settings());"
        "extra = ('opentelemetry.sdk', 'opentelemetry.exporter');"
        "sys.exit(any(name.startswith(extra) for name in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == 0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "posegate.tracing_otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadOption, match=r"otlp_endpoint needs .*pip install 'posegate\[otel\]'"):
        build_tracing(Settings(otlp_endpoint="http://127.0.0.1:4318"))


@pytest.mark.parametrize("wrong", ["127.0.0.1:4318", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(BadOption, match="otlp_endpoint"):
        load_settings(otlp_endpoint=wrong)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/v1/traces"),
        ("/", "/v1/traces"),
        ("/v1/traces", "/v1/traces"),
        ("/of/our/own/", "/of/our/own/"),
    ],
)
def test_spans_are_sent_where_the_address_says(path: str, asked: str) -> None:
    paths = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *about: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        serving = Thread(target=server.handle_request)
        serving.start()
        tracing = OtelTracing(otlp_processor(f"http://127.0.0.1:{server.server_port}{path}"))
        with tracing.request({}):
            pass
        tracing.close()
        serving.join()
    assert paths == [asked]


def test_stopping_does_not_wait_for_a_collector_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing_otel, "STOP_S", 0.2, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracing = OtelTracing(otlp_processor(address))
        tracing.frame(StageClock(), 0, "result")
        before = time.monotonic()
        tracing.close()
        assert time.monotonic() - before < tracing_otel.EXPORT_TIMEOUT_S / 2
