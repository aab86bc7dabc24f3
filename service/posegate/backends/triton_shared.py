"""Crops and outputs through memory that one Triton has opened, a place for every request."""

import asyncio
import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from posegate.backends.triton_memory import (
    CALL_TIMEOUT_S,
    REGIONS,
    Region,
    SharedMemory,
    whole_bytes,
)
from posegate.backends.triton_transfer import (
    QUEUE_FULL,
    Messages,
    Tensors,
    ask,
    from_message,
    left,
)
from posegate.errors import BackendDown
from posegate.types import F32

log = logging.getLogger(__name__)
Result = TypeVar("Result")

UNKNOWN_REGION = re.compile("Unable to find .*shared memory region")
IDLE_CROPS = 64
"""Most crops for which a network's unused regions are kept: 51 MB at 256x192, 17 keypoints."""
INLINE_BYTES = 2**20
"""A smaller copy costs less than handing it to a thread (0.09 ms)."""


@dataclass(eq=False, slots=True)
class _Slot:
    """Room for one request of at most `crops` crops: a region for every tensor."""

    model: str
    crops: int
    regions: list[Region] = field(default_factory=list)


class SharedTensors:
    """Tensors lie in regions that a server has opened; a request has regions of its own.

    A region whose request ended otherwise than by an answer is never used again, for the server may
    still write into it; it is given back once the server lets go of it. Outputs of a size that
    Triton does not know, and requests for which there is no memory, travel in messages.
    """

    def __init__(self, kind: SharedMemory, *, max_slots: int) -> None:
        """At most `max_slots` requests of each network have regions."""
        self._kind = kind
        self._max_slots = max_slots
        self._messages = Messages()
        self._count: defaultdict[str, int] = defaultdict(int)
        self._idle: defaultdict[str, list[_Slot]] = defaultdict(list)
        self._retired: list[_Slot] = []

    async def infer(
        self, client: Any, tensors: Tensors, crops: F32, *, deadline: float
    ) -> tuple[F32, ...]:
        try:
            return await self._infer(client, tensors, crops, deadline)
        except InferenceServerException as error:
            if not UNKNOWN_REGION.search(error.message()):
                raise
        log.info("triton has forgotten its shared memory, it gets new regions")
        self.lost()
        return await self._infer(client, tensors, crops, deadline)

    def lost(self) -> None:
        for slots in self._idle.values():
            self._retired += slots
            slots.clear()

    async def tidy(self, client: Any) -> None:
        slots = self._retired.copy()
        gone = await asyncio.gather(*(_forgotten(client, slot) for slot in slots))
        for slot in itertools.compress(slots, gone):
            self._retired.remove(slot)
            self._free(slot)

    async def close(self, client: Any) -> None:
        self.lost()
        await self.tidy(client)
        for slot in self._retired:
            self._free(slot)
        self._retired.clear()

    async def _infer(
        self, client: Any, tensors: Tensors, crops: F32, deadline: float
    ) -> tuple[F32, ...]:
        slot = await self._take(client, tensors, crops, deadline)
        if slot is None:
            return await self._messages.infer(client, tensors, crops, deadline=deadline)
        release = self._retire
        try:
            outputs = await _through(client, tensors, slot, crops, deadline)
            release = self._keep
        except OSError as error:
            raise BackendDown(f"shared memory of network {tensors.model}: {error}") from error
        except InferenceServerException as error:
            if any(words in error.message() for words in QUEUE_FULL):
                release = self._keep
            raise
        finally:
            release(slot)
        return outputs

    async def _take(
        self, client: Any, tensors: Tensors, crops: F32, deadline: float
    ) -> _Slot | None:
        """The smallest idle slot that is large enough, else a new one; None without memory."""
        idle = self._idle[tensors.model]
        fitting = [slot for slot in idle if slot.crops >= len(crops)]
        if fitting:
            slot = min(fitting, key=lambda one: one.crops)
            idle.remove(slot)
            return slot
        if self._count[tensors.model] >= self._max_slots:
            self._retired += idle[:1]
            del idle[:1]
            return None
        slot = _Slot(tensors.model, crops=1 << (len(crops) - 1).bit_length())
        sizes = [crops[0].nbytes, *(tensors.output_bytes or ())]
        self._count[tensors.model] += 1
        try:
            await _finished(_make_regions, REGIONS[self._kind], sizes, slot)
            await _register(client, slot, deadline)
        except OSError as error:
            log.warning("no shared memory, crops go in messages: %s", error)
            self._retire(slot)
            return None
        except BaseException:
            self._retire(slot)
            raise
        return slot

    def _keep(self, slot: _Slot) -> None:
        """Keep it for a later request.

        Of too many the largest goes, so that those that stay fit the requests that come.
        """
        idle = self._idle[slot.model]
        idle.append(slot)
        if sum(one.crops for one in idle) > IDLE_CROPS:
            largest = max(idle, key=lambda one: one.crops)
            idle.remove(largest)
            self._retire(largest)

    def _retire(self, slot: _Slot) -> None:
        self._retired.append(slot)

    def _free(self, slot: _Slot) -> None:
        self._count[slot.model] -= 1
        for region in slot.regions:
            try:
                region.free()
            except OSError as error:
                log.warning("%s", error)


def _make_regions(make: Callable[[int], Region], sizes: list[int], slot: _Slot) -> None:
    """One by one into the slot, so that whatever was made is given back with it."""
    for size in sizes:
        slot.regions.append(make(size * slot.crops))


async def _register(client: Any, slot: _Slot, deadline: float) -> None:
    """Register all regions at once and wait for each, as none can be unregistered under way."""
    left_s = left(deadline)
    calls = (region.register(client, timeout_s=left_s) for region in slot.regions)
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _forgotten(client: Any, slot: _Slot) -> bool:
    """Whether the server has let go of every region; one in use it keeps."""
    calls = (region.unregister(client, timeout_s=CALL_TIMEOUT_S) for region in slot.regions)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return not any(isinstance(outcome, BaseException) for outcome in outcomes)


async def _through(
    client: Any, tensors: Tensors, slot: _Slot, crops: F32, deadline: float
) -> tuple[F32, ...]:
    region, *output_regions = slot.regions
    await _copied(crops.nbytes, region.write, crops)
    tensor = InferInput(tensors.input_name, list(crops.shape), "FP32")
    tensor.set_shared_memory(region.name, crops.nbytes)
    wanted = [InferRequestedOutput(name) for name in tensors.output_names]
    for output, place in zip(wanted, output_regions, strict=bool(output_regions)):
        output.set_shared_memory(place.name, place.byte_size)
    answer = await ask(client, tensors.model, tensor, wanted, deadline)
    if not output_regions:
        return from_message(answer, tensors)
    outputs = []
    for name, place in zip(tensors.output_names, output_regions, strict=True):
        told = answer.get_output(name)
        dtype, shape = np.dtype(triton_to_np_dtype(told.datatype)), tuple(told.shape)
        size = whole_bytes(dtype, shape)
        if size > place.byte_size:
            raise BackendDown(f"network {tensors.model} answered more than its configuration says")
        outputs.append(await _copied(size, place.read, dtype, shape))
    return tuple(outputs)


async def _copied(byte_size: int, copy: Callable[..., Result], *arguments: Any) -> Result:
    if byte_size < INLINE_BYTES:
        return copy(*arguments)
    return await _finished(copy, *arguments)


async def _finished(work: Callable[..., Result], *arguments: Any) -> Result:
    """Run it in a thread; a cancelled caller waits for its end too, as it works on our memory."""
    thread = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise
