"""Every metric of the service, in one registry that is passed in, never global."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from posegate.errors import SLUGS
from posegate.metric_files import SHARED_FOLDER, take_room

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 100)

STAGES = ("read", "decode", "detect", "crop", "queue", "infer", "keypoints", "encode")
"""The stages of a request, in the order of the contract."""

DROP_REASONS = ("busy", "rate")
"""Why a frame of a live stream is not estimated."""

REFUSALS = (
    *SLUGS, "internal", "bad-request", "not-found", "method-not-allowed", "upgrade-required",
    "request-timeout", "request-header-fields-too-large", "uri-too-long",
)  # fmt: skip
"""Slugs of the problems a request can end in: the contract's, those of HTTP itself, and the one for
faults that nobody foresaw."""


class Metrics:
    """The contract's metrics; label values are closed sets.

    Counters by reason begin at 0 for every reason: a series that appears with its first burst has
    no rate yet.

    `shared` is the folder that SHARED_FOLDER named when this process began. With it the metrics are
    those of all processes that share the folder; counts of processes that have ended stay in them.
    Raises BadOption where the disk has no room for them.
    """

    def __init__(self, *, shared: Path | None = None) -> None:
        assert shared is None or os.environ.get(SHARED_FOLDER) == str(shared)
        self._shared = shared
        if shared is not None:
            take_room(shared)
        self._watched: list[tuple[Gauge, tuple[str, ...], Callable[[], float]]] = []
        self.registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "posegate_request_seconds",
            "Time from the request's first byte to the answer's last.",
            ("face", "route", "code"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "posegate_stage_seconds",
            "Time of each stage of one image; the stages add up to the total.",
            ("stage", "model"),
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self.people_per_image = Histogram(
            "posegate_people_per_image",
            "People answered per image.",
            buckets=COUNTS,
            registry=self.registry,
        )
        self.crops_per_batch = Histogram(
            "posegate_crops_per_batch",
            "Crops in one run of the network; with Triton in one request to it.",
            ("model",),
            buckets=COUNTS[1:],
            registry=self.registry,
        )
        self.queue_age_seconds = Histogram(
            "posegate_queue_age_seconds",
            "Time that crops waited before their batch started.",
            ("model",),
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "posegate_in_flight",
            "Requests being worked on.",
            ("face",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.frames_dropped = Counter(
            "posegate_frames_dropped",
            "Frames of live streams that were not estimated.",
            ("reason",),
            registry=self.registry,
        )
        self.rejected = Counter(
            "posegate_rejected",
            "Requests refused, by the slug of the problem.",
            ("reason",),
            registry=self.registry,
        )
        for reason in DROP_REASONS:
            self.frames_dropped.labels(reason)
        for reason in REFUSALS:
            self.rejected.labels(reason)
        self.backend_up = Gauge(
            "posegate_backend_up",
            "1 while the backend can run its networks.",
            ("backend",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.model_info = Gauge(
            "posegate_model_info",
            "1 for each network as it is served, 0 as it was served before.",
            ("model", "backend", "precision", "provider", "sha256"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def exposition(self) -> bytes:
        """All metrics as Prometheus reads them."""
        if self._shared is None:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def watch(self, gauge: Gauge, *labels: str, value: Callable[[], float]) -> None:
        """Let a gauge follow a function.

        Where metrics are shared, the gauge has the function's value at the last `refresh`; before
        the first one, this process has no part in it.
        """
        if self._shared is None:
            gauge.labels(*labels).set_function(value)
        else:
            self._watched.append((gauge, labels, value))

    def refresh(self) -> None:
        """Write the present values of the watched functions down for other processes to read."""
        for gauge, labels, value in self._watched:
            gauge.labels(*labels).set(value())

    def observe_image(self, model: str, stages_ms: Mapping[str, float], people: int) -> None:
        """Record one image that was answered; stage times in milliseconds, as in the answer."""
        for stage, milliseconds in stages_ms.items():
            self.stage_seconds.labels(stage, model).observe(milliseconds / 1000)
        self.people_per_image.observe(people)
