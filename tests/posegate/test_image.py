import contextlib
import resource
import struct
import subprocess
import sys
import time
import zlib

import cv2
import numpy as np
import pytest

import image_files as files
from posegate import integrity
from posegate.errors import BadImage, PosegateError, TooLarge, UnknownImageFormat
from posegate.headers import ImageHeader
from posegate.image import ImageLimits, decode_image, read_header
from posegate.integrity import check_integrity

LIMITS = ImageLimits()
FORMATS = (".jpg", ".png", ".webp")

UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


def with_orientation(extension: str, orientation: int, order: str = "<") -> bytes:
    block = files.exif_block(orientation, order)
    plain = files.encoded(extension)
    if extension == ".jpg":
        return files.jpeg_with_exif(plain, block)
    if extension == ".png":
        return files.png_after_header(plain, files.png_chunk(b"eXIf", block))
    return files.webp_with_exif(plain, 32, 24, block)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(extension: str, orientation: int) -> None:
    stored = decode_image(files.encoded(extension), LIMITS).pixels_bgr
    upright = decode_image(with_orientation(extension, orientation), LIMITS).pixels_bgr
    np.testing.assert_array_equal(upright, UPRIGHT[orientation](stored))
    assert upright.flags.c_contiguous


@pytest.mark.parametrize("extension", FORMATS)
def test_exif_orientation_is_read_in_both_byte_orders(extension: str) -> None:
    for order in "<>":
        header = read_header(with_orientation(extension, 6, order), LIMITS)
        assert header == ImageHeader(header.format, 32, 24, 6, 1)


def test_webp_exif_may_begin_as_that_of_jpeg() -> None:
    plain = files.encoded(".webp")
    data = files.webp_with_exif(plain, 32, 24, b"Exif\0\0" + files.exif_block(6))
    assert read_header(data, LIMITS).orientation == 6


def test_webp_chunks_of_odd_length_are_padded() -> None:
    parts = files.webp_extended(32, 24, 0x08), files.encoded(".webp")[12:]
    odd, exif = files.webp_chunk(b"XXXX", bytes(3)), files.webp_chunk(b"EXIF", files.exif_block(6))
    assert len(odd) == 12
    assert read_header(files.webp(*parts, odd, exif), LIMITS).orientation == 6


def test_the_first_exif_block_of_a_jpeg_counts() -> None:
    later = files.jpeg_with_exif(files.encoded(".jpg"), files.exif_block(3))
    assert read_header(files.jpeg_with_exif(later, files.exif_block(6)), LIMITS).orientation == 6


@pytest.mark.parametrize(("orientation", "read"), [(6, 6), (0x10006, 1)])
def test_exif_orientation_may_be_a_long_number(orientation: int, read: int) -> None:
    for order in "<>":
        short = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
        long = struct.pack(order + "HHII", 0x0112, 4, 1, orientation)
        block = files.exif_block(6, order).replace(short, long)
        data = files.jpeg_with_exif(files.encoded(".jpg"), block)
        assert read_header(data, LIMITS).orientation == read


@pytest.mark.parametrize(
    "block",
    [
        b"",  # nothing
        b"II*\0\x08",  # cut off within the first offset
        b"II*\0\xff\xff\xff\xff",  # directory far outside
        b"MM\0*\0\0\0\x08\xff\xff",  # says 65535 entries, has none
        files.exif_block(0),  # below the range
        files.exif_block(9),  # above the range
        b"XX" + files.exif_block(6)[2:],  # no byte order
    ],
)
def test_unreadable_exif_means_upright(block: bytes) -> None:
    data = files.jpeg_with_exif(files.encoded(".jpg"), block)
    assert read_header(data, LIMITS).orientation == 1
    assert decode_image(data, LIMITS).width == 32


def test_thumbnail_in_exif_is_not_taken_for_the_image() -> None:
    thumbnail = files.encoded(".jpg", files.gradient(8, 8))
    data = files.jpeg_with_exif(files.encoded(".jpg"), files.exif_block(1) + thumbnail)
    assert read_header(data, LIMITS).width == 32
    with pytest.raises(BadImage):
        decode_image(data[:-40], LIMITS)


