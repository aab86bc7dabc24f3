"""bytes -> header: what a JPEG, PNG or WebP says about itself, read without decoding a pixel.

Every walk over the bytes is bounded, so a file made to waste time is refused as quickly as any.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from posegate.errors import BadImage, UnknownImageFormat

MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10 scans; each one costs a pass over all pixels."""
MAX_JPEG_PASSES = 10**9
"""Pixels times scans. Where the scans are coded arithmetically, 300 million take a second."""
FEW_JPEG_SCANS = 20
"""A picture of any size may have so many; of what libjpeg writes by itself 18 are the most."""
MAX_CHUNKS = 16_384
"""PNG writers use chunks of 8 kB or more, so 20 MiB have about 2,500."""
MAX_PNG_PARTS = 256
"""Most chunks, those of the pixels counted as one. A photo has about 10, and libpng writes a line
to stderr for each that it dislikes."""
MAX_PNG_EXCESS = 2**32
"""Bytes that a PNG's pixels may inflate to beyond what they can need; libpng would inflate them
all, which takes about 9 s. Files too small for so many, under 4 MB, are not looked at; in others
the look costs up to two thirds of the decoding."""
DEFLATE_MOST = 1032
"""Bytes that one byte can inflate to."""
INFLATED_PIECE = 2**14
MAX_JPEG_SEGMENTS = 1_024
"""A segment holds up to 64 kB; 20 MiB of metadata fill 320."""
MAX_JPEG_PADDING = 16_384
"""Bytes of a file that may lie between its segments, where nothing belongs."""

_JPEG, _PNG, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"WEBP"
_PNG_ONCE = (
    b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"iCCP", b"sRGB", b"cHRM", b"gAMA", b"sBIT", b"bKGD",
    b"hIST", b"pHYs", b"tIME", b"eXIf", b"cICP", b"mDCV", b"cLLI", b"acTL", b"IEND",
)  # fmt: skip
"""Chunks that a PNG may have in one place only (third edition, 5.6), IDAT several in a row."""
_PNG_TEXTS = (b"zTXt", b"iTXt")
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_JPEG_SCAN = re.compile(rb"\xff\xda")  # three times as fast as bytes.count on entropy-coded data
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN, _END = 0xDA, 0xD9
_EXIF_INTEGERS = {3: "H", 4: "I"}
"""SHORT is the type of EXIF's Orientation; some programs write LONG."""
_FIRST_TURNED = 5
"""From this orientation on a picture lies on its side."""
_TRUNCATED = "The {} file is cut off or its structure is broken; send all of its bytes."


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
    elif data.startswith(_PNG[:4]):
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


def check_complete(data: bytes, header: ImageHeader) -> None:
    """Raises BadImage where the end of the file is missing or its checksums are wrong.

    Decoders differ in what they make of such a file (grey areas, warnings, errors).
    """
    if header.format == "jpeg":
        start = _jpeg_scan_start(data)
        if data.rfind(bytes([0xFF, _END]), start) < 0:
            raise BadImage(_TRUNCATED.format("JPEG"))
        passes = MAX_JPEG_PASSES // (header.width * header.height)
        most = max(FEW_JPEG_SCANS, min(MAX_JPEG_SCANS, passes))
        if 1 + len(_JPEG_SCAN.findall(data, start)) > most:  # `start` is in the first
            raise BadImage(
                f"The JPEG file has more than {most} scans, the most for "
                f"{header.width} x {header.height} pixels; save it again as baseline."
            )
    elif header.format == "png":
        _check_png(data)
        _check_png_pixels(data, MAX_PNG_EXCESS + 8 * header.width * header.height)
    elif 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise BadImage(_TRUNCATED.format("WebP"))


def without_texts(data: bytes) -> bytes:
    """A PNG without what may be compressed text; libpng inflates and keeps up to 8 MB of each."""
    parts, begin = [], 0
    for kind, start, end in _png_chunks(data):
        if kind in _PNG_TEXTS:
            parts.append(data[begin : start - 8])
            begin = end + 4
    return b"".join([*parts, data[begin:]]) if parts else data


