"""bytes of a JPEG, PNG or WebP -> the segments or chunks that the file is made of.

Every walk is bounded, so a file made to waste time is refused as quickly as any.
"""

import re
from collections.abc import Iterator

MAX_CHUNKS = 16_384
"""PNG writers use chunks of 8 kB or more, so 20 MiB have about 2,500."""
MAX_JPEG_SEGMENTS = 1_024
"""A segment holds up to 64 kB; 20 MiB of metadata fill 320."""
MAX_JPEG_PADDING = 16_384
"""Bytes of a file that may lie between its segments, where nothing belongs."""

JPEG_SCAN, JPEG_END = 0xDA, 0xD9
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each whole segment up to the first scan."""
    position, padding = 2, MAX_JPEG_PADDING
    for _ in range(MAX_JPEG_SEGMENTS):
        match = _JPEG_MARKER.search(data, position, position + padding + 2)
        if match is None or match[1][0] == JPEG_END:
            return
        padding -= match.start() - position
        marker, start = match[1][0], match.end()
        if marker in _JPEG_BARE:
            position = start
            continue
        position = start + int.from_bytes(data[start : start + 2], "big")
        if position < start + 2 or position > len(data):
            return
        yield marker, start + 2, position
        if marker == JPEG_SCAN:
            return


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the content of each whole chunk, up to IEND."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        start = position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            return
        kind = data[position + 4 : start]
        yield kind, start, end
        if kind == b"IEND":
            return
        position = end + 4


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the content of each chunk; a cut-off chunk is the last."""
    position = 12
    for _ in range(MAX_CHUNKS):
        start = position + 8
        if start >= len(data):
            return
        size = int.from_bytes(data[position + 4 : start], "little")
        yield data[position : position + 4], start, start + size
        position = start + size + size % 2
