"""The seam between the service and whatever runs a network."""

from dataclasses import dataclass
from typing import Protocol

from posegate.types import F32


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """Label values of `posegate_model_info`."""

    name: str
    precision: str
    provider: str


@dataclass(frozen=True, slots=True)
class Inference:
    """Outputs of one request's crops, each (P, ...) float32 in the card's order, and the time.

    `infer_s` is the wall time in which at least one of its batches ran, `queue_s` the rest of the
    wait.
    """

    outputs: tuple[F32, ...]
    queue_s: float
    infer_s: float


class Backend(Protocol):
    """Runs one network on batches."""

    @property
    def info(self) -> BackendInfo:
        """What runs the network, and how."""
        ...

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of one crop."""
        ...

    async def start(self) -> None:
        """Load or reach the network and check it against its card."""
        ...

    async def infer(self, tensor: F32) -> tuple[F32, ...]:
        """Run a batch (P, 3, H, W) float32, P at least 1; one array (P, ...) per output."""
        ...

    async def stop(self) -> None:
        """Let the network go."""
        ...

    def ready(self) -> str | None:
        """None when it can run, else the reason why not, for a person to read."""
        ...


class Network(Protocol):
    """One network for any number of concurrent callers, in bounded memory."""

    @property
    def info(self) -> BackendInfo:
        """What runs the network, and how."""
        ...

    async def start(self) -> None:
        """Load or reach the network, check it against its card and warm it up."""
        ...

    async def awake(self, *, deadline: float | None) -> None:
        """Load what rests; returns when crops can be run, at once where nothing rests.

        Raises BackendDown, with the reason, or DeadlineExceeded.
        """
        ...

    async def infer(self, tensor: F32, *, deadline: float | None = None) -> Inference:
        """Run crops (P, 3, H, W), P at least 1; `deadline` is a `time.monotonic()` value."""
        ...

    async def stop(self) -> None:
        """Refuse what waits and let the network go."""
        ...

    def ready(self) -> str | None:
        """None when it can run, else the reason why not, for a person to read."""
        ...

    def fault(self) -> str | None:
        """Why the last load failed, where it is `ready` all the same as the next call tries again.

        None where no load failed.
        """
        ...
