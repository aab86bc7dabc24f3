"""Ports: listening on one alone, or sharing it with other processes of the service."""

import math
import socket
import sys

from posegate.errors import BadOption

MOST_CONNECTIONS = 8192
"""Connections of HTTP, and calls of gRPC, that may be open at a time."""


def address(host: str, port: int) -> str:
    """`host:port`, as URLs write it."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket; `shared` lets the service's other processes bind the same port.

    It names its protocol, without which asyncio would not set TCP_NODELAY.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise BadOption(f"cannot listen on {address(host, port)}: {error.strerror}") from error
    return bound


def why_refused(host: str, port: int, *, shared: bool = False) -> str:
    """The system's reason why a port cannot be listened on, where a library keeps it to itself."""
    try:
        bind(host, port, shared=shared).close()
    except BadOption as error:
        return error.detail
    return f"cannot listen on {address(host, port)}"


def cut_off_unread(listener: socket.socket, after_s: float) -> None:
    """Let the kernel cut off a connection whose client leaves what it is sent unread for so long.

    Without it a stopped client would hold its connection, and what waits for it, for ever.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(after_s * 1000))


def allow_many(connections: int) -> None:
    """Let the process open so many connections, as far as the system allows.

    Login shells and systemd start processes with 1,024 file handles and allow more on request;
    with 1,024 a crowd of callers is reset.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < connections:
            enough = connections if hard == resource.RLIM_INFINITY else min(connections, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def reserve(host: str, port: int) -> socket.socket:
    """A socket that keeps a port for the processes that will share it, and never listens.

    The port is first bound alone, which fails where somebody else shares it already.
    """
    bind(host, port).close()
    return bind(host, port, shared=True)