def rows(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


GREY16 = np.array([[0, 256 * 7 + 200], [65535, 256 * 128]], ">u2")
PALETTE = files.png_chunk(b"PLTE", bytes([10, 20, 30, 200, 150, 100]))
RGBA = np.array([[[1, 2, 3, 255], [40, 50, 60, 0]]], np.uint8)


@pytest.mark.parametrize(
    ("data", "bgr"),
    [
        # 8-bit grey
        (files.png(2, 1, 8, 0, b"\0\x05\xfa"), [[[5, 5, 5], [250, 250, 250]]]),
        # 1-bit grey
        (files.png(2, 1, 1, 0, b"\0\x40"), [[[0, 0, 0], [255, 255, 255]]]),
        # 16-bit grey: the high byte, rounded
        (files.png(2, 2, 16, 0, rows(GREY16)), [[[0] * 3, [8] * 3], [[255] * 3, [128] * 3]]),
        # palette
        (files.png(2, 1, 8, 3, b"\0\x00\x01", PALETTE), [[[30, 20, 10], [100, 150, 200]]]),
        # palette with a transparent colour
        (
            files.png(2, 1, 8, 3, b"\0\0\1", PALETTE, files.png_chunk(b"tRNS", b"\x80\0")),
            [[[30, 20, 10], [100, 150, 200]]],
        ),
        # grey and alpha
        (files.png(2, 1, 8, 4, b"\0\x05\xff\xfa\x00"), [[[5] * 3, [250] * 3]]),
        # colour and alpha: what lies under transparency is kept
        (files.png(2, 1, 8, 6, rows(RGBA)), [[[3, 2, 1], [60, 50, 40]]]),
    ],
)
def test_every_kind_of_png_becomes_bgr(data: bytes, bgr: list) -> None:
    pixels = decode_image(data, LIMITS).pixels_bgr
    assert np.abs(pixels.astype(int) - np.array(bgr)).max() <= 1
    assert pixels.flags.c_contiguous


def test_grey_cmyk_and_progressive_jpeg_become_bgr() -> None:
    grey = decode_image(files.encoded(".jpg", np.full((8, 9), 77, np.uint8)), LIMITS)
    assert grey.pixels_bgr.shape == (8, 9, 3)
    assert np.abs(grey.pixels_bgr.astype(int) - 77).max() <= 2
    cmyk = decode_image(files.CMYK_JPEG, LIMITS).pixels_bgr
    assert np.abs(cmyk.astype(int) - (228, 199, 51)).max() <= 4
    baseline = decode_image(files.encoded(".jpg"), LIMITS).pixels_bgr
    progressive = files.encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    np.testing.assert_array_equal(decode_image(progressive, LIMITS).pixels_bgr, baseline)


def test_webp_lossy_lossless_and_with_alpha_become_bgr() -> None:
    lossless = files.encoded(".webp", None, cv2.IMWRITE_WEBP_QUALITY, 101)
    np.testing.assert_array_equal(decode_image(lossless, LIMITS).pixels_bgr, files.gradient())
    alpha = np.dstack([files.gradient(), np.full((24, 32), 128, np.uint8)])
    blended = decode_image(files.encoded(".webp", alpha), LIMITS).pixels_bgr.astype(int)
    assert np.abs(blended - files.gradient()).mean() < 8
    assert read_header(files.encoded(".webp"), LIMITS) == ImageHeader("webp", 32, 24, 1, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("extension", FORMATS)
def test_thin_pictures_are_pictures(extension: str, shape: tuple[int, int]) -> None:
    data = files.encoded(extension, np.zeros((*shape, 3), np.uint8))
    assert decode_image(data, LIMITS).pixels_bgr.shape == (*shape, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"This is a text file named photo.jpg.\n" * 50,
        b"GIF89a" + bytes(100),
        files.encoded(".bmp"),
        b"\xff\xd8",  # too short to be told
        b"RIFF\x10\0\0\0WAVEfmt ",  # a RIFF of another kind
    ],
)
def test_what_is_no_known_image_is_an_unknown_format(data: bytes) -> None:
    with pytest.raises(UnknownImageFormat, match="JPEG, PNG or WebP"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("name", ["jpeg", "progressive", "png", "webp", "lossless", "turned"])
def test_truncated_at_any_byte_is_a_bad_image(name: str) -> None:
    data = {
        "jpeg": files.encoded(".jpg"),
        "progressive": files.encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "png": files.encoded(".png"),
        "webp": files.encoded(".webp"),
        "lossless": files.encoded(".webp", None, cv2.IMWRITE_WEBP_QUALITY, 101),
        "turned": with_orientation(".webp", 6),
    }[name]
    for length in range(len(data)):
        with pytest.raises(BadImage):
            decode_image(data[:length], LIMITS)


@pytest.mark.parametrize("extension", FORMATS)
def test_bytes_after_the_end_do_no_harm(extension: str) -> None:
    data = files.encoded(extension)
    plain = decode_image(data, LIMITS).pixels_bgr
    np.testing.assert_array_equal(decode_image(data + bytes(999), LIMITS).pixels_bgr, plain)


@pytest.mark.parametrize("extension", FORMATS)
def test_corrupt_bytes_give_a_picture_or_a_posegate_error(extension: str) -> None:
    random = np.random.default_rng(3)
    data = with_orientation(extension, 3)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), random.integers(1, 8)):
            damaged[place] = random.integers(256)
        try:
            decode_image(bytes(damaged), LIMITS)
        except PosegateError:
            refused += 1
    assert 0 < refused < 300


