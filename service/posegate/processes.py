"""Several worker processes behind one pair of ports, and the process that minds them.

Every worker binds both ports itself (SO_REUSEPORT) and the kernel deals the connections out. The
metrics of all are kept in files that each of them reads when it is asked.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from posegate.errors import BadOption
from posegate.metric_files import SHARED_FOLDER, forget_process
from posegate.settings import Settings
from posegate.sockets import reserve

log = logging.getLogger(__name__)

AWAY, COLD, WARM = range(3)
"""A worker that does not listen; one that does but is not ready; one that is."""
STOP_MARGIN_S = 10.0
RETRY_S = 5.0
"""How long a place stays empty where the one who should take it failed."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker's place: its own settings, and what it shares with the others.

    `states` holds each worker's AWAY, COLD or WARM. A worker that takes the place of a dead one
    does not listen before it is warm (`late`), so that nobody meets a cold worker in a ready
    service.
    """

    number: int
    settings: Settings
    states: MutableSequence[int]
    metrics: Path
    late: bool

    def warm(self) -> None:
        """Tell the others."""
        self.states[self.number] = WARM

    def others(self) -> str | None:
        """None when every worker that listens is warm, else the reason to wait."""
        cold = list(self.states).count(COLD)
        return f"{cold} of {len(self.states)} workers are still starting" if cold else None


Work = Callable[[Seat], None]


def supervise(settings: Settings, work: Work) -> int:
    """Run `work` in `settings.workers` processes until SIGTERM or SIGINT; returns the exit status.

    Ctrl-C, which a terminal sends to all of them, is heard here alone: workers are asked to stop.
    A worker that dies is replaced. One that dies before it was ever ready stops the service, as
    the next would die as well; but not while others serve whose dead fellow it should replace: then
    another is tried. `threads` are divided among the workers, the other limits hold for each.
    """
    with ExitStack() as stack:
        ports = {}
        for name in ("http_port", "grpc_port"):
            kept = stack.enter_context(reserve(settings.host, getattr(settings, name)))
            ports[name] = kept.getsockname()[1]
        folder = stack.enter_context(_shared_folder())
        stack.enter_context(_environment(SHARED_FOLDER, folder))
        threads = max(1, settings.threads // settings.workers)
        share = settings.model_copy(update={**ports, "threads": threads})
        return asyncio.run(_Crew(share, work, Path(folder)).run())


def when_ended(process: BaseProcess, tell: Callable[[], None]) -> None:
    """Call `tell` when the process has ended, once, though its sentinel stays readable."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(process.sentinel)
        tell()

    loop.add_reader(process.sentinel, ended)


class _Crew:
    """The workers and their states."""

    def __init__(self, settings: Settings, work: Work, metrics: Path) -> None:
        self._settings = settings
        self._work = work
        self._metrics = metrics
        self._context = multiprocessing.get_context("spawn")
        self._states = self._context.RawArray("b", [COLD] * settings.workers)
        self._processes: dict[int, SpawnProcess] = {}
        self._stopping = asyncio.Event()
        self._status = 0
        resource_tracker.ensure_running()  # a start that has to do it unblocks SIGINT

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        await asyncio.gather(*(self._mind(number) for number in range(self._settings.workers)))
        return self._status

    async def _mind(self, number: int) -> None:
        """Keep one place taken until the service stops."""
        late = False
        while not self._stopping.is_set():
            was_warm = False
            about: dict[str, object] = {"worker": number}
            try:
                process = self._start(number, late=late)
            except OSError as error:  # memory, processes or file handles have run out
                about["reason"] = error.strerror
            else:
                await _ended(process)
                was_warm = self._states[number] == WARM
                self._states[number] = AWAY
                forget_process(process.pid or 0, self._metrics, served=was_warm)
                about |= {"pid": process.pid, "status": process.exitcode}
            if self._stopping.is_set():
                if about.get("status") not in (0, -signal.SIGTERM):
                    log.error("a worker did not stop as it should", extra=about)
                    self._status = 1
            elif was_warm:
                log.error("a worker died; another takes its place", extra=about)
                late = True
            elif late and WARM in self._states:
                log.error("a dead worker's place could not be taken; trying again", extra=about)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), RETRY_S)
            else:
                log.error("a worker died before it was ready; stopping", extra=about)
                self._status = 1
                self._stop()

    def _start(self, number: int, *, late: bool) -> SpawnProcess:
        seat = Seat(number, self._settings, self._states, self._metrics, late)
        process = self._context.Process(target=self._work, args=(seat,), name=f"worker {number}")
        with _unheard(signal.SIGINT):
            process.start()
        self._processes[number] = process
        return process

    def _stop(self) -> None:
        """Ask every worker to finish; those that do not in time are killed."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for process in self._processes.values():
            process.terminate()
        limit_s = 2 * self._settings.request_timeout_s + STOP_MARGIN_S
        asyncio.get_running_loop().call_later(limit_s, self._kill)

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()


def _shared_folder() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix="posegate-metrics-")
    except OSError as error:
        raise BadOption(
            f"workers share their metrics in a temporary folder: {error.strerror}; "
            "TMPDIR may name one that can be written to"
        ) from error


async def _ended(process: SpawnProcess) -> None:
    ended = asyncio.Event()
    when_ended(process, ended.set)
    await ended.wait()
    process.join()


@contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Block a signal; processes started meanwhile inherit that and never hear it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable that the workers inherit; the metrics library reads it when imported."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
