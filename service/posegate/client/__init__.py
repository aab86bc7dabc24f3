"""The Python client: pictures or frames in, the contract's documents out.

>>> with Client("http://127.0.0.1:8080") as client:  # doctest: +SKIP
...     poses = client.estimate(open("photo.jpg", "rb").read(), min_score=0.5)
...     for event in client.stream(frames, mode="every", track=True):
...         print(event["event"], event.get("frame"))
"""

from posegate.client.asynchronous import AsyncClient
from posegate.client.synchronous import Client
from posegate.client.tls import Tls

__all__ = ["AsyncClient", "Client", "Tls"]