def test_wrong_checksum_in_a_png_is_named() -> None:
    data = bytearray(files.encoded(".png"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(BadImage, match="checksum in its IDAT chunk"):
        decode_image(bytes(data), LIMITS)


TEXT = files.png_chunk(b"tEXt", b"Software\0made")


# libpng would write a line about each, to the service's log
@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([files.png_chunk(b"tRNS", b"")] * 16_000, "more than 256 chunks"),
        ([files.png_chunk(b"tRNS", b"")] * 2, "tRNS chunks in more than one place"),
        ([files.png_chunk(b"gAMA", b""), TEXT] * 2, "gAMA chunks in more than one place"),
        ([TEXT] * 254, "more than 256 chunks"),
        ([files.png_chunk(b"IDAT", b""), TEXT], "IDAT chunks in more than one place"),
    ],
)
def test_png_of_chunks_made_to_fill_the_log_is_refused(chunks: list[bytes], words: str) -> None:
    with pytest.raises(BadImage, match=words):
        decode_image(files.png_after_header(files.encoded(".png"), *chunks), LIMITS)


def test_opencv_does_not_warn_in_the_log_of_a_service() -> None:
    program = (
        "import contextlib, sys\n"
        "from posegate.errors import BadImage\n"
        "from posegate.image import ImageLimits, decode_image\n"
        "from posegate.logs import configure_logs\n"
        "configure_logs('debug')\n"
        "with contextlib.suppress(BadImage):\n"
        "    decode_image(sys.stdin.buffer.read(), ImageLimits())\n"
    )
    large = files.png_chunk(b"eXIf", bytes(9_000_000))  # libpng in OpenCV takes 8 million bytes
    data = files.png_after_header(files.encoded(".png"), large)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, input=data, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize(
    "chunks",
    [
        [TEXT] * 253,  # with IHDR, the pixels and IEND 256
        [files.png_chunk(b"IDAT", b"")] * 1000,
        [files.png_chunk(b"acTL", (1).to_bytes(4, "big") + bytes(4))],
    ],
)
def test_png_of_many_chunks_is_a_picture(chunks: list[bytes]) -> None:
    data = files.png_after_header(files.encoded(".png"), *chunks)
    assert decode_image(data, LIMITS).width == 32


