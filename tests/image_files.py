"""Image files made byte by byte, for tests of what decoders and limits make of them."""

import base64
import struct
import zlib

import cv2
import numpy as np

CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAbEhQXFBEbFxYXHhwbIChCKyglJShROj0wQmBVZWRfVV1baniZgWpxkHNbXYW1"
    "hpCeo6utq2eAvMm6pseZqKuk/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABYAAQEBAAAAAAAAAAAAAAAAAAAFBv/EABQQ"
    "AQAAAAAAAAAAAAAAAAAAAAD/2gAOBEMATQBZAEsAAD8AkrTRtAAAAA//2Q=="
)
"""16 x 16 pixels of CMYK (200, 40, 10, 20), inverted as Adobe does: about BGR (228, 199, 51)."""


def gradient(width: int = 32, height: int = 24) -> np.ndarray:
    """(H, W, 3) uint8 whose four corners all differ, so that each orientation is told apart."""
    y, x = np.mgrid[0:height, 0:width]
    blue, green = 255 * x // max(width - 1, 1), 255 * y // max(height - 1, 1)
    return np.stack([blue, green, 255 - blue // 2], axis=-1).astype(np.uint8)


def encoded(extension: str, pixels: np.ndarray | None = None, *parameters: int) -> bytes:
    """The picture (`gradient` by default) written by OpenCV."""
    written, data = cv2.imencode(extension, gradient() if pixels is None else pixels, parameters)
    assert written
    return data.tobytes()


def exif_block(orientation: int, order: str = "<") -> bytes:
    """A TIFF block with two tags, the second of them the orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    make = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    turned = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "H", 2) + make + turned + struct.pack(order + "I", 0)


def jpeg_with_exif(jpeg: bytes, block: bytes) -> bytes:
    content = b"Exif\0\0" + block
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of filter-0 `rows` (bytes of all rows, each after a 0); `extra` chunks follow IHDR."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", head), *extra, png_chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_after_header(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def png_bomb(side: int = 12_000) -> bytes:
    """A PNG of `side` x `side` pixels whose file is small: it is all black."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    tail = png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + tail


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_extended(width: int, height: int, flags: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


def webp_with_exif(simple: bytes, width: int, height: int, block: bytes) -> bytes:
    """A one-chunk WebP in the extended form, with an EXIF chunk at its end."""
    return webp(webp_extended(width, height, 0x08), simple[12:], webp_chunk(b"EXIF", block))


def animated_webp(frames: int, width: int = 32, height: int = 24) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    picture = encoded(".webp", gradient(width, height))[12:]
    frame = webp_chunk(b"ANMF", bytes(6) + sides + (40).to_bytes(3, "little") + b"\0" + picture)
    animation = webp_chunk(b"ANIM", bytes(6))
    return webp(webp_extended(width, height, 0x02), animation, *[frame] * frames)
