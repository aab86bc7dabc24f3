"""bytes -> header: what a JPEG, PNG or WebP says about itself, read without decoding a pixel."""

import struct
from dataclasses import dataclass

from posegate.chunks import PNG_SIGNATURE, jpeg_segments, png_chunks, webp_chunks
from posegate.errors import BadImage, UnknownImageFormat

TRUNCATED = "The {} file is cut off or its structure is broken; send all of its bytes."

_JPEG, _WEBP = b"\xff\xd8\xff", b"WEBP"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF_INTEGERS = {3: "H", 4: "I"}
"""SHORT is the type of EXIF's Orientation; some programs write LONG."""
_FIRST_TURNED = 5
"""From this orientation on a picture lies on its side."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """`format` is "jpeg", "png" or "webp"; `width` and `height` in pixels, as stored.

    `orientation` is EXIF's, 1 to 8; `frames` counts the pictures of an animation.
    """

    format: str
    width: int
    height: int
    orientation: int
    frames: int

    @property
    def upright_wh(self) -> tuple[int, int]:
        """Width and height once it is turned."""
        sides = self.width, self.height
        return sides[::-1] if self.orientation >= _FIRST_TURNED else sides


def is_jpeg(data: bytes) -> bool:
    """Whether the first bytes are those of a JPEG."""
    return data.startswith(_JPEG)


def parse_header(data: bytes) -> ImageHeader:
    """Header of an image, known by its first bytes alone; its pixels may still be missing."""
    if not data:
        raise UnknownImageFormat("The image is empty (0 bytes); send a JPEG, PNG or WebP file.")
    if is_jpeg(data):
        header = _parse_jpeg(data)
    elif data.startswith(PNG_SIGNATURE[:4]):
        header = _parse_png(data)
    elif data.startswith(b"RIFF") and data[8:12] == _WEBP:
        header = _parse_webp(data)
    else:
        raise UnknownImageFormat(
            "The bytes are not a JPEG, PNG or WebP image; convert the picture to one of these."
        )
    if header.width == 0 or header.height == 0:
        raise BadImage(
            f"The image is {header.width} x {header.height} pixels; both must be at least 1."
        )
    return header


def _parse_jpeg(data: bytes) -> ImageHeader:
    orientation = 0
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE1 and orientation == 0 and data[start : start + 6] == b"Exif\0\0":
            orientation = _read_orientation(data[start + 6 : end])
        elif marker in _JPEG_FRAMES and end - start >= 6:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return ImageHeader("jpeg", width, height, orientation or 1, 1)
    raise BadImage(TRUNCATED.format("JPEG"))


def _parse_png(data: bytes) -> ImageHeader:
    chunks = png_chunks(data)
    kind, start, end = next(chunks, (b"", 0, 0))
    if not data.startswith(PNG_SIGNATURE) or kind != b"IHDR" or end - start != 13:
        raise BadImage("The PNG file has no valid IHDR chunk at its start; save it again.")
    width, height = struct.unpack_from(">II", data, start)
    orientation, frames = 1, 1
    for kind, start, end in chunks:
        if kind == b"eXIf":
            orientation = _read_orientation(data[start:end])
        elif kind == b"acTL" and end - start == 8:
            frames = max(1, int.from_bytes(data[start : start + 4], "big"))
    return ImageHeader("png", width, height, orientation, frames)


def _parse_webp(data: bytes) -> ImageHeader:
    chunks = webp_chunks(data)
    kind, start, _ = next(chunks, (b"", 0, 0))
    head = data[start : start + 10].ljust(10, b"\0")
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 6))
    elif kind == b"VP8L" and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8X":
        width = 1 + int.from_bytes(head[4:7], "little")
        height = 1 + int.from_bytes(head[7:10], "little")
    else:
        raise BadImage("The WebP file has no valid image chunk at its start; save it again.")
    orientation, frames = 1, 0
    for kind, start, end in chunks:
        frames += kind == b"ANMF"
        if kind == b"EXIF":
            orientation = _read_orientation(data[start:end].removeprefix(b"Exif\0\0"))
    return ImageHeader("webp", width, height, orientation, max(frames, 1))


def _read_orientation(tiff: bytes) -> int:
    """EXIF's Orientation (tag 0x0112) in the first directory of a TIFF block; 1 if unreadable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    table = tiff[directory + 2 : directory + 2 + 12 * entries]
    for tag, kind, _, value in struct.iter_unpack(order + "HHI4s", table[: len(table) // 12 * 12]):
        if tag == 0x0112 and kind in _EXIF_INTEGERS:
            (orientation,) = struct.unpack_from(order + _EXIF_INTEGERS[kind], value)
            return orientation if 1 <= orientation <= 8 else 1
    return 1
