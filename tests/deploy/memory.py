"""How much memory a gateway needs at most, by its settings."""

from collections.abc import Mapping

from posegate.api.limits import MESSAGE_ROOM
from posegate.settings import PREFIX, Settings

SERVICE_BYTES = 300 * 2**20
"""Programs, networks and buffers, before a picture comes."""
PIXEL_BYTES = 3
UPLOAD_COPIES = 2.2
"""By how much 12 gRPC calls of 39 MiB each raised the peak, in sizes of a message; HTTP 1.1."""
STREAM_COPIES = 6.5
"""The same of 8 gRPC streams whose frames of 39 MiB come as fast as they are taken."""


def needed_bytes(environment: Mapping[str, str]) -> float:
    """Of a gateway with these variables: the largest message in every place, all the pixels."""
    given = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()}
    settings = Settings(**given)
    message = MESSAGE_ROOM * settings.max_body_bytes
    uploads = settings.max_images * UPLOAD_COPIES * message
    streams = settings.max_streams * STREAM_COPIES * message
    pictures = settings.max_decoded_pixels * PIXEL_BYTES
    return settings.workers * (SERVICE_BYTES + uploads + streams + pictures)
