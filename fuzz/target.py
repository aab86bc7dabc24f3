"""A fuzz target for everything that reads a stranger's bytes; atheris calls it with made-up ones.

    python fuzz/target.py [CORPUS] -max_total_time=300

The first byte picks the reader. An error of `posegate.errors` is a right answer; whatever else is
raised, a picture of another size than its header says, or a slow input, is a finding.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["posegate"]):
    from posegate.api.messages import read_options, read_stream_request
    from posegate.api.options import parse_stream_query
    from posegate.errors import PosegateError
    from posegate.image import ImageLimits, decode_image, read_header
    from posegate.options import EstimateOptions

from google.protobuf.message import DecodeError
from seeds import write_seeds

from posegate.api.pb import pose_pb2 as pb

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=250_000)


def header(data: bytes) -> None:
    found = read_header(data, LIMITS)
    assert 0 < found.width * found.height <= LIMITS.max_pixels
    assert 1 <= found.orientation <= 8
    assert found.frames == 1


def picture(data: bytes) -> None:
    image = decode_image(data, LIMITS)
    found = read_header(data, LIMITS)
    assert {image.width, image.height} == {found.width, found.height}


def estimate_request(data: bytes) -> None:
    options = read_options(pb.EstimateRequest.FromString(data).options)
    assert isinstance(options, EstimateOptions)


def stream_request(data: bytes) -> None:
    read_stream_request(pb.StreamRequest.FromString(data))


def stream_query(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    parse_stream_query(text).to_stream_options()


READERS: tuple[Callable[[bytes], None], ...] = (
    header,
    picture,
    estimate_request,
    stream_request,
    stream_query,
)


def read(data: bytes) -> None:
    """One made-up input."""
    if not data:
        return
    try:
        READERS[data[0] % len(READERS)](data[1:])
    except (PosegateError, DecodeError):
        return


def main() -> None:
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders:
        write_seeds(Path(folders[0]), readers=len(READERS))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
