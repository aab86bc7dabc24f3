"""A limited supply that many share: cores for networks, memory for decoded pictures."""

import asyncio
from collections import deque


class Budget:
    """So many units at a time, handed out first come, first served.

    Whoever asks for more units than there are gets them all, so that everybody's turn comes.
    """

    def __init__(self, units: int) -> None:
        self._whole = self.free = units
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, units: int) -> None:
        """Wait for so many units and take them."""
        units = min(units, self._whole)
        if units <= self.free and not self._waiting:
            self.free -= units
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((units, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self.give_back(0 if turn.cancelled() else units)
            raise

    def give_back(self, units: int) -> None:
        """Give as many back as were taken; they go straight to those who wait longest."""
        self.free += min(units, self._whole)
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if wanted > self.free:
                    return
                self.free -= wanted
                turn.set_result(None)
            self._waiting.popleft()
