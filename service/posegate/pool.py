"""A bounded pool of threads for array work, so that none of it runs on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Pool:
    """Runs decoding, warping and keypoint maths beside the event loop."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="arrays")

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in one of the threads; work that did not start can be cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def close(self) -> None:
        """End the threads; what runs is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)
