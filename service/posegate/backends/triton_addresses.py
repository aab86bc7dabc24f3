"""`host:port` -> the address of every server behind that name."""

import asyncio
import socket


async def look_up(url: str) -> list[str]:
    """`ip:port` of every server that the name stands for, as behind a headless Kubernetes Service.

    Where a name has addresses of both families only those of IPv4 are taken, so that no server
    comes twice. `url` is `host:port`, with or without `dns:///`. Raises OSError (no such name) or
    UnicodeError (no name at all).
    """
    host, _, port = url.removeprefix("dns:///").rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    family = socket.AF_INET if any(one[0] == socket.AF_INET for one in found) else socket.AF_INET6
    ips = dict.fromkeys(str(one[4][0]) for one in found if one[0] == family)
    return [f"{ip}:{port}" if family == socket.AF_INET else f"[{ip}]:{port}" for ip in ips]
