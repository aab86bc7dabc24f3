"""Frames of a video file or a camera, and a video file of drawn frames."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from posegate.errors import BadOption
from posegate.types import U8, Image

DEFAULT_FPS = 30.0
JPEG_QUALITY = 92
SUFFIX = ".mp4"
PROBE_WH = (64, 48)
_WHOLE = 0.9
"""Share of the told frames from which on a file counts as read to its end."""
CLOSE_S = 1.0
"""How long a source that is being read is waited for; a camera that hangs is left to itself."""


class VideoSource:
    """A video file, the camera of that number or device, or what is at an address (rtsp://, http://).

    What is at an address and has an end is a file. Frames come as JPEG, as they are sent.
    """

    def __init__(self, source: str) -> None:
        is_address = "://" in source
        is_device = source.isdecimal() or Path(source).is_char_device()
        self._reading = Lock()  # a program that ends amid OpenCV's work crashes or hangs
        self._closed = False
        self._capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        if not self._capture.isOpened():
            kind = "camera" if is_device or is_address else "video"
            raise BadOption(
                f"{kind} {source} cannot be opened; give a video file, a camera's number or address"
            )
        has_end = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        self.is_camera = is_device or (is_address and not has_end)
        self._source = source
        self._told = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._count = 0
        self._ended = False
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS

    def frames(self) -> Iterator[bytes]:
        """Every frame until the end, which a camera has not, or until the source is closed."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        while True:
            with self._reading:
                if self._closed:
                    return
                there, pixels = self._capture.read()
                if not there:
                    self._ended = True
                    return
                self._count += 1
                _, data = cv2.imencode(".jpg", pixels, quality)
            yield data.tobytes()

    def check(self) -> None:
        """Raises BadOption where the frames ended that should not have.

        A camera's never should. A file's should come to at least nine tenths of the number in its
        header, which is only rough in many files.
        """
        if self._ended and self.is_camera:
            raise BadOption(f"camera {self._source} went away after {self._count} frames")
        if self._ended and self._count < _WHOLE * self._told:
            raise BadOption(
                f"{self._source} ended after {self._count} of {self._told:.0f} frames; it is "
                "damaged or cut off"
            )

    def close(self) -> None:
        """Let the file or the camera go, also while another thread reads frames."""
        self._closed = True
        if self._reading.acquire(timeout=CLOSE_S):
            self._capture.release()
            self._reading.release()


class VideoFile:
    """An MP4 file being written; it takes the size of its first frame.

    Whether a video can be written there is tried at once, with another file beside it; the file
    itself stays as it is until the first frame comes. Raises BadOption where it cannot.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() != SUFFIX or path.is_dir():
            raise BadOption(f"cannot write a video to {path}; its name must end in {SUFFIX}")
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=SUFFIX) as probe:
                _open_writer(Path(probe.name), fps, PROBE_WH).release()
            if path.exists():
                path.open("ab").close()
        except OSError as error:
            raise BadOption(f"cannot write a video to {path}: {error.strerror}") from error
        self._path = path
        self._fps = fps
        self._count = 0
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: Image) -> None:
        """Append a frame."""
        if self._writer is None:
            self._writer = _open_writer(self._path, self._fps, (image.width, image.height))
        self._writer.write(image.pixels_bgr)
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """Raises BadOption where the finished file does not hold every frame."""
        if not self._count:
            return
        written = cv2.VideoCapture(str(self._path))
        held = written.get(cv2.CAP_PROP_FRAME_COUNT) if written.isOpened() else 0
        written.release()
        if held < self._count:
            raise BadOption(
                f"{self._path} holds {held:.0f} of {self._count} drawn frames; is the disk full?"
            )


def decode_frame(data: bytes) -> Image:
    """A frame that this module made."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    frame: U8 = np.asarray(pixels, np.uint8)
    return Image(frame)


def _open_writer(path: Path, fps: float, size_wh: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
    if not writer.isOpened():
        raise BadOption(
            f"cannot write {size_wh[0]} x {size_wh[1]} pixels as MPEG-4 to {path}; "
            "this OpenCV may lack the codec"
        )
    return writer
