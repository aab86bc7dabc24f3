"""First inputs for the fuzzer: pictures of every kind that is read, messages and options."""

import json
import sys
from itertools import product
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from image_files import (
    CMYK_JPEG,
    animated_webp,
    encoded,
    exif_block,
    gradient,
    jpeg_with_exif,
    png,
    png_after_header,
    png_chunk,
    webp_with_exif,
)
from posegate.api.pb import pose_pb2 as pb


def write_seeds(folder: Path, *, readers: int) -> None:
    """Write every seed for every reader: its first byte picks the reader."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [*pictures(), *messages(), *queries()]
    for reader, (number, seed) in product(range(readers), enumerate(seeds)):
        (folder / f"seed-{reader}-{number}").write_bytes(bytes([reader]) + seed)


def pictures() -> list[bytes]:
    small = gradient(9, 7)
    jpeg, webp = encoded(".jpg", small), encoded(".webp", small)
    plain = encoded(".png", small)
    return [
        jpeg,
        jpeg_with_exif(jpeg, exif_block(6)),
        jpeg_with_exif(jpeg, exif_block(8, ">")),
        CMYK_JPEG,
        plain,
        png(2, 2, 8, 2, (b"\0" + bytes(6)) * 2),
        png_after_header(plain, png_chunk(b"eXIf", exif_block(3))),
        png_after_header(plain, png_chunk(b"acTL", b"\0\0\0\2\0\0\0\0")),
        webp,
        webp_with_exif(webp, 9, 7, exif_block(5)),
        animated_webp(2, 9, 7),
    ]


def messages() -> list[bytes]:
    boxes = pb.Boxes(boxes=[pb.Box(x=1, y=2, width=30, height=40.5)])
    options = pb.EstimateOptions(
        model="m",
        min_score=0.5,
        max_people=3,
        boxes=boxes,
        flip_test=True,
        decode=pb.DECODE_QUARTER,
    )
    stream = pb.StreamOptions(estimate=options, mode=pb.STREAM_MODE_EVERY, track=True)
    made = [
        pb.EstimateRequest(image=b"picture", options=options),
        pb.StreamRequest(options=stream),
        pb.StreamRequest(frame=b"picture"),
    ]
    return [message.SerializeToString() for message in made]


def queries() -> list[bytes]:
    made = [
        {"mode": "every", "track": True, "boxes": [[1, 2, 30, 40.5]]},
        {"min_score": 0.5, "decode": "dark", "format": "coco", "flip_test": True, "max_people": 3},
    ]
    return [json.dumps(query).encode() for query in made]
