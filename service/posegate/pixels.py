"""The memory that decoded pictures take, bounded."""

import asyncio
from collections import deque


class PixelBudget:
    """So many pixels of decoded pictures at a time, handed out first come, first served.

    A picture of more pixels than there are takes them all, so that each fits at some time.
    """

    def __init__(self, pixels: int) -> None:
        self._whole = self._free = pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, pixels: int) -> bool:
        """Wait for so many pixels and take them; whether it had to wait."""
        pixels = min(pixels, self._whole)
        if pixels <= self._free and not self._waiting:
            self._free -= pixels
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self.give_back(0 if turn.cancelled() else pixels)
            raise
        return True

    def give_back(self, pixels: int) -> None:
        """Give as many back as were taken for a picture; those who wait longest get them."""
        self._free += min(pixels, self._whole)
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()