@pytest.mark.parametrize("head", [b"zTXtKey\0\0", b"iTXtKey\0\1\0\0\0"])
def test_compressed_texts_of_a_png_are_not_inflated(head: bytes) -> None:
    text = files.png_chunk(head[:4], head[4:] + zlib.compress(b"a" * 7_900_000, 9))
    plain = files.encoded(".png")
    data = files.png_after_header(plain, *[text] * 40)[:-12] + text * 40 + plain[-12:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    picture = decode_image(data, LIMITS)
    assert time.thread_time() - start < 0.25
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_240  # kB
    assert np.array_equal(picture.pixels_bgr, files.gradient())


@pytest.mark.parametrize(("megabytes", "fits"), [(96, True), (160, False)])
def test_png_whose_pixels_inflate_without_end_is_refused(
    megabytes: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "MAX_PNG_EXCESS", 2**27)
    deflater, zeros = zlib.compressobj(9), bytes(2**24)
    begin, more = (deflater.compress(zeros) + deflater.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    checksum = struct.pack(">HH", megabytes * 2**20 % 65_521, 1)  # Adler's of zeros
    pixels = begin + more * (megabytes // 16 - 1) + deflater.flush()[:-4] + checksum
    data = files.png(64, 64, 8, 2, b"")[:33] + files.png_chunk(b"IDAT", pixels)
    data += files.png_chunk(b"IEND", b"")
    refused = pytest.raises(BadImage, match="inflates to far more bytes")
    with contextlib.nullcontext() if fits else refused:
        assert decode_image(data, LIMITS).width == 64


def test_animation_of_many_frames_is_told_from_too_many_chunks() -> None:
    control = files.png_chunk(b"acTL", (300).to_bytes(4, "big") + bytes(4))
    frames = [files.png_chunk(b"fdAT", bytes(4))] * 300
    with pytest.raises(BadImage, match="animation of 300 frames"):
        decode_image(files.png_after_header(files.encoded(".png"), control, *frames), LIMITS)


def test_animations_beyond_one_frame_are_refused() -> None:
    control = files.png_chunk(b"acTL", (2).to_bytes(4, "big") + bytes(4))
    for data in (
        files.animated_webp(3),
        files.png_after_header(files.encoded(".png"), control),
    ):
        with pytest.raises(BadImage, match=r"animation of \d frames; one frame is allowed"):
            decode_image(data, LIMITS)


def test_animation_of_one_frame_is_a_picture() -> None:
    assert decode_image(files.animated_webp(1), LIMITS).width == 32


def test_animation_of_no_frame_counts_as_a_picture_that_is_damaged() -> None:
    control = files.png_chunk(b"acTL", bytes(8))
    data = files.png_after_header(files.encoded(".png"), control)
    assert read_header(data, LIMITS).frames == 1
    with pytest.raises(BadImage, match="damaged"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        files.png(0, 5, 8, 2, b"\0"),
        files.png(5, 0, 8, 2, b"\0"),
        files.encoded(".jpg").replace(b"\x08\x00\x18\x00\x20", b"\x08\x00\x00\x00\x20", 1),
    ],
)
def test_picture_without_pixels_is_a_bad_image(data: bytes) -> None:
    with pytest.raises(BadImage, match="both must be at least 1"):
        decode_image(data, LIMITS)


def test_limits_are_named_in_the_error() -> None:
    data = files.encoded(".png")
    with pytest.raises(TooLarge, match=f"{len(data)} bytes; at most 100 are allowed"):
        read_header(data, ImageLimits(max_bytes=100))
    with pytest.raises(TooLarge, match=r"32 x 24 = 768 pixels; at most 767 are allowed"):
        read_header(data, ImageLimits(max_pixels=767))
    assert read_header(data, ImageLimits(max_bytes=len(data), max_pixels=768)).width == 32


def test_png_bomb_is_refused_from_its_header() -> None:
    bomb = files.png_bomb()
    assert len(bomb) < 10**6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    with pytest.raises(TooLarge):
        decode_image(bomb, LIMITS)
    assert time.thread_time() - start < 0.05
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024  # kB


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\0\2" * 5_000_000,  # five million empty segments
        b"\xff\xd8" + b"\xff" * 20_000_000,  # padding without end
        files.png_after_header(files.encoded(".png"), files.png_chunk(b"teXt", b"") * 1_000_000),
        files.webp(files.webp_extended(9, 9, 0), files.webp_chunk(b"junk", b"") * 2_000_000),
    ],
    ids=["jpeg segments", "jpeg padding", "png chunks", "webp chunks"],
)
def test_file_made_to_waste_time_is_refused_quickly(data: bytes) -> None:
    start = time.thread_time()
    with pytest.raises(BadImage):
        decode_image(data, LIMITS)
    assert time.thread_time() - start < 0.25


@pytest.mark.parametrize(("gaps", "whole"), [(8, True), (20, False)])
def test_padding_between_jpeg_segments_is_bounded_in_all(gaps: int, whole: bool) -> None:
    padded = b"\xff\xd8" + (b"\xff" * 1000 + b"\xff\xe2\0\2") * gaps + files.encoded(".jpg")[2:]
    with contextlib.nullcontext() if whole else pytest.raises(BadImage):
        assert decode_image(padded, LIMITS).width == 32


def test_jpeg_with_endless_scans_is_refused() -> None:
    data = files.encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode_image(data[:-2] + scan * 200 + data[-2:], LIMITS)


@pytest.mark.parametrize(("scans", "fits"), [(20, True), (21, False)])
def test_jpeg_of_many_pixels_may_have_few_scans(scans: int, fits: bool) -> None:
    data = files.encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    data = data.replace(b"\x08\x00\x18\x00\x20", b"\x08\x1b\x58\x1b\x58", 1)  # 7000 x 7000
    scan = data[data.rindex(b"\xff\xda") : -2]
    data = data[:-2] + scan * (scans - data.count(b"\xff\xda")) + data[-2:]
    refused = pytest.raises(BadImage, match="more than 20 scans, the most for 7000 x 7000 pixels")
    with contextlib.nullcontext() if fits else refused:
        check_integrity(data, read_header(data, LIMITS))
