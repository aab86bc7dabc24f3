"""HEAD of every address that takes GET: the same status and headers, and no body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = "http.response.body"


def with_head(allowed: str) -> str:
    """The methods of an address, as its routes know them, and HEAD beside GET.

    >>> with_head("GET"), with_head("POST")
    ('GET, HEAD', 'POST')
    """
    return allowed.replace("GET", "GET, HEAD")


class Heads:
    """ASGI middleware; routes only ever see GET. Whoever logs outside of it still sees HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == BODY else message)

        scope["method"] = "GET"  # in place: the route found must be seen outside
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"
