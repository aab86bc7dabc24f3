"""The cores that all embedded networks share."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """A fixed number of threads, handed out first come, first served.

    All networks of a process take from one set, so a busy detector and a busy pose network do not
    run more threads than there are cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="infer")

    async def acquire(self) -> None:
        """Wait for a worker and take it."""
        if self.free > 0 and not self._waiting:
            self.free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a worker back; it goes straight to the one who waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in one of the threads; the caller holds a worker."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """End the threads; what runs is finished first."""
        self._pool.shutdown(wait=True, cancel_futures=True)
