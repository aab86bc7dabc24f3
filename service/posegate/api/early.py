"""HTTP/1.1 as uvicorn speaks it, with a short way to say no.

A refusal by the whole application costs a good part of what an answer costs, so that a flood of
requests would starve those that can be served. While every slot is taken, or about to be by a
request let in a moment ago, a request for poses is therefore refused from the bytes of its head
alone. Its body is read to the end and thrown away: the connection stays good for the next request,
and nobody is reset while sending.
Bytes that are not HTTP are refused here as well, as a problem that is counted and logged; so is a
head that never ends, for which uvicorn would wait for ever.
"""

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from posegate.api.envelope import UNMATCHED
from posegate.api.exchange import chosen_id, record
from posegate.api.keys import ApiKeys
from posegate.api.limits import Slots
from posegate.api.malformed import TINY_CHUNKS, late, malformed
from posegate.api.pieces import Pieces
from posegate.api.problems import LINGER_S, MEDIA_TYPE, Problem, problem_of
from posegate.errors import Unauthenticated
from posegate.metrics import Metrics

ID = "{request_id}"
"""Stands for the request's id where an answer is prepared."""
HEAD_ROOM = 8192
"""A longer head, or one that comes in pieces, takes the ordinary way."""
HEAD = re.compile(
    rb"POST (?P<route>/v1/poses(?::batch)?)(?:\?[!-~]*)? HTTP/1\.1\r\n"
    rb"(?P<headers>(?:[!#-'*+.0-9A-Z^-z|~-]+:[^\r\n\0]*\r\n)+)\r\n"
)
ASKING = b"POST /v1/poses"
"""How every request that takes a slot begins. A few that take none begin so too; they are expected
for a turn of the event loop."""
LENGTH = re.compile("[0-9]{1,20}")
"""What h11 accepts as the length of a body."""
ORDINARY = {"transfer-encoding", "expect", "upgrade"}
"""Headers that make the end of a body hard to see: such requests take the ordinary way."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What is sent, how long the request's head was and how long its body is, in bytes."""

    answer: bytes
    head: int
    body: int
    closes: bool


@dataclass(frozen=True)
class Door:
    """Decides from the first bytes of a request whether it must be refused at once."""

    slots: Slots
    keys: ApiKeys
    metrics: Metrics
    max_body_bytes: int

    def refuse(self, data: bytes) -> Refused | None:
        """The refusal, or None where the application is to see the request.

        The application sees whatever is not a plain request for poses. It also sees a request
        without its key, which trying again would not help, and one too large to be read to its end.
        """
        if not self.slots.spoken_for or not (found := HEAD.match(data, 0, HEAD_ROOM)):
            return None
        lines = [line.partition(":") for line in found["headers"].decode("latin-1").splitlines()]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = headers.get("content-length", "")
        if len(headers) < len(lines) or ORDINARY & headers.keys() or not LENGTH.fullmatch(length):
            return None
        if int(length) > self.max_body_bytes:
            return None
        try:
            self.keys.check(headers)
        except Unauthenticated:
            return None
        closes = headers.get("connection", "").lower() == "close"
        request_id = chosen_id(headers.get("x-request-id", ""))
        route = found["route"].decode()
        answer = self._answer(self._crowded, "POST", route, request_id, closes)
        return Refused(answer, found.end(), int(length), closes)

    def refuse_malformed(self, problem: Problem) -> bytes:
        """The answer to bytes that are no request."""
        return self._answer(problem, "MALFORMED", UNMATCHED, chosen_id(""), closes=True)

    @cached_property
    def _crowded(self) -> Problem:
        return problem_of(self.slots.refusal())

    def _answer(
        self, problem: Problem, method: str, route: str, request_id: str, closes: bool
    ) -> bytes:
        record(
            self.metrics,
            face="http",
            method=method,
            route=route,
            code=str(problem.status),
            seconds=0.0,
            problems=[problem],
            request_id=request_id,
        )
        head, content = _prepared(problem, closes)
        content = content.replace(ID, request_id)
        return f"{head.replace(ID, request_id)}{len(content)}\r\n\r\n{content}".encode()


@lru_cache(maxsize=32)
def _prepared(problem: Problem, closes: bool) -> tuple[str, str]:
    """An answer's head, up to its content's length, and its content; with ID in both."""
    headers = {
        **problem.response_headers(),
        "Content-Type": MEDIA_TYPE,
        "X-Request-Id": ID,
        **({"Connection": "close"} if closes else {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {problem.status} {problem.title}\r\n{lines}Content-Length: "
    return head, json.dumps(problem.document(ID))


class _Connection(h11.Connection):
    """Takes no body of many tiny chunks."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._chunks = Pieces()

    def receive_data(self, data: bytes) -> None:
        self._chunks.begin()
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        chunk = event.data if isinstance(event, h11.Data) and event.chunk_start else None
        if chunk is not None and self._chunks.are_tiny_with(chunk):
            raise h11.RemoteProtocolError(TINY_CHUNKS)
        return event


class EarlyProtocol(H11Protocol):
    """Uvicorn's protocol behind a door; use `behind` to make one."""

    door: ClassVar[Door]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Connection()
        self._unread = 0
        self._closes = False
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering():
            self._await_head()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._forget_head()
        super().handle_websocket_upgrade(event)

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests, or of a part of one.

        A client that leaves its answers unread takes the ordinary way, which waits for it.
        """
        while data:
            skipped = min(self._unread, len(data))
            begins = not skipped and data.startswith(ASKING) and self._between_requests()
            if begins and not self.flow.write_paused and (refused := self.door.refuse(data)):
                self._refuse(refused)
                skipped = min(refused.head + refused.body, len(data))
            if not skipped:
                super().data_received(data)
                if self._is_answering():
                    self._forget_head()
                if begins:
                    self.door.slots.expect()  # after the task that takes the slot was scheduled
                return
            self._unread -= skipped
            data = data[skipped:]
            if self._closes and not self._unread:
                self.transport.close()
                return

    def _between_requests(self) -> bool:
        idle = self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE
        return idle and not self.conn.trailing_data[0]

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, if nothing was answered yet; uvicorn calls it where h11 raised.

        What the client still sends is thrown away for a moment, as a close with unread bytes would
        reset the connection and the answer with it.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self._end(malformed(sys.exception()))

    def _end(self, problem: Problem) -> None:
        self.transport.write(self.door.refuse_malformed(problem))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._unread = self.door.max_body_bytes
        self._closes = True
        self.loop.call_later(LINGER_S, self.transport.close)

    def _refuse(self, refused: Refused) -> None:
        """Answer; what is left of the body and the next head have the keep-alive time to come."""
        self._await_head()
        self.transport.write(refused.answer)
        self._unread = refused.head + refused.body
        self._closes = refused.closes

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        """The next request's head has the keep-alive time to come, as a whole."""
        self._unset_keepalive_if_required()
        self._forget_head()
        if not self.transport.is_closing():
            self._head_due = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _forget_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _give_up(self) -> None:
        """Close, and say why where a part of a head has come."""
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            self._end(late(self.timeout_keep_alive))
        else:
            self.transport.close()


def behind(door: Door) -> type[EarlyProtocol]:
    """The protocol that uvicorn makes one of per connection."""
    return type("EarlyProtocol", (EarlyProtocol,), {"door": door})
