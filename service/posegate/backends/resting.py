"""A network that gives its memory back while nobody asks for it."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from posegate.backends.base import BackendInfo, Inference
from posegate.backends.batching import BatchingBackend
from posegate.catalog import Model, check_file
from posegate.errors import BackendDown, DeadlineExceeded, PosegateError
from posegate.types import F32

log = logging.getLogger(__name__)

STOP_LIMIT_S = 2.0
"""How long a stop waits for a network that is being loaded: reading its file may hang for ever."""


class RestingNetwork:
    """A network that is checked and warmed up at the start and then rests: it is not in memory.

    The first caller wakes it, which takes as long as loading does, and it stays awake until nobody
    has asked for `idle_s` seconds. Callers who come meanwhile share the waking and its failure. It
    goes on even when their deadlines pass, so that the next caller finds it done. As many crops may
    wait for it as for the network itself.
    """

    def __init__(self, network: BatchingBackend, model: Model, *, idle_s: float) -> None:
        self._network = network
        self._model = model
        self._idle_s = idle_s
        self._started = False
        self._awake = False
        self._fault: str | None = None
        self._callers = 0
        self._waiting_crops = 0
        self._change = asyncio.Lock()
        self._waking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def info(self) -> BackendInfo:
        return self._network.info

    async def start(self) -> None:
        await self._network.start()
        await self._network.stop()
        self._started = True

    async def awake(self, *, deadline: float | None) -> None:
        """Wait until it is loaded; after that it stays awake for `idle_s` at least."""
        with self._in_use():
            await self._until_awake(deadline)

    async def infer(self, tensor: F32, *, deadline: float | None = None) -> Inference:
        """As the network's own `infer`; the time that waking takes counts as queueing.

        Raises BackendDown too, when the network cannot be loaded again.
        """
        with self._in_use():
            if self._awake:
                return await self._network.infer(tensor, deadline=deadline)
            self._network.check_room(len(tensor), waiting=self._waiting_crops)
            asked = time.monotonic()
            self._waiting_crops += len(tensor)
            try:
                await self._until_awake(deadline)
            finally:
                self._waiting_crops -= len(tensor)
            waking_s = time.monotonic() - asked
            inference = await self._network.infer(tensor, deadline=deadline)
            return replace(inference, queue_s=inference.queue_s + waking_s)

    async def stop(self) -> None:
        self._started = False
        if self._timer is not None:
            self._timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_LIMIT_S):
                await asyncio.gather(*self._tasks, return_exceptions=True)
        self._awake = False
        await self._network.stop()

    def ready(self) -> str | None:
        """None also while it rests, since the next caller wakes it."""
        return None if self._started else f"network {self._model.name} is not checked"

    def fault(self) -> str | None:
        return self._fault

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep it from resting meanwhile and for `idle_s` afterwards."""
        self._callers += 1
        try:
            yield
        finally:
            self._callers -= 1
            self._rest_later()

    def _rest_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._callers == 0 and self._awake:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._idle_s, lambda: self._begin(self._rest()))

    def _begin(self, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(change, name=f"waking or resting of {self._model.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio logs it once more where nobody waits

    async def _until_awake(self, deadline: float | None) -> None:
        if self._awake:
            return
        if self._waking is None:
            self._waking = self._begin(self._wake())
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await asyncio.shield(self._waking)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the deadline passed while network {self._model.name} was being loaded; allow "
                "more time or try again"
            ) from error

    async def _wake(self) -> None:
        name = self._model.name
        try:
            async with self._change:
                if not self._started:
                    raise BackendDown(f"network {name} is not running", retry_after_s=1.0)
                await self._load()
        except asyncio.CancelledError as error:  # by the stop; those who wait are not cancelled
            raise BackendDown(f"network {name} is stopping") from error
        finally:
            self._waking = None
        self._rest_later()

    async def _load(self) -> None:
        try:
            await asyncio.to_thread(check_file, self._model)  # it may have changed meanwhile
            await self._network.start()
        except Exception as error:  # whatever a file that changed meanwhile may lead to
            log.error("network not loaded", exc_info=error, extra={"model": self._model.name})
            await self._network.stop()
            why = error.detail if isinstance(error, PosegateError) else repr(error)
            self._fault = f"network {self._model.name} could not be loaded: {why}"
            raise BackendDown(
                f"network {self._model.name} could not be loaded; the service's log says why",
                retry_after_s=1.0,
            ) from error
        self._awake, self._fault = True, None
        log.info("network loaded again", extra={"model": self._model.name})

    async def _rest(self) -> None:
        async with self._change:
            if self._callers == 0:
                self._awake = False
                await self._network.stop()
                log.info("network let go", extra={"model": self._model.name})
