"""How much memory a gateway needs at most, by its settings."""

from collections.abc import Mapping

from posegate.settings import PREFIX, Settings

SERVICE_BYTES = 300 * 2**20
"""Programs, networks and buffers, before a picture comes."""
PIXEL_BYTES = 3
FRAMES_ASIDE = 2
"""Of a stream, beside those in work: one waits, one is being received."""


def needed_bytes(environment: Mapping[str, str]) -> int:
    """Of a gateway with these variables: an upload in every place, as many pixels as may be.

    A frame of a stream may be as large as an upload.
    """
    given = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()}
    settings = Settings(**given)
    uploads = settings.max_images * settings.max_body_bytes
    frames = settings.max_streams * (settings.max_in_flight + FRAMES_ASIDE)
    frames *= settings.max_body_bytes
    pictures = settings.max_decoded_pixels * PIXEL_BYTES
    return settings.workers * (SERVICE_BYTES + uploads + frames + pictures)
