"""bytes + header -> refused where the file is cut off, damaged or made to take long to decode.

Decoders differ in what they make of such a file (grey areas, warnings, errors).
"""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

from posegate.chunks import JPEG_END, JPEG_SCAN, jpeg_segments, png_chunks
from posegate.errors import BadImage
from posegate.headers import TRUNCATED, ImageHeader

MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10 scans; each one costs a pass over all pixels."""
MAX_JPEG_PASSES = 10**9
"""Pixels times scans. Where the scans are coded arithmetically, 300 million take a second."""
FEW_JPEG_SCANS = 20
"""A picture of any size may have so many; of what libjpeg writes by itself 18 are the most."""
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

_PNG_ONCE = (
    b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"iCCP", b"sRGB", b"cHRM", b"gAMA", b"sBIT", b"bKGD",
    b"hIST", b"pHYs", b"tIME", b"eXIf", b"cICP", b"mDCV", b"cLLI", b"acTL", b"IEND",
)  # fmt: skip
"""Chunks that a PNG may have in one place only (third edition, 5.6), IDAT several in a row."""
_PNG_TEXTS = (b"zTXt", b"iTXt")
_JPEG_SCAN = re.compile(rb"\xff\xda")  # three times as fast as bytes.count on entropy-coded data


def check_integrity(data: bytes, header: ImageHeader) -> None:
    """Raises BadImage where the end of the file is missing, its checksums are wrong, or decoding it
    would take far longer than its pixels explain.
    """
    if header.format == "jpeg":
        start = _jpeg_scan_start(data)
        if data.rfind(bytes([0xFF, JPEG_END]), start) < 0:
            raise BadImage(TRUNCATED.format("JPEG"))
        passes = MAX_JPEG_PASSES // (header.width * header.height)
        most = max(FEW_JPEG_SCANS, min(MAX_JPEG_SCANS, passes))
        if 1 + len(_JPEG_SCAN.findall(data, start)) > most:  # `start` is in the first
            raise BadImage(
                f"The JPEG file has more than {most} scans, the most for "
                f"{header.width} x {header.height} pixels; save it again as baseline."
            )
    elif header.format == "png":
        chunks = list(png_chunks(data))
        _check_png_parts([kind for kind, _, _ in chunks])
        _check_png_checksums(data, chunks)
        pixels = [(start, end) for kind, start, end in chunks if kind == b"IDAT"]
        _check_png_pixels(data, pixels, MAX_PNG_EXCESS + 8 * header.width * header.height)
    elif 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise BadImage(TRUNCATED.format("WebP"))


def without_texts(data: bytes) -> bytes:
    """A PNG without what may be compressed text; libpng inflates and keeps up to 8 MB of each."""
    parts, begin = [], 0
    for kind, start, end in png_chunks(data):
        if kind in _PNG_TEXTS:
            parts.append(data[begin : start - 8])
            begin = end + 4
    return b"".join([*parts, data[begin:]]) if parts else data


def _jpeg_scan_start(data: bytes) -> int:
    scans = (start for marker, start, _ in jpeg_segments(data) if marker == JPEG_SCAN)
    return next(scans, len(data))


def _check_png_checksums(data: bytes, chunks: Sequence[tuple[bytes, int, int]]) -> None:
    kind = b""
    for kind, start, end in chunks:
        is_critical = kind[0] & 0x20 == 0
        stored = int.from_bytes(data[end : end + 4], "big")
        if is_critical and zlib.crc32(data[start - 4 : end]) != stored:
            raise BadImage(
                f"The PNG file is damaged: wrong checksum in its {kind.decode('latin-1')} chunk."
            )
    if kind != b"IEND":
        raise BadImage(TRUNCATED.format("PNG"))


def _check_png_pixels(data: bytes, chunks: Sequence[tuple[int, int]], most: int) -> None:
    """Raises BadImage where the pixels inflate to more than `most` bytes; broken ones may pass."""
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
