"""How crops get into one Triton and outputs out of it: in messages, or through shared memory."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput

from posegate.errors import BackendDown
from posegate.types import F32

QUEUE_FULL = ("maximum queue size", "timeout expired")


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a network takes and gives; `output_bytes` per crop, None where Triton does not say."""

    model: str
    input_name: str
    output_names: tuple[str, ...]
    output_bytes: tuple[int, ...] | None = None


class Transfer(Protocol):
    """The way to one server."""

    async def infer(
        self, client: Any, tensors: Tensors, crops: F32, *, deadline: float
    ) -> tuple[F32, ...]:
        """Run crops (P, 3, H, W); outputs as they come, which may be for another number.

        Raises InferenceServerException, or BackendDown when memory fails.
        """
        ...

    def lost(self) -> None:
        """The server went away, it may have forgotten everything."""
        ...

    async def tidy(self, client: Any) -> None:
        """Give back what is not needed, as far as the server lets go of it."""
        ...

    async def close(self, client: Any) -> None:
        """Give back everything; the server may be gone."""
        ...


class Messages:
    """Tensors travel in the gRPC messages."""

    async def infer(
        self, client: Any, tensors: Tensors, crops: F32, *, deadline: float
    ) -> tuple[F32, ...]:
        tensor = await asyncio.to_thread(_in_message, tensors.input_name, crops)
        wanted = [InferRequestedOutput(name) for name in tensors.output_names]
        answer = await ask(client, tensors.model, tensor, wanted, deadline)
        return from_message(answer, tensors)

    def lost(self) -> None:
        """Nothing is kept."""

    async def tidy(self, client: Any) -> None:
        """Nothing is kept."""

    async def close(self, client: Any) -> None:
        """Nothing is kept."""


async def ask(client: Any, model: str, tensor: Any, wanted: list[Any], deadline: float) -> Any:
    """Triton's answer; the deadline bounds the call and Triton's queue."""
    left_s = left(deadline)
    return await client.infer(
        model, [tensor], outputs=wanted, client_timeout=left_s, timeout=int(left_s * 1e6)
    )


def from_message(answer: Any, tensors: Tensors) -> tuple[F32, ...]:
    """Every output, in the order of the card."""
    outputs = [answer.as_numpy(name) for name in tensors.output_names]
    if any(output is None for output in outputs):
        raise BackendDown(f"network {tensors.model} answered without all of its outputs")
    return tuple(output.astype(np.float32, copy=False) for output in outputs)


def left(deadline: float) -> float:
    """Seconds until the deadline, at least a millisecond: a call must be given some time."""
    return max(1e-3, deadline - time.monotonic())


def _in_message(name: str, crops: F32) -> Any:
    tensor = InferInput(name, list(crops.shape), "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(crops))
    return tensor
