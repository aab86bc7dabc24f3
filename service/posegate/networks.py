"""All networks of the catalogue: started, asked whether they can run, stopped."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from posegate.backends.base import Network
from posegate.errors import PosegateError

log = logging.getLogger(__name__)

RETRY_OTHER_S = 10.0


class Networks:
    """Networks by name; without the `required` ones the service is not ready.

    Another one that cannot run fails only the requests that name it.
    """

    def __init__(self, networks: Mapping[str, Network], *, required: Sequence[str]) -> None:
        self._networks = networks
        self._required = required
        self._misfits: dict[str, str] = {}

    def __getitem__(self, name: str) -> Network:
        return self._networks[name]

    async def start(self) -> None:
        """Load every network and warm it up; the first that cannot be used stops the start."""
        await self.start_required()
        try:
            async with asyncio.TaskGroup() as group:  # each may have to wait for its server
                for name in self._others():
                    group.create_task(self._networks[name].start())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def start_required(self) -> None:
        """Start what the service cannot be ready without."""
        for name in self._required:
            await self._networks[name].start()

    async def start_others(self) -> None:
        """Start the rest side by side, since each may have to wait for its server.

        One that cannot be used is tried again.
        """
        async with asyncio.TaskGroup() as group:
            for name in self._others():
                group.create_task(self._start_other(name))

    async def stop(self) -> None:
        """Let all of them go."""
        for network in self._networks.values():
            await network.stop()

    def ready(self) -> str | None:
        """None when all required networks can run, else the reasons why not."""
        return self.reasons(self._required)

    def missing(self) -> str | None:
        """Why networks cannot run, be they required or not; None when all can."""
        faults = (network.fault() for network in self._networks.values())
        return "; ".join(filter(None, [self.reasons(self._networks), *faults])) or None

    def reasons(self, names: Iterable[str]) -> str | None:
        """Why some of these cannot run, or None."""
        reasons = [self._misfits.get(name) or self._networks[name].ready() for name in names]
        return "; ".join(filter(None, reasons)) or None

    def _others(self) -> set[str]:
        return self._networks.keys() - self._required

    async def _start_other(self, name: str) -> None:
        while True:
            try:
                await self._networks[name].start()
            except Exception as error:  # whatever one network leads to, the others serve
                why = error.detail if isinstance(error, PosegateError) else f"it fails: {error!r}"
                if self._misfits.get(name) != why:
                    unforeseen = None if isinstance(error, PosegateError) else error
                    log.error("network %s cannot be used: %s", name, why, exc_info=unforeseen)
                self._misfits[name] = why
                await asyncio.sleep(RETRY_OTHER_S)
            else:
                self._misfits.pop(name, None)
                return
