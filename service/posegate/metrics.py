"""Every metric of the service, in one registry that is passed in, never global."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 100)

STAGES = ("read", "decode", "detect", "crop", "queue", "infer", "keypoints", "encode")
"""The stages of a request, in the order of the contract."""


class Metrics:
    """The contract's metrics; label values are closed sets."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
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
            "Crops that ran through the network together.",
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
        self.backend_up = Gauge(
            "posegate_backend_up",
            "1 while the backend can run its networks.",
            ("backend",),
            registry=self.registry,
        )
        self.model_info = Gauge(
            "posegate_model_info",
            "1 for each network that is served.",
            ("model", "backend", "precision", "provider", "sha256"),
            registry=self.registry,
        )

    def observe_image(self, model: str, stages_ms: Mapping[str, float], people: int) -> None:
        """Record one image that was answered."""
        self.observe_stages(model, stages_ms)
        self.people_per_image.observe(people)

    def observe_stages(self, model: str, stages_ms: Mapping[str, float]) -> None:
        """Record one image's stage times, in milliseconds as the answer gives them."""
        for stage, milliseconds in stages_ms.items():
            self.stage_seconds.labels(stage, model).observe(milliseconds / 1000)
