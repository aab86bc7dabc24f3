"""The Triton servers behind a gateway: one long-lived channel each, watched, taken in turn.

A name may stand for several servers, and they come and go: each address behind it is a server of
its own, so that one that hangs is passed by like one that has gone.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from posegate.backends.triton_addresses import look_up
from posegate.backends.triton_memory import SharedMemory, refusal
from posegate.backends.triton_shared import SharedTensors
from posegate.backends.triton_transfer import QUEUE_FULL, Messages, Tensors, Transfer
from posegate.errors import BackendDown, BadOption, DeadlineExceeded, Overloaded, PosegateError
from posegate.types import F32

log = logging.getLogger(__name__)

POLL_S = 0.25
POLL_TIMEOUT_S = 0.6
LOOK_UP_S = 5.0
ATTEMPTS = 2
MOST_SAID = 300
"""Characters of Triton's own reason that are passed on."""
CHANNEL_ARGUMENTS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # It connects again by itself, where the default waits to be asked.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
)


class TritonServers:
    """Sends calls to the addresses in turn, skipping those whose network is not ready.

    A call whose server goes away is made once more, elsewhere if there is an elsewhere.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        models: Sequence[str],
        call_limit_s: float,
        memory: SharedMemory | None = None,
        max_in_flight: int = 64,
    ) -> None:
        """`call_limit_s` bounds a call that came without a deadline.

        With shared `memory` at most `max_in_flight` requests to a server and network use it.
        """
        self._make_server = partial(
            _Server, models=models, memory=memory, max_in_flight=max_in_flight
        )
        self._call_limit_s = call_limit_s
        self._turn = 0
        self._servers: dict[str, _Server] = {}
        self._named: dict[str, list[str]] = {url: [] for url in urls}
        self._unnamed: dict[str, str] = {url: f"{url} was not looked up yet" for url in urls}
        self._seekers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Look for the servers and watch them; a second call does nothing."""
        if not self._seekers:
            self._seekers = [asyncio.create_task(self._seek(url)) for url in self._named]

    async def stop(self) -> None:
        """Close the channels; a second call does nothing."""
        seekers, self._seekers = self._seekers, []
        for seeker in seekers:
            seeker.cancel()
        await asyncio.gather(*seekers, return_exceptions=True)
        if seekers:
            await asyncio.gather(*(server.close() for server in self._servers.values()))

    def ready(self, model: str) -> str | None:
        """None when at least one server can run the network, else every server's reason."""
        reasons = [server.reasons[model] for server in self._servers.values()]
        if None in reasons:
            return None
        return "; ".join([*filter(None, reasons), *self._unnamed.values()])

    async def until_ready(self, model: str) -> None:
        """Wait for as long as it takes a server to have the network.

        BadOption when no server takes the shared memory that was set.
        """
        told = None
        while (reason := self.ready(model)) is not None:
            refusals = [server.refusal for server in self._servers.values()]
            if refusals and all(refusals):
                raise BadOption("; ".join(filter(None, refusals)))
            if reason != told:
                log.warning("waiting for triton: %s", reason)
                told = reason
            await asyncio.sleep(POLL_S)

    async def config(self, model: str) -> Any:
        """The network's configuration as a server runs it, with what Triton filled in."""
        client = self._in_turn(model)[0].client
        try:
            answer = await client.get_model_config(model, client_timeout=5.0)
        except InferenceServerException as error:
            raise _posegate_error(error, model, None) from error
        return answer.config

    async def infer(
        self, tensors: Tensors, crops: F32, *, deadline: float | None
    ) -> tuple[F32, ...]:
        """Outputs for crops (P, 3, H, W), as Triton gives them.

        `deadline` (`time.monotonic()`) bounds the call and Triton's queue.
        """
        model = tensors.model
        if deadline is None:
            deadline = time.monotonic() + self._call_limit_s
        for server in self._in_turn(model):
            if time.monotonic() >= deadline:
                break
            try:
                return await server.infer(tensors, crops, deadline=deadline)
            except InferenceServerException as error:
                failure = _posegate_error(error, model, deadline)
                if not isinstance(failure, BackendDown):
                    raise failure from error
                log.warning("triton at %s failed: %s", server.url, error.message())
        else:
            raise failure
        raise DeadlineExceeded(f"the deadline passed before network {model} answered")

    def _in_turn(self, model: str) -> list["_Server"]:
        ready = [one for one in self._servers.values() if one.reasons[model] is None]
        if not ready:
            raise BackendDown(f"Triton is not ready: {self.ready(model)}", retry_after_s=1.0)
        self._turn += 1
        first = self._turn % len(ready)
        return ([*ready[first:], *ready[:first]] * ATTEMPTS)[:ATTEMPTS]

    async def _seek(self, url: str) -> None:
        """Keep a server for every address that the name stands for."""
        while True:
            try:
                await self._look_up(url)
                await self._let_go()
            except Exception:  # nobody would look again, and no new server would be found
                log.exception("%s could not be looked up, it is tried again", url)
            await asyncio.sleep(LOOK_UP_S)

    async def _look_up(self, url: str) -> None:
        try:
            self._named[url] = await look_up(url)
        except (OSError, UnicodeError) as error:  # those that were found before may serve still
            self._unnamed[url] = f"{url} is no name that can be looked up ({error})"
            return
        self._unnamed.pop(url, None)
        for address in self._named[url]:
            if address not in self._servers:
                server = self._servers[address] = self._make_server(address)
                server.open(authority=url.removeprefix("dns:///"))

    async def _let_go(self) -> None:
        """Close the servers that no name stands for any more, once they have nothing to do."""
        named = {address for addresses in self._named.values() for address in addresses}
        unnamed = self._servers.keys() - named
        gone = [self._servers.pop(one) for one in unnamed if self._servers[one].is_idle()]
        await asyncio.gather(*(server.close() for server in gone))


