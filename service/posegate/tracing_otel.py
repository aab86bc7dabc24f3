"""Traces for OpenTelemetry; the one file that needs the extra `otel`."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from posegate.stages import StageClock
from posegate.tracing import About, followed

EXPORT_TIMEOUT_S = 5.0
STOP_S = 5.0
"""How long a service that stops waits for the collector; each batch has a time limit of its own."""
TRACES_PATH = "/v1/traces"


class OtelTracing:
    """Makes the spans.

    `share` is how many of the requests that begin a trace of their own are sampled. Where a caller
    sends a `traceparent`, that decides.
    """

    def __init__(self, processor: SpanProcessor, *, share: float = 1.0) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": "posegate"}),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("posegate")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[About]:
        about = About()
        caller = self._propagator.extract(headers)
        span = self._tracer.start_span("request", caller, kind=trace.SpanKind.SERVER)
        token = context.attach(trace.set_span_in_context(span, caller))
        with followed() as clocks:
            try:
                yield about
            finally:
                for clock in clocks:
                    self._stages(clock)
                context.detach(token)
                span.update_name(about.name)
                span.set_attributes(about.attributes)
                if about.failed:
                    span.set_status(trace.StatusCode.ERROR)
                span.end()

    def frame(self, clock: StageClock, number: int | None, event: str) -> None:
        span = self._tracer.start_span("frame", start_time=_began_ns(clock))
        with trace.use_span(span, end_on_exit=True):
            span.set_attribute("posegate.event", event)
            if number is not None:
                span.set_attribute("posegate.frame", number)
            self._stages(clock)

    def close(self) -> None:
        """Send what was not sent yet; what a collector does not take in STOP_S is lost."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(STOP_S)

    def _stages(self, clock: StageClock) -> None:
        """Add a child to the current span for each stretch; a stage may have several."""
        began_ns = _began_ns(clock)
        for stretch in clock.stretches:
            start_ns = began_ns + round(stretch.after_s * 1e9)
            span = self._tracer.start_span(stretch.stage, start_time=start_ns)
            span.end(start_ns + round(stretch.seconds * 1e9))


def otlp_processor(endpoint: str) -> SpanProcessor:
    """Sends spans to an OTLP/HTTP address, in the background and in bounded memory."""
    host = endpoint.rstrip("/")
    if host.count("/") == 2:
        endpoint = host + TRACES_PATH
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S))


def _began_ns(clock: StageClock) -> int:
    """When the clock began, in nanoseconds since 1970.

    A pause between reading the two clocks makes it look earlier, so the latest of three is taken.
    """
    return max(time.time_ns() - round(clock.age_s * 1e9) for _ in range(3))