def _parse_jpeg(data: bytes) -> ImageHeader:
    orientation = 0
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE1 and orientation == 0 and data[start : start + 6] == b"Exif\0\0":
            orientation = _read_orientation(data[start + 6 : end])
        elif marker in _JPEG_FRAMES and end - start >= 6:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return ImageHeader("jpeg", width, height, orientation or 1, 1)
    raise BadImage(_TRUNCATED.format("JPEG"))


def _jpeg_scan_start(data: bytes) -> int:
    return next((start for marker, start, _ in _jpeg_segments(data) if marker == _SCAN), len(data))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each whole segment up to the first scan."""
    position, padding = 2, MAX_JPEG_PADDING
    for _ in range(MAX_JPEG_SEGMENTS):
        match = _JPEG_MARKER.search(data, position, position + padding + 2)
        if match is None or match[1][0] == _END:
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
        if marker == _SCAN:
            return


def _parse_png(data: bytes) -> ImageHeader:
    chunks = _png_chunks(data)
    kind, start, end = next(chunks, (b"", 0, 0))
    if not data.startswith(_PNG) or kind != b"IHDR" or end - start != 13:
        raise BadImage("The PNG file has no valid IHDR chunk at its start; save it again.")
    width, height = struct.unpack_from(">II", data, start)
    orientation, frames = 1, 1
    for kind, start, end in chunks:
        if kind == b"eXIf":
            orientation = _read_orientation(data[start:end])
        elif kind == b"acTL" and end - start == 8:
            frames = max(1, int.from_bytes(data[start : start + 4], "big"))
    return ImageHeader("png", width, height, orientation, frames)


def _check_png(data: bytes) -> None:
    _check_png_parts([kind for kind, _, _ in _png_chunks(data)])
    kind = b""
    for kind, start, end in _png_chunks(data):
        is_critical = kind[0] & 0x20 == 0
        stored = int.from_bytes(data[end : end + 4], "big")
        if is_critical and zlib.crc32(data[start - 4 : end]) != stored:
            raise BadImage(
                f"The PNG file is damaged: wrong checksum in its {kind.decode('latin-1')} chunk."
            )
    if kind != b"IEND":
        raise BadImage(_TRUNCATED.format("PNG"))


def _check_png_pixels(data: bytes, most: int) -> None:
    """Raises BadImage where the pixels inflate to more than `most` bytes; broken ones may pass."""
    chunks = [(start, end) for kind, start, end in _png_chunks(data) if kind == b"IDAT"]
    left = sum(end - start for start, end in chunks)
    inflater = zlib.decompressobj()
    for start, end in chunks:
        for begin in range(start, end, INFLATED_PIECE):
            if left * DEFLATE_MOST <= most or inflater.eof:
                return
            piece = data[begin : min(begin + INFLATED_PIECE, end)]
            left -= len(piece)
            try:
                most -= len(inflater.decompress(piece))
            except zlib.error:
                return
            if most < 0:
                raise BadImage(
                    "The PNG file inflates to far more bytes than its pixels have; save it again."
                )


def _check_png_parts(kinds: list[bytes]) -> None:
    pixels = b"IDAT"
    parts = [kind for former, kind in pairwise([b"", *kinds]) if not former == kind == pixels]
    if len(parts) > MAX_PNG_PARTS:
        raise BadImage(
            f"The PNG file has more than {MAX_PNG_PARTS} chunks, those of its pixels counted as "
            "one; save it again without metadata."
        )
    for kind in _PNG_ONCE:
        if parts.count(kind) > 1:
            raise BadImage(
                f"The PNG file has {kind.decode()} chunks in more than one place, where one is "
                "allowed; save it again."
            )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the content of each whole chunk, up to IEND."""
    position = len(_PNG)
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


def _parse_webp(data: bytes) -> ImageHeader:
    chunks = _webp_chunks(data)
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


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the content of each chunk; a cut-off chunk is the last."""
    position = 12
    for _ in range(MAX_CHUNKS):
        start = position + 8
        if start >= len(data):
            return
        size = int.from_bytes(data[position + 4 : start], "little")
        yield data[position : position + 4], start, start + size
        position = start + size + size % 2


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
