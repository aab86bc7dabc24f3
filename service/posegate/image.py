"""bytes -> image: limits from the header first, then one upright BGR picture."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from posegate.errors import BadImage, TooLarge
from posegate.headers import ImageHeader, parse_header
from posegate.integrity import check_integrity, without_texts
from posegate.types import U8, Image


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before any decoding: `max_bytes` of file, `max_pixels` of picture."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


def check_size(data: bytes, max_bytes: int) -> None:
    """Raises TooLarge where the file has more bytes."""
    if len(data) > max_bytes:
        raise TooLarge(
            f"The image has {len(data)} bytes; at most {max_bytes} are allowed. "
            "Send a smaller or more compressed picture."
        )


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Header of a JPEG, PNG or WebP, told by content, once it is within the limits.

    Raises UnknownImageFormat, BadImage (broken header, no pixels, animated) or TooLarge.
    """
    check_size(data, limits.max_bytes)
    header = parse_header(data)
    if header.width * header.height > limits.max_pixels:
        raise TooLarge(
            f"The image is {header.width} x {header.height} = {header.width * header.height} "
            f"pixels; at most {limits.max_pixels} are allowed. Scale it down."
        )
    if header.frames > 1:
        raise BadImage(
            f"The image is an animation of {header.frames} frames; one frame is allowed. "
            "Send its frames one by one."
        )
    return header


def decode_image(data: bytes, limits: ImageLimits) -> Image:
    """The picture, upright, as BGR uint8; grey, CMYK, 16-bit and palette pictures are converted.

    Transparency is dropped and the colours below it are kept, as `cv2.imread` does, so that a
    picture gives here what it gives in other pose estimators.
    """
    header = read_header(data, limits)
    check_integrity(data, header)
    if header.format == "png":
        data = without_texts(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise BadImage(
            f"The {header.format} image is damaged or of an unusual kind and cannot be decoded; "
            "save it again as an ordinary JPEG or PNG."
        )
    return Image(_TO_UPRIGHT[header.orientation](np.asarray(pixels, np.uint8)))


def _same(pixels: U8) -> U8:
    return pixels


def _flipped(axis: int) -> Callable[[U8], U8]:
    return lambda pixels: np.asarray(cv2.flip(pixels, axis), np.uint8)


def _rotated(turn: int) -> Callable[[U8], U8]:
    return lambda pixels: np.asarray(cv2.rotate(pixels, turn), np.uint8)


def _transposed(pixels: U8) -> U8:
    return np.asarray(cv2.transpose(pixels), np.uint8)


def _transversed(pixels: U8) -> U8:
    return np.asarray(cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180), np.uint8)


_TO_UPRIGHT: dict[int, Callable[[U8], U8]] = {
    1: _same,
    2: _flipped(1),
    3: _rotated(cv2.ROTATE_180),
    4: _flipped(0),
    5: _transposed,
    6: _rotated(cv2.ROTATE_90_CLOCKWISE),
    7: _transversed,
    8: _rotated(cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""What turns the stored picture upright, by EXIF orientation."""