class _Server:
    """One address: its channel, and for each network None or the reason it is not ready.

    `refusal` is the reason why it does not take the shared memory that was set.
    """

    def __init__(
        self, url: str, models: Sequence[str], memory: SharedMemory | None, max_in_flight: int
    ) -> None:
        self.url = url
        self.reasons: dict[str, str | None] = dict.fromkeys(models, f"{url} was not asked yet")
        self.refusal: str | None = None
        self.client: Any = None
        self._transfer: Transfer = (
            Messages() if memory is None else SharedTensors(memory, max_slots=max_in_flight)
        )
        self._memory = memory
        self._unsure: str | None = None
        self._silent = f"{url} does not answer"
        self._answered_at = -math.inf
        self._calls = 0
        self._watcher: asyncio.Task[None] | None = None

    def open(self, *, authority: str) -> None:
        """Connect and watch; proxies on the way see `authority`, the name it was found by."""
        self.client = triton.InferenceServerClient(
            self.url, channel_args=(*CHANNEL_ARGUMENTS, ("grpc.default_authority", authority))
        )
        self._watcher = asyncio.create_task(self.watch())

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        self.reasons = dict.fromkeys(self.reasons, f"{self.url} is closed")
        await self._transfer.close(self.client)
        with contextlib.suppress(grpc.RpcError):
            await self.client.close()

    def is_idle(self) -> bool:
        """Not up, and no call waits for it."""
        return not self._is_up() and not self._calls

    async def infer(self, tensors: Tensors, crops: F32, *, deadline: float) -> tuple[F32, ...]:
        """As Transfer.infer."""
        self._calls += 1
        try:
            outputs = await self._transfer.infer(self.client, tensors, crops, deadline=deadline)
        finally:
            self._calls -= 1
        self._answered_at = time.monotonic()
        return outputs

    async def watch(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # nobody would look again, and readiness would stay as it was
                log.exception("triton at %s could not be watched, it is tried again", self.url)
            await asyncio.sleep(POLL_S)

    async def _look(self) -> None:
        if self._memory is not None and not self._is_up():
            await self._offer(self._memory)
        await asyncio.gather(*map(self._check, self.reasons))
        if self._is_up():
            await self._transfer.tidy(self.client)

    async def _offer(self, memory: SharedMemory) -> None:
        """A server that is new, or new again, is asked whether it takes shared memory."""
        self._transfer.lost()
        try:
            self.refusal = await refusal(self.client, memory, self.url)
            self._unsure = None
        except InferenceServerException as error:
            self._unsure = f"{self.url} cannot be reached ({error.status()})"

    def _is_up(self) -> bool:
        return None in self.reasons.values()

    async def _check(self, model: str) -> None:
        """Ask twice, as of several servers behind one address one may just have gone.

        A server that answers requests meanwhile, but not these questions, is merely busy.
        """
        began = time.monotonic()
        reason = await self._ask(model) and await self._ask(model)
        if reason == self._silent and self._answered_at > began:
            return
        if (reason is None) != (self.reasons[model] is None):
            log.info("triton network %s: %s", model, reason or f"ready at {self.url}")
        self.reasons[model] = reason

    async def _ask(self, model: str) -> str | None:
        try:
            is_ready = await self.client.is_model_ready(model, client_timeout=POLL_TIMEOUT_S)
        except InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                return self._silent
            return f"{self.url} cannot be reached ({error.status()})"
        if is_ready:
            return self._unsure or self.refusal
        return f"{self.url} does not have network {model} ready{await self._why_not(model)}"

    async def _why_not(self, model: str) -> str:
        """What Triton says of a network that it does not serve, in brackets; empty if nothing."""
        try:
            index = await self.client.get_model_repository_index(client_timeout=POLL_TIMEOUT_S)
        except InferenceServerException:
            return ""
        said = [one.reason or one.state for one in index.models if one.name == model]
        if not said:
            return f" (it knows {', '.join(sorted({one.name for one in index.models}))})"
        return f" ({' '.join(' '.join(said).split())[:MOST_SAID]})"


def _posegate_error(
    error: InferenceServerException, model: str, deadline: float | None
) -> PosegateError:
    message, status = error.message(), error.status()
    late = deadline is not None and time.monotonic() >= deadline
    if late or status == "StatusCode.DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"the deadline passed before network {model} answered")
    if any(words in message for words in QUEUE_FULL):
        return Overloaded(
            f"Triton's queue of network {model} is full; try again later", retry_after_s=1.0
        )
    return BackendDown(f"network {model} failed in Triton; try again later", retry_after_s=1.0)
