"""Joins the crops of concurrent callers into batches: first in, first out, in bounded memory."""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import numpy as np

from posegate.backends.base import Backend, BackendInfo, Inference
from posegate.backends.workers import Workers
from posegate.errors import BackendDown, DeadlineExceeded, Overloaded, PosegateError
from posegate.metrics import Metrics
from posegate.types import F32

log = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 30.0
"""The longest time after which a refused caller is told to come back."""

COPY_WORTH_A_THREAD = 2**20
"""Bytes; fewer are copied in less time than another thread takes to begin."""


@dataclass(slots=True, eq=False)
class _Ticket:
    """One caller's crops; `taken` of them are in a batch, `outputs` holds what came back."""

    tensor: F32
    deadline: float
    arrived: float
    done: asyncio.Future[None]
    taken: int = 0
    finished: int = 0
    outputs: tuple[F32, ...] = ()
    runs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.tensor) - self.taken


@dataclass(frozen=True, slots=True)
class _Slice:
    """Crops `start` to `stop` of a ticket, in one batch."""

    ticket: _Ticket
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start


class BatchingBackend:
    """A queue in front of one backend.

    An idle worker starts at once on whatever waits, sharing it with the other idle workers, so a
    lone caller never waits for company. While other batches run, a batch that is not full waits up
    to `max_wait_s` for more crops.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        model: str,
        workers: Workers,
        metrics: Metrics,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
    ) -> None:
        self._backend = backend
        self._model = model
        self._workers = workers
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._crops_per_batch = metrics.crops_per_batch.labels(model)
        self._queue_age = metrics.queue_age_seconds.labels(model)
        self._queue: deque[_Ticket] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        # A pause of the machine slows a batch of every worker; the median leaves those out.
        self._recent: deque[float] = deque(maxlen=4 * workers.count + 1)
        self._seconds_per_crop = 0.0

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    async def start(self) -> None:
        """Start the backend and run every batch size in use once, so the first caller is fast."""
        await self._backend.start()
        for size in range(1, self._max_batch + 1):
            crops = np.zeros((size, *self._backend.input_shape), np.float32)
            await self._workers.acquire()
            try:
                await self._backend.infer(crops)
            finally:
                self._workers.release()
        self._loop = asyncio.create_task(self._dispatch(), name=f"batches of {self._model}")

    async def stop(self) -> None:
        """Let running batches finish, refuse the rest, stop the backend."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None
        await asyncio.gather(*self._running)
        self._fail(list(self._queue), BackendDown(f"network {self._model} is stopping"))
        await self._backend.stop()

    def ready(self) -> str | None:
        """None when crops can be run, else the reason why not."""
        if self._loop is None:
            return f"network {self._model} is not warmed up"
        return self._backend.ready()

    def fault(self) -> str | None:
        """None: it is loaded once, at the start."""
        return None

    async def awake(self, *, deadline: float | None) -> None:
        """Returns at once, as it never rests; BackendDown where it was not started."""
        self._check_running()

    async def infer(self, tensor: F32, *, deadline: float | None = None) -> Inference:
        """Run crops (P, 3, H, W), P at least 1; `deadline` is a `time.monotonic()` value.

        Raises Overloaded when the queue is full or the work could not start in time,
        DeadlineExceeded when the deadline passed while it waited, BackendDown when the batch
        failed.
        """
        now = time.monotonic()
        deadline = float("inf") if deadline is None else deadline
        self._admit(len(tensor), now, deadline)
        ticket = _Ticket(tensor, deadline, now, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._waiting += ticket.left
        self._changed.set()
        try:
            await ticket.done
        except asyncio.CancelledError:
            self._forget(ticket)
            raise
        infer_s = _covered(ticket.runs)
        return Inference(ticket.outputs, max(time.monotonic() - now - infer_s, 0.0), infer_s)

    def check_room(self, crops: int, *, waiting: int) -> None:
        """Raises Overloaded where `crops` more than the `waiting` ones pass `max_queue`."""
        if waiting + crops > self._max_queue:
            raise Overloaded(
                f"{waiting} crops wait for network {self._model} and {crops} more pass the "
                f"limit of {self._max_queue}; try again later",
                retry_after_s=self._retry_after_s(waiting),
            )

    def _check_running(self) -> None:
        if self._loop is None:
            raise BackendDown(f"network {self._model} is not running", retry_after_s=1.0)

    def _admit(self, crops: int, now: float, deadline: float) -> None:
        self._check_running()
        if deadline <= now:
            raise DeadlineExceeded(f"the deadline passed before network {self._model} was asked")
        self.check_room(crops, waiting=self._waiting)
        if now + self._wait_s(self._waiting) > deadline:
            raise Overloaded(
                f"{self._waiting} crops wait for network {self._model}: the work could not start "
                "in time; try again later or allow more time",
                retry_after_s=self._retry_after_s(self._waiting),
            )

    def _wait_s(self, waiting: int) -> float:
        return waiting * self._seconds_per_crop / self._workers.count

    def _retry_after_s(self, waiting: int) -> float:
        return min(max(1.0, self._wait_s(waiting)), MAX_RETRY_AFTER_S)

    async def _dispatch(self) -> None:
        while True:
            await self._wait_for_crops()
            await self._workers.acquire()
            if batch := self._next_batch():
                task = asyncio.create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._ran)
            else:
                self._workers.release()

    async def _wait_for_crops(self) -> None:
        while True:
            self._changed.clear()
            wait_s = None
            if self._queue:
                oldest = self._queue[0]
                wait_s = oldest.arrived + self._max_wait_s - time.monotonic()
                if oldest.taken or not self._running or self._waiting >= self._max_batch:
                    return
                if wait_s <= 0:
                    return
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _next_batch(self) -> list[_Slice]:
        """Take the oldest crops: a fair share for this worker, at most `max_batch`."""
        now = time.monotonic()
        late = [ticket for ticket in self._queue if ticket.deadline <= now]
        self._fail(
            late, DeadlineExceeded(f"the deadline passed in the queue of network {self._model}")
        )
        room = min(self._max_batch, -(-self._waiting // (self._workers.free + 1)))
        batch = []
        while room > 0:
            ticket = self._queue[0]
            count = min(room, ticket.left)
            batch.append(_Slice(ticket, ticket.taken, ticket.taken + count))
            self._queue_age.observe(now - ticket.arrived)
            ticket.taken += count
            self._waiting -= count
            room -= count
            if ticket.left == 0:
                self._queue.popleft()
        return batch

    async def _run(self, batch: list[_Slice]) -> None:
        """The one place where a batch runs, and where a whole batch fails."""
        count = sum(part.count for part in batch)
        try:
            tensor = await self._join(batch)
            started = time.monotonic()
            outputs = await self._backend.infer(tensor)
            ended = time.monotonic()
            if any(len(output) != count for output in outputs):
                raise BackendDown(f"network {self._model} answered for another number of crops")
            await self._share_out(batch, outputs)
        except Exception as error:  # whatever went wrong, every caller of the batch must hear of it
            self._fail([part.ticket for part in batch], self._as_posegate_error(error))
            return
        self._crops_per_batch.observe(count)
        self._recent.append((ended - started) / count)
        self._seconds_per_crop = median(self._recent)
        for part in batch:
            ticket = part.ticket
            ticket.runs.append((started, ended))
            ticket.finished += part.count
            if ticket.finished == len(ticket.tensor) and not ticket.done.done():
                ticket.done.set_result(None)

    async def _join(self, batch: list[_Slice]) -> F32:
        crops = [part.ticket.tensor[part.start : part.stop] for part in batch]
        if len(crops) == 1:
            return crops[0]
        return await self._workers.run(partial(np.concatenate, crops))

    async def _share_out(self, batch: list[_Slice], outputs: tuple[F32, ...]) -> None:
        """Give each caller its rows, as a copy where it has more of them in other batches."""
        copies: list[tuple[F32, F32]] = []
        first = 0
        for part in batch:
            ticket = part.ticket
            rows = tuple(output[first : first + part.count] for output in outputs)
            first += part.count
            if part.count == len(ticket.tensor):
                ticket.outputs = rows
                continue
            if not ticket.outputs:
                ticket.outputs = tuple(
                    np.empty((len(ticket.tensor), *output.shape[1:]), output.dtype)
                    for output in outputs
                )
            whole = (output[part.start : part.stop] for output in ticket.outputs)
            copies += zip(whole, rows, strict=True)
        if sum(source.nbytes for _, source in copies) > COPY_WORTH_A_THREAD:
            await self._workers.run(partial(_copy, copies))
        else:
            _copy(copies)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._workers.release()
        self._changed.set()

    def _as_posegate_error(self, error: Exception) -> PosegateError:
        if isinstance(error, PosegateError):
            return error
        log.error("a batch failed", exc_info=error, extra={"model": self._model})
        return BackendDown(f"network {self._model} failed; try again later", retry_after_s=1.0)

    def _fail(self, tickets: list[_Ticket], error: PosegateError) -> None:
        for ticket in tickets:
            self._forget(ticket)
            if not ticket.done.done():
                ticket.done.set_exception(error)

    def _forget(self, ticket: _Ticket) -> None:
        """Drop what still waits of a ticket; nothing of it will be computed."""
        if ticket.left and ticket in self._queue:
            self._queue.remove(ticket)
            self._waiting -= ticket.left


def _copy(pairs: list[tuple[F32, F32]]) -> None:
    for target, source in pairs:
        np.copyto(target, source)


def _covered(runs: list[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the (start, end) runs."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(runs):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
